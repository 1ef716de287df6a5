"""The command line, `stforecast` or `python -m stforecast`: apart, so that Ctrl-C is answered while all else loads."""

import signal
import sys


def main() -> None:
    """Run the command line, see `stforecast.cli.main`."""
    try:
        from stforecast.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("stforecast: interrupted [INTERRUPTED]\n")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
