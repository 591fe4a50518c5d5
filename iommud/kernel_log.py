# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log's lines about IOMMUs, ACS, streams and bridges, of this machine or of a capture."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator

from iommud.files import Tree
from iommud.redact import redact_log_line
from iommud.tree import LiveTree

__all__ = ["LOG_PATH", "read_kernel_log", "relevant_lines"]

LOG_PATH = "dmesg.txt"
"""Where a capture keeps the log."""

_LOG_LIMIT = 16 << 20
_DEVICE = "/dev/kmsg"
_RECORD_LIMIT = 1 << 15
"""Longer than any record: PRINTK_MESSAGE_MAX is 2048 (kernel/printk/internal.h), CONSOLE_EXT_LOG_MAX was 8192."""

_SUBJECT = re.compile(
    r"iommu|dmar|amd-vi|ivrs|ivhd|smmu|viot|iort|\bacs\b|\bstream|dma alias|vfio|pci-stub|correcting type|"
    r"deferred probe|pcieport|PCI bridge to|PCI host bridge|type 0[0-2] class|extended config space|\bvmd\b",
    re.IGNORECASE,
)
# The command line and the builder stand in files of their own; programs and audit tell of users.
_NOT_OURS = re.compile(r"command line|^Linux version|^[\w./@-]+\[\d+\]:|\baudit\b", re.IGNORECASE)
_STAMP = re.compile(
    r"<\d+>"  # dmesg --raw
    r"|\[\s*\d+\.\d+\](?:\s?\[\s*[TC]\d+\])?\s?"  # since the boot, with the task or CPU where the kernel adds it
    r"|\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]\s?"  # dmesg -T
    r"|(?:\w{3} +\d+ [\d:]+|\d{4}-\d\d-\d\dT\S+) \S+ kernel: "  # journalctl -k, with the name of the host
)


def read_kernel_log(tree: Tree) -> tuple[str, ...] | None:
    """The relevant lines of the kernel log, without timestamps and redacted; None: it cannot be read.

    Of the machine that iommud runs on it is ``/dev/kmsg``, which many systems keep for root; of any other source its
    ``dmesg.txt``.
    """
    if not tree.live:
        content = tree.read(LOG_PATH, _LOG_LIMIT)
        return None if content is None else relevant_lines(content.decode("utf-8", "replace").splitlines())
    if not (isinstance(tree, LiveTree) and tree.is_here):
        return None  # somebody else's sysfs, whose log is not the one of this kernel
    records = _kernel_records(_DEVICE)
    return None if records is None else relevant_lines(records)


def relevant_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """Of the lines of a log those that bear on groups, stripped of their timestamps and redacted.

    The result gives itself back.
    """
    return tuple(kept for line in lines if (kept := _relevant(line)) is not None)


def _relevant(line: str) -> str | None:
    message = _without_stamps(_printable(line))
    if not _SUBJECT.search(message) or _NOT_OURS.search(message):
        return None
    redacted = redact_log_line(message)
    # What made the line relevant may have been blanked with the rest.
    return redacted if _SUBJECT.search(redacted) else None


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(c if c.isprintable() else " " for c in line)


def _without_stamps(line: str) -> str:
    line = line.strip()
    while match := _STAMP.match(line):
        line = line[match.end() :].lstrip()
    return line


def _kernel_records(path: str) -> list[str] | None:
    """Messages of the kernel itself in its ring buffer; None: not readable (``dmesg_restrict``)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        content = b"".join(_records(descriptor))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return [message for line in content.decode("utf-8", "replace").split("\n") if (message := _message(line))]


def _records(descriptor: int) -> Iterator[bytes]:
    """Records up to the newest, which Documentation/ABI/testing/dev-kmsg calls EAGAIN."""
    left = _LOG_LIMIT
    while left > 0:
        try:
            record = os.read(descriptor, _RECORD_LIMIT)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EPIPE:  # overwritten before it was read: the next read goes on behind it
                raise
            left -= 1
            continue
        if not record:
            return
        left -= len(record)
        yield record


def _message(line: str) -> str | None:
    """The text of ``priority,sequence,microseconds,flags;text``; None: a line of properties, or a program's."""
    prefix, semicolon, text = line.partition(";")
    priority = prefix.partition(",")[0]
    # Bits 3 and up are the syslog facility, 0 for the kernel.
    return text if semicolon and priority.isascii() and priority.isdigit() and int(priority[:9]) < 8 else None
