"""Where the `arbench` command begins. Nothing is imported before Ctrl-C is ours but by Python itself."""

import sys


def main() -> None:
    """Entry point of the `arbench` command; one line and exit code 130 for Ctrl-C while modules are imported."""
    try:
        from arbench.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("arbench: interrupted; nothing half-written was left behind\n")
        sys.exit(130)
