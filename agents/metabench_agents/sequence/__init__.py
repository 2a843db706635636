"""Agents that model trials as sequences, and the mechanisms they share."""
