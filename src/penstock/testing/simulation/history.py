"""The history of a simulated world: who did what, when, in the order in which it happened."""

from __future__ import annotations

import asyncio
import hashlib
from typing import NamedTuple


class Event(NamedTuple):
    """``about``: the message and group in question, or empty."""

    at: float
    who: str
    what: str
    about: str
    detail: str

    def __str__(self) -> str:
        return f"{self.at:9.3f}  {self.who:10} {self.what:12} {self.about:10} {self.detail}".rstrip()


class History:
    """Grows while the world runs."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def note(self, who: str, what: str, about: str = "", detail: str = "") -> None:
        """Add what has just happened."""
        self.events.append(Event(asyncio.get_running_loop().time(), who, what, about, detail))

    def digest(self) -> str:
        """Equal for equal histories."""
        return hashlib.sha256("\n".join(map(repr, self.events)).encode()).hexdigest()

    def count(self, what: str) -> int:
        """How often something happened."""
        return sum(event.what == what for event in self.events)

    def excerpt(self, about: str, limit: int = 60) -> str:
        """What concerns one message, and what happened to everybody, at the end."""
        number = about.partition("/")[0]
        chosen = [e for e in self.events if not e.about or e.about.partition("/")[0] == number]
        return "\n".join(map(str, chosen[-limit:]))
