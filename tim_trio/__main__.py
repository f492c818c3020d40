"""``python -m tim_trio``."""

import sys

if __name__ == "__main__":
    try:
        # Within, for Ctrl-C may come while modules still load.
        from tim_trio.cli import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)
