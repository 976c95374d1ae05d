"""The Lua library of the driver. Each script's file says what its keys and arguments are."""

from __future__ import annotations

from typing import Final

from ...clients.redis import Script

_FOLDER = "penstock.brokers.lua"


def _load(name: str) -> Script:
    return Script.load(_FOLDER, "streams", name)


PUBLISH: Final = _load("publish")
SETTLE: Final = _load("settle")
EXTEND: Final = _load("extend")
CLAIM: Final = _load("claim")
JOIN: Final = _load("join")
RELEASE: Final = _load("release")
PROMOTE: Final = _load("promote")
TRIM: Final = _load("trim")
REQUEUE: Final = _load("requeue")
PURGE: Final = _load("purge")
PRESENCE: Final = _load("presence")
