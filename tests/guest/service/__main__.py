# SPDX-License-Identifier: GPL-2.0-or-later
"""The service in a full guest, from the command line: ``python -m tests.guest.service --help``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.guest.debian import Unavailable, cache_directory
from tests.guest.service.page import page
from tests.guest.service.run import NAMES, SUITES, run_session
from tests.guest.service.session import decoded, encoded, renewed
from tests.guest.supplies import Supplies

KEEP = cache_directory() / "results"
PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "guest-service.md"


def main(arguments: Sequence[str]) -> int:
    """Check the service in one suite; 0 when all checks hold, 1 when one fails, 3 if there is no guest to be had."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        failed = [] if options.page else _session(options.suite, options.only, anew=not options.keep_disk)
    except Unavailable as error:
        _say(f"no guest: {error}")
        return 3
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    if not failed:
        _write_page()
    return bool(failed)


def _session(suite: str, only: Sequence[str], *, anew: bool) -> list[str]:
    """Run the checks, keep what was seen, and give the names of those that failed."""
    results, figures = run_session(Supplies(cache_directory()), suite, KEEP / f"service-{suite}", _say, only, anew=anew)
    failed = [one.name for one in results if not one.ok]
    _say(f"{len(results)} checks, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    kept = KEEP / f"service-{suite}.json"
    if only and kept.exists():
        results, figures = renewed(decoded(kept.read_text(encoding="utf-8")), (results, figures))
    kept.write_text(encoded(results, figures), encoding="utf-8")
    return failed


def _write_page() -> None:
    known = {suite: KEEP / f"service-{suite}.json" for suite in SUITES}
    texts = {suite: path.read_text(encoding="utf-8") for suite, path in known.items() if path.exists()}
    PAGE.write_text(page({suite: decoded(text) for suite, text in texts.items()}), encoding="utf-8")
    _say(f"wrote {PAGE}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.guest.service", description="Check the service in a Debian guest with systemd."
    )
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0], help="Debian's release in the guest")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help=f"checks with this in their name: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--keep-disk", action="store_true", help="take the disk of the last run, whatever has changed in iommud since"
    )
    parser.add_argument("--page", action="store_true", help="boot nothing: write the page from what is kept")
    return parser


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
