"""Agents whose adaptation is a gradient step."""
