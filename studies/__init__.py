"""What the docs report: per paper its runs, tables and pictures, and the results they came from."""
