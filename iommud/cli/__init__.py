# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: verbs, options, exit statuses. ``main`` is the entry point."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from sys import UnraisableHookArgs

EXIT_USAGE = 2
EXIT_TROUBLE = 4
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141

_COLLECT_AFTER = 300_000
"""Objects made before the garbage collector looks for circles, of which the facts of a machine have none.

The interpreter's own 700 cost a tenth of the check of 10,000 functions; the daemon still has its memory collected.
"""

_AGAIN_AFTER = 0.01
"""Seconds after which an interrupt that was lost comes again."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: expected trouble is one line on standard error, never a traceback."""
    gc.set_threshold(_COLLECT_AFTER)
    _occupy_streams()
    _heed_interrupts()
    status = 0
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough; nothing more may be written when the interpreter closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_CLOSED_PIPE
    except OSError as error:
        # After other trouble it is most likely the same once more.
        status = status if status == EXIT_TROUBLE else _complain(f"cannot write the answer: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    gc.freeze()  # the collection at the end would look at every object once more, to no end
    sys.exit(status)


def _occupy_streams() -> None:
    """Make a stream that the caller closed the null device, before some file gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - as low as a descriptor, for good


def _heed_interrupts() -> None:
    """Let no Ctrl-C be lost that comes while the interpreter runs a callback which nothing can leave.

    The import system has such callbacks (``_get_module_lock()``, importlib/_bootstrap.py), and verbs import late.
    """
    earlier = sys.unraisablehook
    if not isinstance(earlier, _Heeding):
        sys.unraisablehook = _Heeding(earlier)


class _Heeding:
    """Has a lost interrupt come again, and leaves all else to the earlier hook."""

    def __init__(self, earlier: Callable[[UnraisableHookArgs], object]) -> None:
        self._earlier = earlier

    def __call__(self, found: UnraisableHookArgs) -> None:
        if found.exc_type is not KeyboardInterrupt:
            self._earlier(found)
            return
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER)


def _run(arguments: list[str] | None) -> int:
    from typer import Abort
    from typer.main import get_command

    from iommud.cli.daemon_verbs import app
    from iommud.errors import IommudError

    try:
        outcome = get_command(app).main(args=arguments, prog_name="iommud", standalone_mode=False)
    except IommudError as error:
        return _complain(str(error))
    except SystemExit as left:
        # That is how typer ends where nobody reads any more; main() has its own way.
        if isinstance(left.__context__, BrokenPipeError):
            raise left.__context__ from None
        raise
    except Abort:
        return EXIT_INTERRUPTED
    except Exception as error:
        # Usage errors carry their status; their classes moved between versions of typer.
        if not hasattr(error, "exit_code"):
            raise
        return _usage_error(error)
    return outcome if isinstance(outcome, int) else 0


def _usage_error(error: Any) -> int:
    error.show()
    return int(error.exit_code)


def _complain(text: str) -> int:
    print(f"iommud: {text}", file=sys.stderr)
    return EXIT_TROUBLE
