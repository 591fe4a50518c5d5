# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the trials of ``iommud reproduce``, from where they were left, and tell of them in docs/reproduce.md."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tests.guest.boot import Outcome, boot_twice
from tests.guest.judge import Result, judge
from tests.guest.reproduced import TRIALS, Outcomes, Trial, cell_of, outcome_of, plan_of
from tests.guest.supplies import Supplies

PAGE = Path(__file__).parent.parent.parent / "docs" / "reproduce.md"
BEGIN, END = "<!-- trials -->\n", "<!-- end of trials -->\n"
HEAD = """\
| capture | captured kernel | booted | IOMMU | functions | not as captured | groups |
|---|---|---|---|---|---|---|
"""
SHOWN_DIFFERENCES = 10
Say = Callable[[str], None]


def trials_named(names: Sequence[str]) -> list[Trial]:
    """The trials whose capture has one of the names; all without a name. Ends the program where there is none."""
    found = [one for one in TRIALS if not names or any(one.fixture.endswith(f"/{name}") for name in names)]
    missing = [name for name in names if not any(one.fixture.endswith(f"/{name}") for one in found)]
    if missing:
        known = ", ".join(one.fixture.rpartition("/")[2] for one in TRIALS)
        raise SystemExit(f"{missing[0]} is none of {known}")
    return found


def run_trials(trials: Iterable[Trial], supplies: Supplies, keep: Path, say: Say) -> None:
    """Boot the trials one after the other; each result is written at once."""
    keep.mkdir(parents=True, exist_ok=True)
    for trial in trials:
        outcome = _run(trial, supplies, keep)
        _keep_result(keep, outcome)
        say(f"{trial.fixture}: {summary(outcome)}")
        for line in (*outcome.misplaced, *outcome.differences)[:SHOWN_DIFFERENCES]:
            say(f"  {line}")


def _run(trial: Trial, supplies: Supplies, keep: Path) -> Outcomes:
    plan = plan_of(trial)
    cell = cell_of(trial, plan)
    return outcome_of(trial, plan, judge(cell, boot_twice(cell, supplies), keep), keep)


def judge_kept(trials: Iterable[Trial], keep: Path) -> None:
    """Compare the captures of earlier boots once more, by the iommud of today. Nothing is booted."""
    for fixture, before in results(keep).items():
        for trial in (one for one in trials if one.fixture == fixture):
            plan = plan_of(trial)
            came = Outcome.DONE if before.equal is not None else Outcome.HANG
            name = cell_of(trial, plan).name
            booted = Result(
                cell=name, outcome=came, seconds=0, kernel=before.kernel, qemu=before.qemu, words=before.words
            )
            _keep_result(keep, outcome_of(trial, plan, booted, keep))


def _keep_result(keep: Path, outcome: Outcomes) -> None:
    with results_file(keep).open("a", encoding="utf-8") as file:
        file.write(outcome.encode() + "\n")


def results_file(keep: Path) -> Path:
    """Where results are kept between runs, one on each line; the last one of a capture counts."""
    return keep / "reproduce.jsonl"


def results(keep: Path) -> dict[str, Outcomes]:
    """The results so far by the name of the fixture. A line cut short by an interruption is passed over."""
    found: dict[str, Outcomes] = {}
    path = results_file(keep)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            outcome = Outcomes.decode(line)
            found[outcome.fixture] = outcome
    return found


def summary(outcome: Outcomes) -> str:
    """What came of a trial, in a few words."""
    if outcome.equal is None:
        return outcome.words
    if outcome.misplaced:
        return f"{len(outcome.misplaced)} functions are not where they were foretold"
    if not outcome.equal:
        return f"{len(outcome.differences)} differences"
    equal = f"{outcome.groups} equal" if outcome.groups else "none, as captured"
    without = "1 function" if outcome.ungrouped == 1 else f"{outcome.ungrouped} functions"
    return f"{equal}; {without} without in both" if outcome.ungrouped else equal


def table(trials: Iterable[Trial], found: Mapping[str, Outcomes]) -> str:
    """The results as a table in Markdown, and below it why groups are not equal where they are not."""
    known = [(trial, found[trial.fixture]) for trial in trials if trial.fixture in found]
    rows = "".join(_row(outcome) for _, outcome in known)
    told = [f"- `{_name(trial)}`: {trial.reason}\n" for trial, outcome in known if not outcome.equal and trial.reason]
    equal = sum(outcome.equal is True and not outcome.misplaced for _, outcome in known)
    verdict = f"{equal} of {len(known)} have the captured groups, each function where the command said it would be.\n"
    return HEAD + rows + "\n" + verdict + ("\n" + "".join(told) if told else "")


def _row(outcome: Outcomes) -> str:
    omissions = ", ".join(f"{kind} {count}" for kind, count in outcome.omissions.items()) or "-"
    booted = f"{outcome.kernel}, QEMU {outcome.qemu}"
    carried = f"{outcome.carried} of {outcome.functions}"
    name = outcome.fixture.rpartition("/")[2]
    cells = (f"`{name}`", outcome.captured_kernel, booted, outcome.iommu, carried, omissions, summary(outcome))
    return f"| {' | '.join(cells)} |\n"


def _name(trial: Trial) -> str:
    return trial.fixture.rpartition("/")[2]


def unexplained(trials: Iterable[Trial], found: Mapping[str, Outcomes]) -> list[str]:
    """Captures whose groups are not equal, or that gave no answer, and for which no reason is named."""
    pairs = [(trial, found.get(trial.fixture)) for trial in trials]
    return [_name(one) for one, came in pairs if came is not None and not came.equal and not one.reason]


def write_page(page: Path, found: Mapping[str, Outcomes]) -> None:
    """Put the table between its marks on the page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + table(TRIALS, found) + END + after, encoding="utf-8")


def left(trials: Iterable[Trial], found: Mapping[str, Outcomes]) -> list[Trial]:
    """The trials that have no result yet."""
    return [one for one in trials if one.fixture not in found]
