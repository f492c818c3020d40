"""``python -m tim_trio``."""

from tim_trio.cli import main

if __name__ == "__main__":
    main()
