"""Trained oracles, their weights, and the behaviours made of them."""
