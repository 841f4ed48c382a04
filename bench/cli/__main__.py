"""`python -m bench.cli` is `augbench`."""

from bench.cli import main

if __name__ == "__main__":
    main()
