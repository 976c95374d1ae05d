"""Outcomes → arguments of the settle script, in Rotif's form."""

from __future__ import annotations

from typing import ClassVar

from ...clients.redis import Arg, Script
from ...message import Delivery
from ...outcome import DeadLetter
from ..redis_streams.options import Receipt
from ..redis_streams.settling import Batch
from ..redis_streams.wire import milliseconds
from .options import retries_of
from .scripts import SETTLE
from .wire import again, dead_fields


class RotifBatch(Batch):
    """Retries go to the stream of retries, whether they come from there or not: every reader reads both."""

    __slots__ = ()
    script: ClassVar[Script] = SETTLE

    def _later(self, delivery: Delivery[Receipt], delay: float, attempt: int, now: float | None) -> tuple[Arg, ...]:
        parts = again(delivery.receipt.fields or [], retries_of(delivery.source), attempt + 1, delivery.group)
        return ("later", delivery.message.id, milliseconds(max(delay, 0.0) + 0.0004999), *parts)

    def _dead_letter(self, delivery: Delivery[Receipt], outcome: DeadLetter) -> list[Arg]:
        return dead_fields(delivery, delivery.receipt.fields or [], outcome, self._owner, self._now)
