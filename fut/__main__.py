"""`python -m fut`: the command line."""

from fut.cli.app import main

if __name__ == "__main__":
    main()
