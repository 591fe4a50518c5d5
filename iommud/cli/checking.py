# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud check``: one answer for each source, in the order given, several at once in processes of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from iommud.address import Address
from iommud.api import check_sysfs
from iommud.cli.options import CheckFormat
from iommud.cli.output import Output, Progress
from iommud.errors import SourceError
from iommud.kernel import Kernel, requested
from iommud.verdict.findings import Kind
from iommud.verdict.report import EXIT_UNREADABLE, FailOn, Failure, Report, Result, overall_exit_status

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing.context import BaseContext

    from iommud.names import Names
    from iommud.render.style import Style
    from iommud.verdict.expectation import Expectation

_WORTH_A_PROCESS = 4
"""Fewer sources than this are faster checked one after the other than processes are started."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which findings count."""

    only: tuple[Kind, ...]
    ignored: tuple[tuple[Kind, Address | None], ...]
    fail_on: FailOn


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """The command line of ``check``, understood."""

    sysfs: str
    procfs: str
    kernel: str | None
    format: CheckFormat
    selection: Selection
    require_iommu: bool
    expectation: Expectation | None = None
    wake: bool
    verbose: bool
    quiet: bool
    style: Style
    output: str | None
    jobs: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one source gave: its exit status, and the rendered text or, for formats that join sources, the result."""

    exit_status: int
    text: str
    result: Result | None


def selection(only: list[str], ignore: list[str], fail_on: str) -> Selection:
    """Understand ``--only``, ``--ignore`` and ``--fail-on``. Raises typer.BadParameter for unknown words."""
    if fail_on not in set(FailOn):
        raise typer.BadParameter(f"{fail_on!r} is none of {', '.join(FailOn)}", param_hint="--fail-on")
    ignored = tuple(_ignored(text) for text in ignore)
    return Selection(tuple(_kind(text, "--only") for text in only), ignored, FailOn(fail_on))


def _kind(text: str, option: str) -> Kind:
    if text not in set(Kind):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(Kind)}", param_hint=option)
    return Kind(text)


def _ignored(text: str) -> tuple[Kind, Address | None]:
    kind, equals, address = text.partition("=")
    try:
        return _kind(kind, "--ignore"), Address.parse(address) if equals else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ignore") from error


def kernel_requested(text: str | None) -> Kernel | None:
    """The kernel named with ``--kernel``; of one that cannot be read the report says so."""
    return None if text is None else requested(text)


def run_check(sources: list[str], options: CheckOptions) -> int:
    """Check every source, print the answers in order, and give the exit status.

    Raises typer.BadParameter for a page about several machines, before any is read.
    """
    kernel_requested(options.kernel)
    if options.format is CheckFormat.HTML and len(sources) > 1:
        raise typer.BadParameter("html is a page about one machine: name one source", param_hint="--format")
    outcomes: list[Outcome] = []
    with Output(options.output) as output:
        for outcome in _outcomes(list(sources) or [None], options):
            _print_one(outcome, options, output, first=not outcomes)
            outcomes.append(outcome)
        if options.format is CheckFormat.PROMETHEUS:
            from iommud.render.prometheus import render_prometheus

            output.write(render_prometheus([one.result for one in outcomes if one.result is not None]))
    return overall_exit_status(one.exit_status for one in outcomes)


def _print_one(outcome: Outcome, options: CheckOptions, output: Output, *, first: bool) -> None:
    if isinstance(outcome.result, Failure) and options.format is not CheckFormat.JSON:
        output.flush()
        print(f"iommud: {outcome.result.error}", file=sys.stderr)
    if outcome.text:
        separated = not first and options.format in (CheckFormat.TEXT, CheckFormat.MARKDOWN)
        output.write(("\n" if separated else "") + outcome.text)


def _outcomes(sources: list[str | None], options: CheckOptions) -> Iterator[Outcome]:
    jobs = min(options.jobs or len(os.sched_getaffinity(0)), len(sources))
    several = len(sources) > 1
    progress = Progress("checking", quiet=options.quiet)
    found: Iterator[Outcome]
    if jobs == 1 or len(sources) < _WORTH_A_PROCESS:
        found = (evaluate(source, options, several=several) for source in sources)
    else:
        found = _in_processes(sources, options, jobs)
    for done, outcome in enumerate(found, 1):
        progress.done()
        yield outcome
        progress.step(done, len(sources))
    progress.done()


def _in_processes(sources: list[str | None], options: CheckOptions, jobs: int) -> Iterator[Outcome]:
    """Results in the order of the sources; standard input can be read by this process only."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(jobs, mp_context=_deaf_to_interrupts()) as pool:
        try:
            for source, future in zip(sources, _submitted(pool, sources, options), strict=True):
                yield evaluate(source, options, several=True) if future is None else _awaited(source, future, options)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _deaf_to_interrupts() -> BaseContext:
    """Processes that leave Ctrl-C to this one: they inherit that it is ignored, so none dies with a traceback."""
    import signal
    from multiprocessing import forkserver, get_context

    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    return context


def _submitted(
    pool: ProcessPoolExecutor, sources: list[str | None], options: CheckOptions
) -> list[Future[Outcome] | None]:
    """The work in the order of the sources, None for standard input; Ctrl-C waits until all processes stand."""
    import signal

    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return [None if one == "-" else pool.submit(evaluate, one, options, several=True) for one in sources]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _awaited(source: str | None, future: Future[Outcome], options: CheckOptions) -> Outcome:
    """The result of a process; if that died, for lack of memory perhaps, the source is to blame, not the rest."""
    from concurrent.futures.process import BrokenProcessPool

    try:
        return future.result()
    except BrokenProcessPool:
        return evaluate(source, options, several=True)


def evaluate(source: str | None, options: CheckOptions, *, several: bool) -> Outcome:
    """Check one source and render its answer."""
    result = _result(source, options)
    if isinstance(result, Failure):
        return Outcome(EXIT_UNREADABLE, _failure_text(result, options), result)
    status = result.exit_status(options.selection.fail_on, require_iommu=options.require_iommu)
    text = _rendered(result, options, several=several)
    kept = replace(result, analysis=None) if options.format is CheckFormat.PROMETHEUS else None
    return Outcome(status, text, kept)


def _result(source: str | None, options: CheckOptions) -> Result:
    kernel = kernel_requested(options.kernel)
    try:
        report = check_sysfs(source, sysfs=options.sysfs, procfs=options.procfs, kernel=kernel, wake=options.wake)
    except SourceError as error:
        return Failure(source or "this machine", str(error))
    if options.expectation is not None:
        from iommud.verdict.expectation import with_deviations

        report = with_deviations(report, options.expectation)
    return report.filtered(options.selection.only, options.selection.ignored)


def _failure_text(failure: Failure, options: CheckOptions) -> str:
    if options.format is CheckFormat.HTML:
        return _page(failure)
    if options.format is not CheckFormat.JSON:
        return ""
    from iommud.render.json import render_json

    return render_json(failure) + "\n"


def _rendered(report: Report, options: CheckOptions, *, several: bool) -> str:
    if options.format is CheckFormat.JSON:
        from iommud.render.json import render_json

        return render_json(report) + "\n"
    if options.format is CheckFormat.MARKDOWN:
        from iommud.render.markdown import render_markdown

        return render_markdown(report, names=names_for([report]))
    if options.format is CheckFormat.HTML:
        return _page(report)
    if options.format is CheckFormat.PROMETHEUS:
        return ""
    return _text(report, options, several=several)


def _page(result: Result) -> str:
    from iommud.render.page import PageOptions, render_page

    names = names_for([result]) if isinstance(result, Report) else None
    return render_page(result, names=names, options=PageOptions(alone=True))


def _text(report: Report, options: CheckOptions, *, several: bool) -> str:
    from iommud.render.text import render_text

    if options.quiet and not report.findings:
        return ""
    return render_text(
        report,
        style=options.style,
        names=names_for([report]),
        verbose=options.verbose,
        show_source=several,
    )


def names_for(reports: list[Report]) -> Names | None:
    """Names of the functions that reports speak of, where this system has pci.ids."""
    from iommud.names import Names
    from iommud.render.view import wanted_names

    return Names.load(wanted_names(reports))
