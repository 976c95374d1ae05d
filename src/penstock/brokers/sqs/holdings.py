"""What an owner holds: receipts with their deadlines, shared by a broker and its forks.

SQS lets an old receipt delete a message that another owner works on. So the deadline of each lease is kept here, from
before the call that fetched or extended it was sent, and nothing is done for a receipt past its own: the service has not
given the message to anybody else until then. Forks change receipts from their threads: each change is one assignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...message import Delivery

MOST_REFUNDS = 10_000


class Receipt(msgspec.Struct, eq=False):
    """Proof of a lease. Times are by the monotonic clock.

    ``deadline``: until when nobody else can have the message. ``limit``: how far it can be extended. ``copied``: its
    successor has been written, only its removal is left. ``settled``: nothing is left. ``raw``: the message as it was
    received, if it could not be read. ``ident``: the service's own id of this copy.
    """

    handle: str
    queue: str
    ident: str
    deadline: float
    limit: float
    copied: bool = False
    settled: bool = False
    raw: Mapping[str, Any] | None = None


class Holdings:
    """Deliveries by receipt, and deliveries of FIFO messages that did not count."""

    def __init__(self) -> None:
        self.held: dict[str, Delivery[Receipt]] = {}
        self._refunds: dict[str, int] = {}

    def take(self, delivery: Delivery[Receipt]) -> None:
        self.held[delivery.receipt.handle] = delivery

    def drop(self, receipt: Receipt) -> None:
        """It is no longer ours, whatever the reason."""
        receipt.settled = True
        self.held.pop(receipt.handle, None)

    def forget_lapsed(self, now: float) -> None:
        """Forget what nobody settled in time."""
        for handle, delivery in list(self.held.items()):
            if delivery.receipt.deadline <= now:
                self.held.pop(handle, None)

    def refund(self, ident: str) -> None:
        """The last delivery of this copy is not to be counted. Known to this process only, for the latest of them."""
        self._refunds[ident] = self._refunds.pop(ident, 0) + 1
        while len(self._refunds) > MOST_REFUNDS:
            self._refunds.pop(next(iter(self._refunds)))

    def refunded(self, ident: str) -> int:
        return self._refunds.get(ident, 0)
