"""What one reader of an owner has in its hands, and how it keeps its leases.

A lease belongs to a list, not to a job: who renews it renews all that lies there. So what is held by nobody any more,
because an outcome could not be written or a call was cut off, is put on a shelf beside it, to lapse by itself. Which of
the two a job is in only the server knows for certain; the scripts look into both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...broker import Subscription
from ...clients.redis import Arg, RedisClient
from ...message import Delivery
from .keys import INFLIGHT
from .options import Receipt
from .scripts import EXTEND


class Holdings:
    """Shared by a broker and its forks, which live in other threads: so look at copies of ``held``."""

    __slots__ = ("held", "name", "owner", "subscription")

    def __init__(self, owner: str, number: int, subscription: Subscription) -> None:
        self.owner, self.subscription = owner, subscription
        self.name = f"{owner}|{number}|"
        self.held: dict[str, Receipt] = {}

    @property
    def shelf(self) -> str:
        """Where jobs are that are to lapse while others live on."""
        return self.name[:-1] + "s|"

    @property
    def lease(self) -> int:
        """Milliseconds."""
        return max(int(self.subscription.lease * 1000), 1)

    def list_of(self, receipt: Receipt) -> str:
        """The list that a job is in, unless it is on the shelf."""
        return f"{INFLIGHT}{self.name}{receipt.queue}"

    def holds(self, delivery: Delivery[Receipt]) -> bool:
        """Whether this very delivery is in our hands."""
        return self.held.get(delivery.message.id) is delivery.receipt

    def drop(self, delivery: Delivery[Receipt]) -> None:
        """It is settled, or somebody else's; a newer delivery of the same job stays."""
        if self.holds(delivery):
            del self.held[delivery.message.id]

    def older_than(self, age: float, now: float) -> list[Receipt]:
        """What nobody has renewed for so long, and is not yet aside."""
        return [r for r in list(self.held.values()) if not r.shelved and now - r.renewed > age]


def by_holdings(
    holdings: Mapping[str, Holdings], deliveries: Sequence[Delivery[Receipt]]
) -> tuple[dict[str, list[Delivery[Receipt]]], list[Delivery[Receipt]]]:
    """Deliveries by who holds them, and those that nobody holds."""
    found: dict[str, list[Delivery[Receipt]]] = {}
    unheld: list[Delivery[Receipt]] = []
    parts = list(holdings.items())
    for delivery in deliveries:
        for name, each in parts:
            if each.holds(delivery):
                found.setdefault(name, []).append(delivery)
                break
        else:
            unheld.append(delivery)
    return found, unheld


async def extend(
    client: RedisClient, holdings: Holdings, deliveries: Sequence[Delivery[Receipt]], lease: float, now: float
) -> list[Delivery[Receipt]]:
    """Renew the leases of what a reader holds; return the deliveries that are no longer its own."""
    args: list[Arg] = []
    for queue in dict.fromkeys(delivery.receipt.queue for delivery in deliveries):
        args += ["l", queue]
    for delivery in deliveries:
        receipt = delivery.receipt
        args += ["k", receipt.queue, receipt.raw]
        receipt.renewed, receipt.shelved = now, False
    full = holdings.subscription.lease
    aside = [(receipt, full - (now - receipt.renewed)) for receipt in holdings.older_than(full / 2, now)]
    reply = await _run(client, holdings, int(lease * 1000), args, aside)
    lost = [delivery for delivery, there in zip(deliveries, reply, strict=True) if not there]
    for delivery in lost:
        holdings.drop(delivery)
    return lost


async def put_aside(client: RedisClient, holdings: Holdings, now: float) -> None:
    """Let lapse what nobody has renewed for a whole lease; who lives after all has half a one to say so."""
    full = holdings.subscription.lease
    aside = [(receipt, full / 2) for receipt in holdings.older_than(full, now)]
    if aside:
        await _run(client, holdings, holdings.lease, [], aside)


async def _run(
    client: RedisClient, holdings: Holdings, lease: int, args: list[Arg], aside: Sequence[tuple[Receipt, float]]
) -> list[int]:
    """Renew as ``args`` say, and put aside; who is renewed by another thread meanwhile is not aside."""
    seen = [receipt.renewed for receipt, _ in aside]
    for receipt, rest in aside:
        args += ["s", receipt.queue, receipt.raw, max(int(rest * 1000), 0)]
    reply: list[int] = await client.run(EXTEND, (), [lease, holdings.name, holdings.shelf, *args])
    for (receipt, _), renewed in zip(aside, seen, strict=True):
        receipt.shelved = receipt.renewed == renewed
    return reply
