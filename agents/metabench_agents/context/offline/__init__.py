"""Agents that learn from offline data to tell tasks apart by a context of transitions, and what they share."""
