#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fleet of machines with iommud costs a Prometheus: measured with simulated targets on loopback.

    tools/fleet_bench.py [--machines 1000] [--seconds 120] [--interval 15]

A Prometheus of its own (tools/prometheus.sh) scrapes one server that answers for all machines, each under a path and
an instance label of its own, with expositions of the size that iommud gives. The figures go to standard output as
rows of the table in docs/fleet.md. It takes the seconds asked for and a few more, about two cores, and no network.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iommud.daemon.activity import BOUNDS, TRIGGERS
from iommud.daemon.uevents import ACTIONS
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What decides the number of series of a machine."""

    functions: int
    groups: int
    iommus: int
    functions_with_findings: int


GUEST = Machine(functions=16, groups=10, iommus=1, functions_with_findings=0)
HOST = Machine(functions=220, groups=110, iommus=8, functions_with_findings=0)
BROKEN = Machine(functions=24, groups=14, iommus=1, functions_with_findings=6)


def machine(number: int) -> Machine:
    """The machine of that number: of ten, eight are guests, one is a host, one has findings."""
    return {8: HOST, 9: BROKEN}.get(number % 10, GUEST)


def exposition(one: Machine, now: float, started: float) -> str:
    """What a daemon on such a machine exports at a moment, both in Unix seconds."""
    return "".join(_family(name, kind, samples) for name, kind, samples in _families(one, now, started))


Samples = list[tuple[str, float]]


def _family(name: str, kind: str, samples: Samples) -> str:
    lines = "".join(f"{name}{labels} {value!r}\n" for labels, value in samples)
    return f"# HELP {name} One line of help, as long as most of them are.\n# TYPE {name} {kind}\n{lines}"


def _families(one: Machine, now: float, started: float) -> Iterator[tuple[str, str, Samples]]:
    reconciled = started + (now - started) // 300 * 300
    yield from _facts(one)
    yield from _findings(one)
    yield "iommud_snapshot_timestamp_seconds", "gauge", [("", reconciled)]
    yield "iommud_stale_after_seconds", "gauge", [("", 900.0)]
    yield "iommud_start_time_seconds", "gauge", [("", started)]
    yield "iommud_snapshot_duration_seconds", "histogram", _histogram((reconciled - started) / 300 + 1)
    yield "iommud_snapshot_total", "counter", [(f'{{trigger="{name}"}}', 1.0) for name in TRIGGERS]
    for name in ("snapshot_errors", "snapshot_retaken", "monitor_overruns", "monitor_restarts", "state_write_errors"):
        yield f"iommud_{name}_total", "counter", [("", 0.0)]
    yield "iommud_uevents_total", "counter", [(f'{{action="{name}"}}', 3.0) for name in sorted({*ACTIONS, "other"})]
    yield "iommud_watch_source_up", "gauge", [(f'{{source="{name}"}}', 1.0) for name in ("uevents", "groups")]
    yield "iommud_accept_file_valid", "gauge", [("", 1.0)]
    yield "iommud_config_reads_total", "counter", [("", 40.0 * one.groups)]
    yield "process_start_time_seconds", "gauge", [("", started)]
    yield "process_resident_memory_bytes", "gauge", [("", 38_000_000.0 + int(now) % 7 * 4096)]
    yield "process_virtual_memory_bytes", "gauge", [("", 90_000_000.0)]
    yield "process_cpu_seconds_total", "counter", [("", round((now - started) * 0.001, 2))]
    yield "process_open_fds", "gauge", [("", 14.0)]
    yield "process_max_fds", "gauge", [("", 1024.0)]


def _facts(one: Machine) -> Iterator[tuple[str, str, Samples]]:
    iommus = [(f'{{iommu="dmar{number}",driver="intel"}}', 1.0) for number in range(one.iommus)]
    states = {"grouped": one.functions, "ungrouped": 0, "without": 0}
    yield "iommud_build_info", "gauge", [('{version="0.1.0",model="7.3"}', 1.0)]
    yield "iommud_source_up", "gauge", [("", 1.0)]
    verdict = Status.FINDINGS if one.functions_with_findings else Status.OK
    yield "iommud_check_status", "gauge", [(f'{{status="{status}"}}', float(status is verdict)) for status in Status]
    yield "iommud_iommu_info", "gauge", iommus
    yield "iommud_functions", "gauge", [(f'{{state="{state}"}}', float(count)) for state, count in states.items()]
    yield "iommud_groups", "gauge", [("", float(one.groups))]
    members = one.functions / one.groups
    names = (f"0000:{number // 8:02x}:{number % 8:02x}.0" for number in range(one.groups))
    yield "iommud_group_functions", "gauge", [(f'{{group="{name}"}}', float(round(members))) for name in names]
    yield "iommud_config_space_complete", "gauge", [("", 1.0)]


def _findings(one: Machine) -> Iterator[tuple[str, str, Samples]]:
    found = int(one.functions_with_findings > 0)
    counts = [
        (
            f'{{kind="{kind}",severity="{severity}"}}',
            float(found * ((kind, severity) == (Kind.ALIAS_SPLIT, Severity.CRITICAL))),
        )
        for kind, severity in itertools.product(Kind, Severity)
    ]
    begin = 'id="alias-split:0000:02:00.0:0badc0de",kind="alias-split",severity="critical",'
    begin += 'cause="probe-order",segment="0000",bus="02"'
    about = [(f'{{{begin},device="{number:02x}",function="0"}}', 1.0) for number in range(one.functions_with_findings)]
    yield "iommud_findings", "gauge", counts
    yield "iommud_findings_accepted", "gauge", [(labels, 0.0) for labels, _ in counts]
    yield "iommud_finding_info", "gauge", about
    yield "iommud_finding_info_omitted", "gauge", [("", 0.0)]


def _histogram(count: float) -> Samples:
    samples = [(f'_bucket{{le="{bucket}"}}', count) for bucket in (*BOUNDS, "+Inf")]
    return [*samples, ("_count", count), ("_sum", count * 0.03)]


def series(text: str) -> int:
    """Samples in an exposition."""
    return sum(not line.startswith("#") for line in text.splitlines())


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the scrapes of one connection: ``GET /<number of the machine>``."""
    started = time.time() - 86_400
    try:
        while request := await reader.readuntil(b"\r\n\r\n"):
            number = int(request.split(b" ", 2)[1].lstrip(b"/"))
            body = exposition(machine(number), time.time(), started + number).encode()
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configure(directory: Path, port: int, machines: int, interval: int) -> None:
    targets = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"__metrics_path__": f"/{number}", "instance": f"host{number:05}:9798"},
        }
        for number in range(machines)
    ]
    (directory / "targets.json").write_text(json.dumps(targets), encoding="utf-8")
    rules = Path(__file__).parent.parent / "monitoring" / "iommud.rules.yml"
    (directory / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {interval}s, evaluation_interval: {interval}s}}\n"
        f"rule_files: [{rules}]\n"
        "scrape_configs:\n"
        "  - {job_name: iommud, file_sd_configs: [{files: [targets.json]}]}\n",
        encoding="utf-8",
    )


def _own_metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:  # noqa: S310 - a URL on loopback, made below
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if one[:1] != "#")}


def _query(url: str, expression: str) -> float:
    address = f"{url}/api/v1/query?query={expression}"
    with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - a URL on loopback, made below
        found = json.load(answer)["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


async def _measure(directory: Path, options: argparse.Namespace) -> list[tuple[str, str]]:
    port, own_port = _free_port(), _free_port()
    _configure(directory, port, options.machines, options.interval)
    url = f"http://127.0.0.1:{own_port}"
    command = [
        f"{_programs()}/prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/tsdb",
        f"--web.listen-address=127.0.0.1:{own_port}",
        "--log.level=error",
    ]
    async with await asyncio.start_server(_answer, "127.0.0.1", port):
        prometheus = await asyncio.create_subprocess_exec(*command)
        try:
            await asyncio.sleep(2 * options.interval + 5)
            before = await asyncio.to_thread(_own_metrics, url)
            await asyncio.sleep(options.seconds)
            after = await asyncio.to_thread(_own_metrics, url)
            return await asyncio.to_thread(_figures, url, before, after, options)
        finally:
            prometheus.terminate()
            await prometheus.wait()


def _figures(
    url: str, before: dict[str, float], after: dict[str, float], options: argparse.Namespace
) -> list[tuple[str, str]]:
    texts = [exposition(machine(number), time.time(), 0.0) for number in range(options.machines)]
    samples = sum(map(series, texts))
    cpu = (after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) / options.seconds
    evaluation = max(
        value for name, value in after.items() if name.startswith("prometheus_rule_group_last_duration_seconds")
    )
    return [
        ("machines up", f"{_query(url, 'sum(up)'):.0f} of {options.machines}"),
        ("series per machine, mean (least to most)", f"{samples / len(texts):.0f} ({_range(map(series, texts))})"),
        (
            "bytes per scrape, mean (least to most)",
            f"{sum(map(len, texts)) / len(texts):.0f} ({_range(map(len, texts))})",
        ),
        ("series in the head", f"{after['prometheus_tsdb_head_series']:.0f}"),
        ("samples per second", f"{samples / options.interval:.0f}"),
        ("resident memory of Prometheus", f"{after['process_resident_memory_bytes'] / 1e6:.0f} MB"),
        ("CPU of Prometheus", f"{cpu * 100:.1f} % of a core"),
        ("longest scrape", f"{_query(url, 'max(scrape_duration_seconds)') * 1000:.0f} ms"),
        ("evaluation of the slower rule group", f"{evaluation * 1000:.0f} ms"),
    ]


def _range(numbers: Iterator[int] | map[int]) -> str:
    found = sorted(numbers)
    return f"{found[0]} to {found[-1]}"


def _programs() -> str:
    script = Path(__file__).with_name("prometheus.sh")
    return subprocess.run([script], check=True, capture_output=True, text=True).stdout.strip()


def _bytes_per_sample(directory: Path, interval: int, *, hours: int = 2, machines: int = 10) -> float:
    """Bytes on disk for each sample of a finished block, index included."""
    begin = 1_700_000_000 // 7200 * 7200
    times = range(begin, begin + hours * 3600, interval)
    families: dict[str, list[str]] = {}
    heads: dict[str, str] = {}
    for number in range(machines):
        for now in times:
            for name, kind, samples in _families(machine(number), now, begin - 86_400.0):
                plain = name.removesuffix("_total") if kind == "counter" else name
                heads[plain] = f"# TYPE {plain} {kind}\n"
                families.setdefault(plain, []).extend(
                    f"{name}{_labelled(labels, number)} {value!r} {now}\n" for labels, value in samples
                )
    text = directory / "block.om"
    with text.open("w", encoding="utf-8") as file:
        for plain, lines in families.items():
            file.write(heads[plain])
            file.writelines(lines)
        file.write("# EOF\n")
    command = [f"{_programs()}/promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), f"{directory}/blocks"]
    subprocess.run(command, check=True, capture_output=True)
    size = sum(path.stat().st_size for path in (directory / "blocks").rglob("*") if path.is_file())
    return size / sum(map(len, families.values()))


def _labelled(labels: str, number: int) -> str:
    """Labels of a sample with those that a scrape adds."""
    added = f'instance="host{number:05}:9798",job="iommud"'
    return re.sub(r"\{(.*)\}$", rf"{{\1,{added}}}", labels) if labels.endswith("}") else f"{labels}{{{added}}}"


def main() -> None:
    """Measure, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=120, help="how long to measure after two rounds of scrapes")
    parser.add_argument("--interval", type=int, default=15, help="seconds between two scrapes of a machine")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="iommud-fleet-"))
    try:
        rows = asyncio.run(_measure(directory, options))
        rows.append(("bytes on disk per sample", f"{_bytes_per_sample(directory, options.interval):.2f}"))
    finally:
        shutil.rmtree(directory)
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
