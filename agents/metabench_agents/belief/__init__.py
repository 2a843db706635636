"""Agents that carry a belief over the task, and the mechanisms they share."""
