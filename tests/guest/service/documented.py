# SPDX-License-Identifier: GPL-2.0-or-later
"""Take commands and drop-ins out of docs/install.md, so that a guest does what people are told to do."""

from __future__ import annotations

import re
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GUESTS_NETWORK = "10.0.2.0/24"
EXAMPLE_NETWORK = "192.0.2.0/24"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str


def blocks(document: str) -> list[Block]:
    """The fenced blocks, in order."""
    return [Block(language, text) for language, text in FENCE.findall(document)]


def block_with(document: str, language: str, *words: str) -> str:
    """The one block that has all these words. Raises LookupError if there is none, or more than one."""
    found = [
        one.text for one in blocks(document) if one.language == language and all(word in one.text for word in words)
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} blocks of {language} with {words}")
    return found[0]


def socket_drop_in(document: str) -> str:
    """What `systemctl edit iommud-web.socket` is to be given to be scraped without TLS, for the network of a guest."""
    return block_with(document, "ini", "[Socket]", "IPAddressAllow=").replace(EXAMPLE_NETWORK, GUESTS_NETWORK)


def allow_plain(document: str) -> str:
    """The commands that let the server do without TLS."""
    return block_with(document, "sh", "--web.allow-plain")


def without_capability(document: str) -> str:
    """The drop-in that takes the capability away."""
    return block_with(document, "ini", "CapabilityBoundingSet=\n", "AmbientCapabilities=\n")
