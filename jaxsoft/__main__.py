"""``python -m jaxsoft`` is the command line."""

import sys

from jaxsoft.cli import main

if __name__ == "__main__":
    sys.exit(main())
