"""Beliefs of whole trials: the world model that reads them, and what its z tells."""
