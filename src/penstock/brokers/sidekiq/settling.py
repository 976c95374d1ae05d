"""Outcomes and renewals as arguments of the scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from ...broker import Settlement
from ...clients.redis import Arg, RedisClient
from ...message import Delivery
from ...outcome import DISCARDED, DeadLetter, Release, Retry
from . import ruby_json
from .options import Receipt
from .scripts import EXTEND
from .taking import Holdings
from .wire import OURS, Failing, Malformed, ours, parse, write


def outcome_args(holdings: Holdings, item: Settlement[Receipt], failing: Failing, now: float) -> list[Arg]:
    """What the settle script is to do for one outcome."""
    delivery, outcome = item.delivery, item.outcome
    receipt = delivery.receipt
    list_, raw, attempt = holdings.list_of(receipt), receipt.raw, delivery.attempt
    crashed = delivery.count > 1

    def letter(small: str) -> str:
        return small.upper() if crashed else small

    if isinstance(outcome, Release):
        if outcome.delay > 0:
            return ["s", list_, raw, f"{outcome.delay:.6f}", raw]
        return ["q", list_, raw, receipt.queue]
    if isinstance(outcome, Retry):
        delay = f"{max(outcome.delay or 0.0, 0.0):.6f}"
        if not outcome.counts:
            return [letter("s"), list_, raw, delay, raw]
        return [letter("r"), list_, raw, delay, failing.failed(raw, receipt.queue, attempt, outcome.error, now)]
    if isinstance(outcome, DeadLetter):
        return [letter("d"), list_, raw, _dead(holdings, item, outcome, failing, now)]
    return [letter("x" if outcome is DISCARDED else "a"), list_, raw]


def _dead(holdings: Holdings, item: Settlement[Receipt], outcome: DeadLetter, failing: Failing, now: float) -> bytes:
    """The text of a dead job: what Ruby would write, and what we know beyond that."""
    delivery = item.delivery
    raw = delivery.receipt.raw
    if delivery.defect is not None:
        return raw
    if outcome.error is not None:
        raw = failing.failed(raw, delivery.receipt.queue, delivery.attempt, outcome.error, now)
    if not outcome.reason and not _has_meta(outcome):
        return raw
    try:
        fields: dict[str, Any] = dict(parse(raw))
    except Malformed:
        return raw
    mine = ours(fields)
    mine |= {"reason": outcome.reason, "group": delivery.group, "owner": holdings.owner}
    if _has_meta(outcome):
        mine["meta"] = outcome.meta
    return write({**fields, OURS: ruby_json.dumps(mine)})


def _has_meta(outcome: DeadLetter) -> bool:
    return outcome.meta is not UNSET


async def extend(
    client: RedisClient, holdings: Holdings, deliveries: Sequence[Delivery[Receipt]], lease: float, now: float
) -> list[Delivery[Receipt]]:
    """Renew the leases of one reader; return the deliveries that are no longer its own.

    A lease belongs to a list, not to a job. What is in the list and has not been renewed for half a lease is held by
    nobody any more: it is put aside, with what is left of its lease.
    """
    held = holdings.held
    lost: list[Delivery[Receipt]] = []
    asked: list[Delivery[Receipt]] = []
    for delivery in deliveries:
        (asked if held.get(delivery.message.id) is delivery.receipt else lost).append(delivery)
    if not asked:
        return lost
    args: list[Arg] = []
    for queue in dict.fromkeys(delivery.receipt.queue for delivery in asked):
        args += ["l", queue]
    for delivery in asked:
        receipt = delivery.receipt
        args += ["b" if receipt.shelved else "k", receipt.queue, receipt.raw]
        receipt.renewed = now
    aside = [r for r in held.values() if not r.shelved and now - r.renewed > holdings.subscription.lease / 2]
    for receipt in aside:
        rest = holdings.subscription.lease - (now - receipt.renewed)
        args += ["s", receipt.queue, receipt.raw, max(int(rest * 1000), 0)]
        receipt.shelved = True
    reply = await client.run(EXTEND, (), [int(lease * 1000), holdings.name, holdings.shelf, *args])
    for delivery, there in zip(asked, reply, strict=True):
        if there:
            delivery.receipt.shelved = False
        else:
            held.pop(delivery.message.id, None)
            lost.append(delivery)
    return lost


def by_reader(
    readers: dict[str, Holdings], deliveries: Sequence[Delivery[Receipt]]
) -> dict[str, list[Delivery[Receipt]]]:
    """Deliveries by the reader that holds them, the key empty for those that nobody holds."""
    found: dict[str, list[Delivery[Receipt]]] = {}
    for delivery in deliveries:
        for name, holdings in readers.items():
            if holdings.held.get(delivery.message.id) is delivery.receipt:
                found.setdefault(name, []).append(delivery)
                break
        else:
            found.setdefault("", []).append(delivery)
    return found
