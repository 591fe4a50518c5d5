# SPDX-License-Identifier: GPL-2.0-or-later
"""The metrics of the daemon: the families it adds to those of a single check, and what bounds their number."""

from __future__ import annotations

from iommud.render.prometheus import ADDRESS_LABELS, METRICS, Metric, Type

FINDINGS_ACCEPTED = Metric(
    "iommud_findings_accepted",
    Type.GAUGE,
    "Findings that are accepted and so not counted in iommud_findings, by kind and severity.",
    ("kind", "severity"),
)
FUNCTION_GROUP = Metric(
    "iommud_function_group",
    Type.GAUGE,
    "The group of each PCI function, named by its lowest member; always 1. Only with --metrics.function-groups.",
    (*ADDRESS_LABELS, "group"),
)
SNAPSHOT_TIMESTAMP = Metric(
    "iommud_snapshot_timestamp_seconds", Type.GAUGE, "When the machine was last read, in Unix seconds."
)
STALE_AFTER = Metric(
    "iommud_stale_after_seconds",
    Type.GAUGE,
    "Age from which a report counts as stale: it follows how often the machine is looked at.",
)
SNAPSHOT_DURATION = Metric(
    "iommud_snapshot_duration_seconds", Type.HISTOGRAM, "Time taken to read and judge the machine.", ("le",)
)
SNAPSHOTS = Metric(
    "iommud_snapshot_total",
    Type.COUNTER,
    "Snapshots by what asked for them; one that several things asked for counts for each.",
    ("trigger",),
)
SNAPSHOT_ERRORS = Metric("iommud_snapshot_errors_total", Type.COUNTER, "Attempts to read the machine that failed.")
SNAPSHOTS_RETAKEN = Metric(
    "iommud_snapshot_retaken_total", Type.COUNTER, "Snapshots taken again since the machine changed meanwhile."
)
UEVENTS = Metric("iommud_uevents_total", Type.COUNTER, "Events of PCI functions, by what happened.", ("action",))
MONITOR_OVERRUNS = Metric(
    "iommud_monitor_overruns_total", Type.COUNTER, "Times that the kernel dropped events for want of space."
)
MONITOR_RESTARTS = Metric(
    "iommud_monitor_restarts_total", Type.COUNTER, "Times that the uevent monitor failed and was replaced."
)
WATCH_SOURCE_UP = Metric(
    "iommud_watch_source_up",
    Type.GAUGE,
    "Whether a source of changes is watched; one that is switched off has no series.",
    ("source",),
)
STATE_WRITE_ERRORS = Metric(
    "iommud_state_write_errors_total", Type.COUNTER, "Writes to the runtime or state directory that failed."
)
ACCEPT_FILE_VALID = Metric(
    "iommud_accept_file_valid",
    Type.GAUGE,
    "Whether the file of accepted findings was usable when last read; if not, the entries read before hold.",
)
START_TIME = Metric(
    "iommud_start_time_seconds", Type.GAUGE, "When the process that reads the machine started, in Unix seconds."
)
PROCESS = (
    Metric("process_cpu_seconds_total", Type.COUNTER, "CPU time used by the process that answers, in seconds."),
    Metric("process_max_fds", Type.GAUGE, "Open files that this process may have."),
    Metric("process_open_fds", Type.GAUGE, "Open files of this process."),
    Metric("process_resident_memory_bytes", Type.GAUGE, "Resident memory of this process."),
    Metric("process_start_time_seconds", Type.GAUGE, "When this process started, in Unix seconds."),
    Metric("process_virtual_memory_bytes", Type.GAUGE, "Virtual memory of this process."),
)
CPU_SECONDS, MAX_FDS, OPEN_FDS, RESIDENT_MEMORY, PROCESS_START, VIRTUAL_MEMORY = PROCESS

ABOUT_THE_MACHINE = (*METRICS, FINDINGS_ACCEPTED, FUNCTION_GROUP, SNAPSHOT_TIMESTAMP, STALE_AFTER)
ABOUT_THE_DAEMON = (
    START_TIME,
    SNAPSHOT_DURATION,
    SNAPSHOTS,
    SNAPSHOT_ERRORS,
    SNAPSHOTS_RETAKEN,
    UEVENTS,
    MONITOR_OVERRUNS,
    MONITOR_RESTARTS,
    WATCH_SOURCE_UP,
    STATE_WRITE_ERRORS,
    ACCEPT_FILE_VALID,
)
ALL = (*ABOUT_THE_MACHINE, *ABOUT_THE_DAEMON, *PROCESS)
"""Every family that /metrics can hold, each once."""
