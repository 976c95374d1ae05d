"""What this process holds: every message that the server counts as ours, with the lease that we keep for it.

RabbitMQ knows no lease by time: a delivery is ours until its channel closes. So the time is kept here. When the
connection breaks the server gives everything to others at once; what is held becomes an orphan, and should it come
back to this very process its lease goes on as if nothing had been. Outcomes are remembered for a while: a message whose
ack was lost with its connection is acked when it comes back, not run again.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from pamqp import commands as spec

from ...clock import Clock
from . import names, wire
from .channel import BatchChannel

Receipt: TypeAlias = int
Key: TypeAlias = tuple[str, str, int]  # source and group, message id, number of the copy

REMEMBERED = 20_000  # outcomes


class Held:
    """One message of ours. ``token`` is 0 until it is handed out; ``busy`` while its outcome is being written.

    ``count``: how often it was handed over, this time included. Coming back by another channel is no other time.
    """

    __slots__ = (
        "body",
        "busy",
        "channel",
        "count",
        "deadline",
        "group",
        "ident",
        "key",
        "lease",
        "properties",
        "since",
        "source",
        "tag",
        "token",
        "where",
    )

    def __init__(
        self, channel: BatchChannel, tag: int, source: str, group: str, properties: spec.Basic.Properties, body: bytes
    ) -> None:
        self.channel, self.tag = channel, tag
        self.source, self.group, self.where = source, group, names.group_queue(source, group)
        self.properties, self.body = properties, body
        self.key = key_of(self.where, properties)
        self.ident = properties.message_id or ""
        self.count = wire.delivered(properties) + 1
        self.token: Receipt = 0
        self.lease = self.deadline = self.since = 0.0
        self.busy = False

    def again(self, channel: BatchChannel, tag: int, properties: spec.Basic.Properties, now: float) -> None:
        """It is the same message on another channel."""
        self.channel, self.tag, self.properties, self.since = channel, tag, properties, now
        self.key = key_of(self.where, properties)


def key_of(where: str, properties: spec.Basic.Properties) -> Key | None:
    instance = wire.instance(properties)
    return None if instance is None else (where, *instance)


class Holdings:
    """The table. It belongs to the thread of the connections."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens = itertools.count(1)
        self._done: dict[Key, int] = {}
        self.table: dict[Receipt, Held] = {}
        self.orphans: dict[Key, Held] = {}

    def lease(self, held: Held, seconds: float) -> Receipt:
        """Hand one out."""
        held.token, held.lease = next(self._tokens), seconds
        held.deadline = self._clock.monotonic() + seconds
        self.table[held.token] = held
        return held.token

    def extend(self, receipt: Receipt, seconds: float) -> bool:
        """Renew; false if it is ours no more. An orphan has what is left of its lease to come back in."""
        held = self.table.get(receipt)
        if held is None:
            return False
        if held.channel.alive or held.busy:
            held.lease = seconds
            held.deadline = self._clock.monotonic() + seconds
            return True
        if held.deadline > self._clock.monotonic():
            return True
        self.drop(held)
        return False

    def drop(self, held: Held) -> None:
        """It is ours no more."""
        self.table.pop(held.token, None)
        if held.key is not None and self.orphans.get(held.key) is held:
            del self.orphans[held.key]

    def done(self, held: Held) -> None:
        """Its outcome is written."""
        self.drop(held)
        if held.key is not None:
            self._done[held.key] = hash(held.body)
            if len(self._done) > REMEMBERED:
                del self._done[next(iter(self._done))]

    def was_done(self, held: Held) -> bool:
        """Whether its outcome is written and only the ack was lost: with its channel, or by a queue that moved.

        A message with another body is another one, though some other program gave both one id.
        """
        return held.key is not None and self._done.get(held.key) == hash(held.body)

    def orphan(self) -> None:
        """A channel has gone: what came by it is the server's again."""
        for held in list(self.table.values()):
            if held.channel.alive or held.busy:
                continue
            if held.key is None:
                self.drop(held)
            else:
                self.orphans[held.key] = held


def ack(done: Iterable[Held]) -> None:
    """Ack them, with one method for all that are the oldest of their channel."""
    channels: defaultdict[BatchChannel, set[int]] = defaultdict(set)
    for held in done:
        channels[held.channel].add(held.tag)
    for channel, tags in channels.items():
        if channel.alive:
            channel.write(*_acks(channel, tags))


def _acks(channel: BatchChannel, tags: set[int]) -> list[spec.Basic.Ack]:
    frames: list[spec.Basic.Ack] = []
    last = 0
    for tag in channel.unsettled:  # oldest first
        if tag not in tags:
            break
        last = tag
    if last:
        frames.append(spec.Basic.Ack(delivery_tag=last, multiple=True))
    known = [tag for tag in tags if channel.settled(tag)]
    return [*frames, *(spec.Basic.Ack(delivery_tag=tag) for tag in known if tag > last)]
