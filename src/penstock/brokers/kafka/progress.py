"""How far a group has come in a partition, as the metadata text beside its committed offset.

The offset is that of the first record which is not settled. The text says what an offset cannot: which records beyond
it are settled, and how often the others have been handed over. So a crash costs only what was in hand, and crashes are
counted. It is the zlib-packed, base85-written msgpack of ``[mark - offset, runs]``; a run is ``[skipped, length,
count]``: ``skipped`` settled records, then ``length`` records that were handed over ``count`` times, with ``attempt`` and
``due`` of their next execution behind it where they wait for one in place. Beyond ``mark`` nobody has seen anything.

Servers keep 4,096 bytes (``offset.metadata.max.bytes``). What does not fit is left out from behind: after a crash,
records that are settled there come once more.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any, NamedTuple, TypeAlias

import msgspec

MOST = 4000
VERSION = "1"

Run: TypeAlias = list[Any]


class Note(NamedTuple):
    """One record that is not settled. ``attempt``, ``due``: of its next execution, where it waits for one in place."""

    deliveries: int = 0
    attempt: int | None = None
    due: float | None = None


class Runs:
    """Records that are not settled, told in the order of their offsets, beginning at ``offset``."""

    __slots__ = ("_behind", "runs")

    def __init__(self, offset: int) -> None:
        self.runs: list[Run] = []
        self._behind = offset

    def add(self, at: int, deliveries: int, attempt: int | None = None, due: float | None = None) -> None:
        runs = self.runs
        if attempt is not None:
            runs.append([at - self._behind, 1, deliveries, attempt, due])
        elif runs and at == self._behind and runs[-1][2] == deliveries and len(runs[-1]) == 3:
            runs[-1][1] += 1
        else:
            runs.append([at - self._behind, 1, deliveries])
        self._behind = at + 1


def pack(offset: int, mark: int, runs: list[Run], most: int = MOST) -> str:
    """The text. ``runs``: the records from ``offset`` up to ``mark`` that are not settled."""
    while True:
        if not runs and mark == offset:
            return ""
        text = VERSION + _written([mark - offset, runs])
        if len(text) <= most:
            return text
        kept = len(runs) * most // len(text) * 9 // 10
        runs, mark = runs[:kept], offset + sum(run[0] + run[1] for run in runs[:kept])


def unpack(offset: int, text: str | None) -> tuple[int, dict[int, Note]]:
    """``mark``, and the records below it that are not settled. A text that is not ours says nothing."""
    if not text or not text.startswith(VERSION):
        return offset, {}
    try:
        ahead, runs = _decoder.decode(zlib.decompress(base64.b85decode(text[len(VERSION) :])))
        notes: dict[int, Note] = {}
        at = offset
        for skipped, length, *tail in runs:
            at += skipped
            note = Note(*tail)
            notes |= dict.fromkeys(range(at, at + length), note)
            at += length
    except (ValueError, TypeError, zlib.error, msgspec.MsgspecError):
        return offset, {}
    return max(offset + ahead, at), notes


_decoder = msgspec.msgpack.Decoder(tuple[int, list[list[Any]]])


def _written(value: Any) -> str:
    return base64.b85encode(zlib.compress(msgspec.msgpack.encode(value), 1)).decode()
