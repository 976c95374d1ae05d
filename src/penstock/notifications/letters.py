"""Dead letters as a broker whose one source is all of them, so that a consumer of the engine may read them.

A letter is leased by a reservation in a store, which others respect. ``Ack`` removes the letter. ``Retry`` keeps it and
brings it again after the delay; ``DeadLetter`` keeps it, and it is not handed out again for a long time. Whoever puts
letters back, or removes them, meanwhile, wins. Reservations are renewed on the worker's loop (``LetterKeeper``).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ..broker import FOREVER, Capabilities, DeadMessage, Outgoing, Settlement, Subscription
from ..clock import Clock
from ..errors import UnsupportedFeature
from ..message import Delivery
from ..outcome import Ack, Outcome, Release, Retry
from ..store import Claim, Store

SOURCE = "dead letters"
LETTER = "letter"  # the header that says why a message is one
LEASE = 60.0
PAGE = 100
LOOK = 0.1  # seconds between two looks for news
KEPT_FOR = 30 * 86_400.0  # seconds for which a letter that was handled and kept is not handed out again
GONE_FOR = 3600.0  # and one that was removed, to whoever saw it before


class _Receipt(msgspec.Struct, eq=False):
    source: str
    letter: str
    group: str
    key: str
    token: str


class _Place(msgspec.Struct, eq=False):
    """How far a group has looked: the last letter of each source, whether that was the end, when it begins again."""

    after: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    through: bool = True
    rescan_at: float = 0.0


class LetterBroker:
    """``broker``: one with bindings that lets itself be inspected."""

    capabilities = Capabilities(max_delay=FOREVER, retentions=(), counted=False, max_batch=100)

    def __init__(self, broker: Any, store: Store, clock: Clock, *, forked: bool = False) -> None:
        self._broker, self._store, self._clock, self._forked = broker, store, clock, forked
        self.identity: str = broker.identity
        self._places: dict[str, _Place] = {}  # by group
        self._held: dict[str, _Receipt] = {}

    @property
    def url(self) -> str:
        return f"{self._broker.url} ({SOURCE})"

    async def open(self) -> None:
        if not self._forked:
            await self._broker.open()

    async def close(self) -> None:
        held, self._held = self._held, {}
        self._places.clear()
        for receipt in held.values():
            await self._store.release(receipt.key, receipt.token)

    def fork(self) -> LetterBroker:
        return LetterBroker(self._broker, self._store, self._clock, forked=True)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        raise UnsupportedFeature("nobody sends dead letters: publish to a channel")

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[_Receipt]]:
        deadline = self._clock.monotonic() + wait
        while limit > 0:
            found = await self._take(subscription, limit, deadline)
            left = deadline - self._clock.monotonic()
            if found or left <= 0:
                return found
            await self._clock.sleep(min(LOOK, left))
        return []

    async def settle(self, settlements: Sequence[Settlement[_Receipt]]) -> Sequence[Delivery[_Receipt]]:
        return [item.delivery for item in settlements if not await self._settle(item.delivery.receipt, item.outcome)]

    async def extend(self, deliveries: Sequence[Delivery[_Receipt]], lease: float) -> Sequence[Delivery[_Receipt]]:
        return []  # on another thread, where no store is to be had

    async def renew(self) -> None:
        """Renew what is held."""
        for receipt in list(self._held.values()):
            await self._store.renew(receipt.key, receipt.token, LEASE)

    async def _take(self, subscription: Subscription, limit: int, deadline: float) -> list[Delivery[_Receipt]]:
        """Go on where the group's last look ended; from the start again now and then, but not before the end was seen."""
        place = self._places.setdefault(subscription.group, _Place())
        now = self._clock.monotonic()
        if place.through and now >= place.rescan_at:  # for what others have let go of, and what failed here
            place.after.clear()
            place.rescan_at = now + LEASE
        place.through = False
        found: list[Delivery[_Receipt]] = []
        try:
            for source in await self._broker.dead_sources():
                while page := await self._broker.dead(source, PAGE, after=place.after.get(source)):
                    for letter in page:
                        if delivery := await self._reserve(subscription, source, letter):
                            found.append(delivery)
                        place.after[source] = letter.id
                        if len(found) >= limit:
                            return found
                    if self._clock.monotonic() >= deadline:
                        return found
        except BaseException:  # nobody will see them: let their reservations lapse
            for each in found:
                self._held.pop(each.receipt.key, None)
            raise
        place.through = True
        return found

    async def _reserve(self, subscription: Subscription, source: str, letter: DeadMessage) -> Delivery[_Receipt] | None:
        key, token = f"rotif:letter:{subscription.group}:{source}:{letter.id}", uuid.uuid4().hex
        if await self._store.reserve(key, token, LEASE) is not Claim.NEW:
            return None
        self._held[key] = receipt = _Receipt(source, letter.id, subscription.group, key, token)
        return _delivery(subscription, letter, receipt)

    async def _settle(self, receipt: _Receipt, outcome: Outcome) -> bool:
        store, key, token = self._store, receipt.key, receipt.token
        if not await store.renew(key, token, LEASE):
            self._held.pop(key, None)
            return False
        if isinstance(outcome, Ack):
            await self._broker.purge_dead(receipt.source, [receipt.letter])
            await store.complete(key, token, GONE_FOR)
        elif isinstance(outcome, Retry | Release):
            delay = max(outcome.delay or 0.0, 0.0)
            await (store.renew(key, token, delay) if delay else store.release(key, token))
            place = self._places.setdefault(receipt.group, _Place())
            place.rescan_at = min(place.rescan_at, self._clock.monotonic() + delay)
        else:
            await store.complete(key, token, KEPT_FOR)
        self._held.pop(key, None)
        return True


class LetterKeeper:
    """Renews the reservations of a ``LetterBroker``."""

    name, stream = "letter keeper", SOURCE

    def __init__(self, letters: LetterBroker) -> None:
        self._letters = letters

    async def run_once(self) -> float:
        """Renew."""
        await self._letters.renew()
        return LEASE / 4


def _delivery(subscription: Subscription, letter: DeadMessage, receipt: _Receipt) -> Delivery[_Receipt]:
    message = letter.message
    why = {"error": letter.error, "reason": letter.reason, "group": letter.group}
    body = message.body if letter.raw is None else msgspec.json.encode(letter.raw.decode("utf-8", "replace"))
    return Delivery(
        message=replace(message, id=letter.id, body=body, headers={**message.headers, LETTER: why}),
        source=subscription.source,
        group=subscription.group,
        receipt=receipt,
    )
