"""Outcomes → arguments of the settle script, one call for each group and batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from ...broker import Settlement
from ...clients.redis import Arg, RedisClient, Script, error_of
from ...clock import Clock
from ...errors import BrokerError, ConnectionFailed
from ...message import Delivery
from ...outcome import Ack, DeadLetter, Release, Retry
from .dialect import Dialect, Later
from .options import Receipt
from .reading import Membership
from .scripts import EXTEND, SETTLE
from .wholes import Several
from .wire import milliseconds

MAX_IDS = 1000

T = TypeVar("T")


def by_group(items: Sequence[T], deliveries: Sequence[Delivery[Any]]) -> dict[tuple[str, str], list[T]]:
    """Items by stream and group of the delivery that each is about, each in its order."""
    groups: dict[tuple[str, str], list[T]] = {}
    source, group, members = None, None, list[T]()
    for item, delivery in zip(items, deliveries, strict=True):
        if delivery.source is not source or delivery.group is not group:
            source, group = delivery.source, delivery.group
            members = groups.setdefault((source, group), [])
        members.append(item)
    return groups


class Native:
    """Whether the server has XACKDEL (Redis 8.2): asked by using it, and not again once it said no."""

    def __init__(self) -> None:
        self.known = True


class Batch:
    """The settlements of one group, at most ``MAX_IDS``."""

    script: ClassVar[Script] = SETTLE

    __slots__ = (
        *("_acks", "_deliveries", "_dialect", "_membership", "_now", "_others", "_owner", "_sure_until"),
        *("ghosts", "ready"),
    )

    def __init__(self, membership: Membership, owner: str, now: float, dialect: Dialect) -> None:
        self._membership, self._owner, self._now, self._dialect = membership, owner, now, dialect
        self._acks: list[Arg] = []
        self._others: list[Arg] = []
        self._deliveries: dict[str, Delivery[Receipt]] = {}
        self._sure_until = float("inf")
        self.ready = False  # whether there is something to take now: given back, or its turn has come
        self.ghosts = 0

    def fill(self, items: Sequence[Settlement[Receipt]]) -> list[Delivery[Receipt]]:
        """Take settlements in; return the deliveries that are no longer held."""
        held, deliveries, acks = self._membership.held, self._deliveries, self._acks
        sure_until = self._sure_until
        refused: list[Delivery[Receipt]] = []
        for item in items:
            delivery = item.delivery
            ident, receipt = delivery.message.id, delivery.receipt
            if held.get(ident) is not receipt or ident in deliveries:
                refused.append(delivery)
                continue
            if type(item.outcome) is Ack:
                acks.append(ident)
            else:
                self._others += self._arguments(delivery, item.outcome)
            deliveries[ident] = delivery
            sure_until = min(sure_until, receipt.deadline)
        self._sure_until = sure_until
        return refused

    async def apply(
        self, client: RedisClient, native: Native, *, keep: bool, monotonic: float
    ) -> list[Delivery[Receipt]]:
        """Run the script; return the deliveries that were lost.

        It checks the owner if it comes too late by our clock when it is sent, or by the server's when it is run.
        """
        if not self._deliveries:
            return []
        membership = self._membership
        sure = membership.by_server(self._sure_until) if monotonic < self._sure_until else 0
        head = (membership.subscription.group, self._owner, sure, int(keep), int(native.known), len(self._acks))
        answer = await client.run(self.script, membership.keys, (*head, *self._acks, *self._others))
        ids, problem, failed, unknown, *turns = answer
        if turns:
            self.ready, self.ghosts = self.ready or turns[0] > 0, turns[1]
        native.known = native.known and not unknown
        for ident in failed:
            del self._deliveries[ident.decode()]  # still leased
        held = membership.held
        for ident in self._deliveries:
            held.pop(ident, None)
        if problem:
            reason = problem.decode()
            kind = ConnectionFailed if isinstance(error_of(reason), ConnectionFailed) else BrokerError
            raise kind(f"{len(failed)} outcomes could not be written and are still leased: {reason}")
        return [self._deliveries[ident.decode()] for ident in ids]

    def _arguments(self, delivery: Delivery[Receipt], outcome: Any) -> tuple[Arg, ...]:
        ident = delivery.message.id
        match outcome:
            case DeadLetter():
                fields = self._dead_letter(delivery, outcome)
                return ("dead", ident, len(fields), *fields)
            case Several():
                return self._several(delivery, outcome)
            case Retry(delay=delay, counts=counts) if delivery.defect is None:
                attempt = delivery.attempt + 1 if counts else delivery.message.attempt
                return self._later(delivery, delay or 0.0, attempt, self._now)
            case Release(delay=delay) if delay > 0 and delivery.defect is None:
                return self._later(delivery, delay, delivery.attempt, None)
            case Release() | Retry():  # what cannot be read cannot be written anew: it stays the entry that it is
                self.ready = True
                return ("release", ident, delivery.count)
            case _:
                raise TypeError(f"an outcome is Ack, Retry, DeadLetter or Release, not {outcome!r}")

    def _later(self, delivery: Delivery[Receipt], delay: float, attempt: int, now: float | None) -> tuple[Arg, ...]:
        keyed = self._membership.subscription.keyed and delivery.message.key is not None
        later = Later(
            stream=delivery.source,
            message=delivery.message,
            attempt=attempt,
            enqueued_at=now,
            ident=os.urandom(12).hex(),
            group=delivery.group,
            turn=delivery.message.id if keyed else None,
            receipt=delivery.receipt,
        )
        delay = milliseconds(max(delay, 0.0) + 0.0004999)
        return ("later", delivery.message.id, delay, *self._dialect.later(later))

    def _dead_letter(self, delivery: Delivery[Receipt], outcome: DeadLetter) -> list[Arg]:
        return self._dialect.dead(delivery, outcome, self._owner)

    def _several(self, delivery: Delivery[Receipt], parts: Several) -> tuple[Arg, ...]:
        """What becomes of the messages of one entry, as one outcome: all of it is written, then the entry is acked."""
        arguments: list[Arg] = []
        for part, outcome in parts.outcomes:
            match outcome:
                case Ack():
                    continue
                case DeadLetter():
                    fields = self._dialect.dead(part, outcome, self._owner)
                    arguments += ["dead", len(fields), *fields]
                case Retry(delay=delay, counts=counts):
                    attempt = part.attempt + 1 if counts else part.message.attempt
                    arguments += ["later", *self._later(part, delay or 0.0, attempt, self._now)[2:]]
                case Release(delay=delay):
                    arguments += ["later", *self._later(part, delay, part.attempt, None)[2:]]
        return ("several", delivery.message.id, len(arguments), *arguments)


async def extend(
    client: RedisClient,
    membership: Membership,
    owner: str,
    deliveries: Sequence[Delivery[Receipt]],
    lease: float,
    clock: Clock,
) -> list[Delivery[Receipt]]:
    """Renew the leases of one group; return those that are no longer this owner's."""
    now = clock.monotonic()
    subscription, held = membership.subscription, membership.held
    known = {d.message.id: d for d in deliveries if held.get(d.message.id) is d.receipt}
    lost = [d for d in deliveries if known.get(d.message.id) is not d]
    # Others measure the lease of the subscription: a shorter one begins with a part of it used up
    used = max(milliseconds(subscription.lease - lease), 0)
    ids = list(known)
    for i in range(0, len(ids), MAX_IDS):
        args: list[Arg] = [subscription.group, owner, used, *ids[i : i + MAX_IDS]]
        taken, server_ms = await client.run(EXTEND, [subscription.source], args)
        membership.heard(server_ms, clock.monotonic())
        for gone in taken:
            delivery = known.pop(gone.decode())
            held.pop(delivery.message.id, None)
            lost.append(delivery)
    deadline = membership.deadline(now, lease)
    for delivery in known.values():
        delivery.receipt.deadline = deadline
    return lost
