"""`python -m labelgen` is the command line."""

from labelgen.cli.main import main

if __name__ == "__main__":
    main()
