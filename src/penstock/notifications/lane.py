"""All subscriptions of this process with one pattern and group: one consumer of the engine, and who gets its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from ..broker import Broker, Subscription, SupportsInspect
from ..consumer import Consumer
from ..context import Context
from ..departure import SupportsDeparture
from ..message import Delivery
from ..outcome import ACK, Ack, DeadLetter, Outcome
from .message import Notification
from .subscription import NotificationSubscription, note_of

Leave = Callable[["Lane", NotificationSubscription, bool], Awaitable[None]]


class Lane:
    """``end``: called when its last subscription goes, with whether the pattern is to go too.

    ``round_robin``: one subscription gets a message, in turn; else all of them, one after another, and if one fails all of
    them again. ``lossy``: what is not read now is gone, so a pause hangs up.
    """

    def __init__(self, broker: Broker[Any], pattern: str, group: str, end: Leave, *, lossy: bool = False) -> None:
        self.broker, self.pattern, self.group = broker, pattern, group
        self.key: tuple[str, str, str] = ("", pattern, group)
        self.subscriptions: list[NotificationSubscription] = []
        self.consumer: Consumer[Any] | None = None
        self.round_robin = False
        self._end, self._lossy, self._turn = end, lossy, 0

    @property
    def source(self) -> str:
        """The stream that it reads."""
        return "" if self.consumer is None else self.consumer.subscription.source

    def wants_once(self) -> bool:
        """Whether one of its subscriptions wants each message exactly once."""
        return any(each.terms.exactly_once for each in self.subscriptions)

    async def __call__(self, payload: Any, context: Context) -> Outcome:
        """The engine's handler."""
        outcome: Outcome = ACK
        for subscription in self._chosen():
            outcome = await subscription.handle(self.note(payload, context))
            if not isinstance(outcome, Ack):
                break
        return outcome

    def note(self, payload: Any, context: Context) -> Notification:
        """The message for one of the handlers."""
        return note_of(payload, context, self.pattern)

    def refused(self, delivery: Delivery[Any], outcome: DeadLetter) -> None:
        """A message became a dead letter without having run: it could not be read, or killed its workers."""
        if self.subscriptions:
            self.subscriptions[0].given_up()

    def _chosen(self) -> Sequence[NotificationSubscription]:
        active = [each for each in self.subscriptions if not each.is_paused] or self.subscriptions
        if not self.round_robin or not active:
            return tuple(active)
        self._turn += 1
        return (active[self._turn % len(active)],)

    async def changed(self) -> None:
        """Fetch as long as one subscription wants messages."""
        consumer = self.consumer
        if consumer is None:
            return
        wanted = any(not each.is_paused for each in self.subscriptions)
        if wanted is not consumer.paused:
            return
        if wanted:
            await consumer.resume()
            return
        await consumer.pause()
        if self._lossy and isinstance(self.broker, SupportsDeparture):
            await self.broker.depart(consumer.subscription)

    async def leave(self, subscription: NotificationSubscription, *, remove_pattern: bool) -> None:
        """Go without this subscription; without any it is over."""
        if len(self.subscriptions) > 1:
            self.subscriptions.remove(subscription)
            await self.changed()
            return
        await self._end(self, subscription, remove_pattern)

    async def waiting(self) -> tuple[int | None, int | None]:
        """Messages in hands, and before them, of the group in all processes."""
        consumer = self.consumer
        if consumer is None or not isinstance(self.broker, SupportsInspect):
            return None, None
        return await pending_of(self.broker, consumer.subscription)


async def pending_of(broker: SupportsInspect, subscription: Subscription) -> tuple[int, int | None]:
    """What a group has in hands, and before it."""
    stats = await broker.stats(subscription.source)
    for each in stats.groups:
        if each.name == subscription.group:
            return each.leased, each.lag
    return 0, 0


def payload_of(body: bytes) -> Any:
    """The payload of a dead letter; what cannot be read as the bytes that it is."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
