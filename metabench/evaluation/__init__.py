"""Playing agents under one protocol, and what is recorded, counted and said of it."""
