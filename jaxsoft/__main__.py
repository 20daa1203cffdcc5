"""``python -m jaxsoft``, and the ``jaxsoft`` command: listens to signals before anything slow is imported."""

import sys

from jaxsoft.signals import exit_on_signal


def main() -> int:
    """Run the command line; returns the exit code: 0, 2 for a mistake, 130/143 after SIGINT/SIGTERM."""
    exit_on_signal()
    from jaxsoft import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
