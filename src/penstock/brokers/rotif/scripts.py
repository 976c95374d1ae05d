"""The Lua scripts of the driver, on the library of the Redis Streams driver."""

from __future__ import annotations

from typing import Final

from ...clients.redis import Script

_FOLDER = "penstock.brokers.lua"


def _load(*names: str) -> Script:
    return Script.load(_FOLDER, "streams", *names)


SETTLE: Final = _load("turns", "rotif_later", "settle")
POST: Final = _load("rotif_post")
PROMOTE: Final = _load("rotif_promote")
REQUEUE: Final = _load("rotif_requeue")
BIND: Final = _load("rotif_bind")
UNBIND: Final = _load("rotif_unbind")
