"""Meta-World 3.1.1: its classes as a table, its models and resets, its rewards compiled, B slots stepped together."""
