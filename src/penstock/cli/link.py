"""The line between a supervisor and one of its children: a socket pair, the child's end inherited when it is started.

The child tells how it is (``Report``), or why it cannot start (``Failed``); the supervisor says what it has to do beside
its work (``Duty``). When either end is gone the other reads the end of the line: an orphan knows that it is one.
Frames are msgpack behind four bytes of length.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from typing import TypeAlias

import msgspec

from ..contrib.fleet_metrics import Family

VARIABLE = "PENSTOCK_LINK"  # the number of the child's file descriptor


class Report(msgspec.Struct, frozen=True, tag="report"):
    """How a child is. The first says that it has its signal handlers: from now on it may be sent any.

    ``drain``: seconds that it takes to stop, at most, its cleaning up not included. ``jobs``: executions that came to
    an outcome. ``memory``: resident bytes. ``metrics``: if it was time for them; ``sampled``: whether they have fresh
    gauges of the broker.
    """

    drain: float
    ready: bool
    jobs: int
    memory: int
    sampled: bool = False
    metrics: list[Family] | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Why a child is about to end with an error."""

    reason: str


class Duty(msgspec.Struct, frozen=True, tag="duty"):
    """``sample``: whether this child reads the gauges that are the broker's."""

    sample: bool


Message: TypeAlias = Report | Failed | Duty

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def packed(message: Message) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def received(reader: asyncio.StreamReader) -> Message | None:
    """The next message, or ``None`` at the end of the line."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        return _decoder.decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def inherited(environ: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """The child's end, if a supervisor has started this process. Taken once: what we start ourselves has none."""
    number = environ.pop(VARIABLE, "")
    if not number:
        return None
    line = socket.socket(fileno=int(number))
    line.set_inheritable(False)
    return line
