"""MetaDreamer and PEARL: real steps to a level."""
