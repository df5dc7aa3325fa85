"""`python -m arbench`."""

from arbench.cli import main

if __name__ == "__main__":
    main()
