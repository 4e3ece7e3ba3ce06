"""`python -m orthus_cli` is `orthus`."""

from orthus_cli.app import main

if __name__ == "__main__":
    main()
