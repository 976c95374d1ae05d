"""The Lua library of the driver. Each script's file says what its keys and arguments are."""

from __future__ import annotations

from typing import Final

from ...clients.redis import Script

_FOLDER = "penstock.brokers.lua"


def _load(*names: str) -> Script:
    return Script.load(_FOLDER, "streams", *names)


PUBLISH: Final = _load("publish")
SETTLE: Final = _load("turns", "later", "settle")
EXTEND: Final = _load("extend")
CLAIM: Final = _load("turns", "claim")
TAKE: Final = _load("turns", "take")
MEND: Final = _load("turns", "mend")
JOIN: Final = _load("join")
RELEASE: Final = _load("release")
PROMOTE: Final = _load("promote")
TRIM: Final = _load("trim")
REQUEUE: Final = _load("requeue")
PURGE: Final = _load("turns", "purge")
PRESENCE: Final = _load("presence")
