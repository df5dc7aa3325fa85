"""`python -m arbench`."""

from arbench.start import main

if __name__ == "__main__":
    main()
