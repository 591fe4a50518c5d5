# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of the daemon, as one JSON argument of its process."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["DEFAULT_RUNTIME_DIRECTORY", "Settings", "parse_duration"]

DEFAULT_RUNTIME_DIRECTORY = "/run/iommud"
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_FACTORS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_LONGEST = 366 * 86400.0


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``5m``, ``1h30m``, ``250ms`` or a bare number.

    Raises ValueError for anything else, for more than a year and for less than nothing.
    """
    match = _DURATION.fullmatch(text.strip())
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        seconds = float(text)
    elif text.strip() and match is not None:
        seconds = sum(float(number) * factor for number, factor in zip(match.groups("0"), _FACTORS, strict=True))
    else:
        raise ValueError(f"{text!r} is no duration such as 90s, 5m, 1h30m or 250ms")
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than a year")
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that ``iommud run`` and ``iommud serve`` can be told. Durations are seconds, paths are strings."""

    collect: bool = True
    """False: only serve what another process has written into the runtime directory."""
    serve: bool = True
    source: str | None = None
    sysfs: str = "/sys"
    procfs: str = "/proc"
    kernel: str | None = None
    wake: bool = False
    require_iommu: bool = False
    fail_on: str = "warning"
    listen: tuple[str, ...] = ()
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    allow_plain: bool = False
    runtime_directory: str | None = None
    state_directory: str | None = None
    accept_file: str | None = None
    watch_uevents: bool = True
    watch_groups: bool = True
    poll_interval: float = 15.0
    reconcile_interval: float = 300.0
    quiet: float = 0.2
    delay: float = 5.0
    stale_after: float | None = None
    function_groups: bool = False
    log_format: str = "logfmt"
    log_level: str = "info"

    @property
    def staleness(self) -> float:
        """Age in seconds from which a report counts as stale: three missed reconciles unless told otherwise."""
        return 3 * max(self.reconcile_interval, 20.0) if self.stale_after is None else self.stale_after

    def to_json(self) -> str:
        """As one argument."""
        return json.dumps({name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Read such an argument. Raises ValueError if it is none: only ``to_json`` writes them."""
        found: dict[str, Any] = json.loads(text)
        unknown = found.keys() - _DEFAULTS.keys()
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**{**found, "listen": tuple(found.get("listen", ()))})


_DEFAULTS = {one.name: one.default for one in fields(Settings)}
