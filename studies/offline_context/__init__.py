"""Offline agents that tell tasks by a context of transitions: what they reach with whose context, and what z tells."""
