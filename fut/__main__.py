"""`python -m fut`: the command line."""

from fut.cli.entry import main

if __name__ == "__main__":
    main()
