"""Reference agents for metabench: one file per algorithm over a few shared mechanisms."""
