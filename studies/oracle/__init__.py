"""The trained oracle."""
