"""Outcomes as arguments of the script that applies them."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from ...broker import Settlement
from ...clients.redis import Arg
from ...outcome import DISCARDED, DeadLetter, Release, Retry
from . import ruby_json
from .failing import Failing
from .holdings import Holdings
from .options import Receipt
from .wire import OURS, Malformed, ours, parse, put_off, write


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
            return ["s", list_, raw, f"{outcome.delay:.6f}", put_off(raw)]
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
