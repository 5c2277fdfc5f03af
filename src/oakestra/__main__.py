"""`python -m oakestra` is `oak`."""

from oakestra.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
