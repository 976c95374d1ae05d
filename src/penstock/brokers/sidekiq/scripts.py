"""The Lua library of the driver. Each script's file says what its arguments are."""

from __future__ import annotations

from typing import Final

from ...clients.redis import Script

_FOLDER = "penstock.brokers.lua"


def _load(name: str) -> Script:
    return Script.load(_FOLDER, "sidekiq", f"sidekiq_{name}")


PUSH: Final = _load("push")
TAKE: Final = _load("take")
STRAYS: Final = _load("strays")
SETTLE: Final = _load("settle")
EXTEND: Final = _load("extend")
RECLAIM: Final = _load("reclaim")
LEAVE: Final = _load("leave")
DUE: Final = _load("due")
PROMOTE: Final = _load("promote")
SIZES: Final = _load("sizes")
