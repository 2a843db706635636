"""MAML: runs, tables and the curve of its learning."""
