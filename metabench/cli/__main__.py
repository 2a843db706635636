"""`python -m metabench.cli` is `metabench`."""

from metabench.cli.main import main

if __name__ == "__main__":
    main()
