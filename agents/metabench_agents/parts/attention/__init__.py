"""Attention over the ticks of a trial."""
