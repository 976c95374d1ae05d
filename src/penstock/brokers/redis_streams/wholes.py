"""Entries that hold several messages: each is a delivery of its own, the entry is settled when all of them are.

1. Every ``Part`` of an entry has the id ``<entry>#<number>`` and a receipt that names its ``Whole``. The whole is what
   is leased; whoever extends a part extends it.
2. The outcomes of parts are kept here until the last one is known. Then all of them are applied in one step: what is to
   be tried again or is dead is written as a message of its own, and the entry is acked.
3. A crash in between brings the whole entry again. If this owner takes it again itself, because its lease lapsed, only
   the parts that have no outcome yet come again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from ...broker import Settlement
from ...message import Delivery
from ...outcome import ACK, Ack, Outcome, Release
from .options import Receipt


class Several(msgspec.Struct, frozen=True):
    """What becomes of the messages of one entry."""

    outcomes: tuple[tuple[Delivery[Receipt], Outcome], ...]


class Whole(Receipt, gc=True, kw_only=True):
    """The lease of an entry, and what has become of its messages so far, by their number."""

    size: int
    outcomes: dict[int, tuple[Delivery[Receipt], Outcome]]
    entry: Delivery[Receipt] | None = None

    def verdict(self) -> Any:
        """What becomes of the entry."""
        outcomes = [outcome for _, outcome in self.outcomes.values()]
        if all(isinstance(outcome, Ack) for outcome in outcomes):
            return ACK
        if all(isinstance(outcome, Release) and outcome.delay <= 0 for outcome in outcomes):
            return Release()
        return Several(tuple(self.outcomes[number] for number in sorted(self.outcomes)))


class Part(Receipt, gc=True, kw_only=True):
    """The receipt of one message of an entry."""

    whole: Whole
    number: int


async def settle(
    settlements: Sequence[Settlement[Receipt]],
    holds: Callable[[Delivery[Receipt]], bool],
    apply: Callable[[Sequence[Settlement[Receipt]]], Awaitable[Sequence[Delivery[Receipt]]]],
) -> Sequence[Delivery[Receipt]]:
    """Settle messages by settling their entries; return those whose lease was lost."""
    ready: list[Settlement[Receipt]] = []
    kept: dict[int, list[Delivery[Receipt]]] = {}  # by entry, the parts that this call has settled
    lost: list[Delivery[Receipt]] = []
    noted: list[Part] = []
    for item in settlements:
        part = item.delivery.receipt
        if not isinstance(part, Part):
            ready.append(item)
            continue
        whole = part.whole
        if whole.entry is None or not holds(whole.entry) or part.number in whole.outcomes:
            lost.append(item.delivery)
            continue
        whole.outcomes[part.number] = (item.delivery, item.outcome)
        noted.append(part)
        kept.setdefault(id(whole.entry), []).append(item.delivery)
        if len(whole.outcomes) == whole.size:
            ready.append(Settlement(delivery=whole.entry, outcome=whole.verdict()))
    try:
        gone = await apply(ready) if ready else ()
    except BaseException:  # the caller will hand them in again
        for part in noted:
            part.whole.outcomes.pop(part.number, None)
        raise
    for delivery in gone:
        lost += kept.get(id(delivery), [delivery])
    return lost


async def extend(
    deliveries: Sequence[Delivery[Receipt]],
    apply: Callable[[Sequence[Delivery[Receipt]]], Awaitable[Sequence[Delivery[Receipt]]]],
) -> Sequence[Delivery[Receipt]]:
    """Renew the leases of entries; return the messages whose lease was lost."""
    entries: dict[int, Delivery[Receipt]] = {}
    parts: dict[int, list[Delivery[Receipt]]] = {}
    for delivery in deliveries:
        receipt = delivery.receipt
        entry = receipt.whole.entry or delivery if isinstance(receipt, Part) else delivery
        entries[id(entry)] = entry
        parts.setdefault(id(entry), []).append(delivery)
    gone = await apply(list(entries.values()))
    return [delivery for entry in gone for delivery in parts[id(entry)]]
