"""Agents that guess the task from a context of transitions, and the mechanisms they share."""
