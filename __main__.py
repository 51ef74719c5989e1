"""`python -m josie`: the command line, see `cli.app`."""

from .cli.app import main

if __name__ == "__main__":
    main()
