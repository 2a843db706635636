"""`python -m metabench.cli` is `metabench`."""

from metabench.cli.main import main

main()
