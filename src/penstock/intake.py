"""The intake: fetches while there is room, keeps reading through outages, and knows whether it is healthy.

How much is fetched ahead follows the handlers: as many messages as they finished in the last moments, so that slow
jobs are not hoarded by one worker and fast ones never wait for the next read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .broker import Subscription
from .checks import at_least_one, positive
from .clock import Clock, wait_until
from .ledger import Ledger
from .message import Delivery
from .outage import OutageLog
from .turns import Fetch

AHEAD = 0.05  # seconds of work that are fetched ahead
PREFETCH_BYTES = 64 * 1024 * 1024
OVERDUE = 30.0  # seconds beyond its wait after which a fetch that has not come back is taken for an outage


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetch:
    """How far a consumer reads ahead of its slots. ``most``: messages; ``wait``: seconds of one blocking read.

    ``held``: messages in its hands, those that run included; no more is fetched then.
    """

    most: int = 1000
    wait: float = 2.0
    held: int | None = None

    def __post_init__(self) -> None:
        at_least_one("most, the messages read ahead,", self.most)
        positive("wait, the seconds of one blocking read,", self.wait)
        if self.held is not None:
            at_least_one("held, the messages in hand at once,", self.held)


class Intake:
    """Moves messages from the broker into the ledger. ``accept`` takes what was fetched.

    ``fetch``: the broker's, ``max_batch`` messages at a time. ``subscription`` is asked before each fetch: of several queues it says the order.
    """

    def __init__(  # noqa: PLR0913 parts are wired once, by the consumer
        self,
        fetch: Fetch,
        max_batch: int,
        subscription: Callable[[], Subscription],
        ledger: Ledger,
        accept: Callable[[Sequence[Delivery[Any]]], None],
        *,
        slots: int,
        prefetch: Prefetch,
        clock: Clock,
        outage: OutageLog,
    ) -> None:
        self._fetch, self._subscription, self._ledger, self._accept = fetch, subscription, ledger, accept
        self._slots, self._prefetch, self._clock, self._outage = slots, prefetch, clock, outage
        self._most = min(prefetch.most, max_batch)
        self._target = slots
        self._average_size = 0.0
        self._mark = (clock.monotonic(), 0)
        self.answered_at: float | None = None
        self._asked_at: float | None = None
        self.quiet = False

    @property
    def trouble(self) -> str:
        """Why nothing is fetched, or nothing: the last fetch failed, or the one under way should be back by now."""
        if self._outage.down:
            return f"fetching fails: {self._outage.error}"
        asked, late = self._asked_at, self._prefetch.wait + OVERDUE
        if asked is not None and self._clock.monotonic() - asked > late:
            return f"a fetch has had no answer for more than {late:g} s"
        return "" if self.answered_at is not None else "its broker has not answered yet"

    def halted(self) -> None:
        """It fetches no more: what others know of the broker counts."""
        self._asked_at = None
        self._outage.abandoned()

    def room(self) -> int:
        """How many more messages may be taken in now."""
        if self.quiet:
            return 0
        ledger = self._ledger
        # What waits for its turn takes no slot's place, within limits
        aside = ledger.aside and min(ledger.aside, self._prefetch.most, int(PREFETCH_BYTES / (self._average_size or 1)))
        room = min(self._target - len(ledger.held) + aside, self._most)
        return room if self._prefetch.held is None else min(room, self._prefetch.held - len(ledger.held))

    async def run(self) -> None:
        """Fetch until cancelled, or quiet: some client might swallow the cancellation."""
        ledger = self._ledger
        while not self.quiet:
            room = self.room()
            # Reading a few at a time would cost a round trip for each few: wait for half of it to be free.
            if room <= 0 or (ledger.waiting and room * 2 < min(self._target, self._most)):
                ledger.room.clear()
                if room <= 0:
                    await ledger.room.wait()
                else:  # a slot may take what waits and not end for long: then there is room although nothing was settled
                    await wait_until(ledger.room, self._clock, AHEAD)
                continue
            self._asked_at = self._clock.monotonic()
            try:
                deliveries = await self._fetch(self._subscription(), room, self._prefetch.wait)
            except Exception as error:  # noqa: BLE001 whatever is wrong, the intake goes on
                await self._clock.sleep(self._outage.failed(error))
                continue
            self._asked_at = None
            self._outage.recovered()
            self.answered_at = self._clock.monotonic()
            if deliveries:
                self._adapt(deliveries)
                self._accept(deliveries)
            await self._clock.sleep(0)

    def _adapt(self, deliveries: Sequence[Delivery[Any]]) -> None:
        """Set how far to read ahead from what was finished since the last batch came in."""
        now, then = self.answered_at or 0.0, self._mark[0]
        finished = self._ledger.counters.fetched - len(self._ledger.held)
        if now - then > 0.001:
            rate = (finished - self._mark[1]) / (now - then)
            self._mark = (now, finished)
            ahead = min(int(rate * AHEAD), 2 * self._prefetch.most)
            # Grow fast, shrink slowly: an idle moment says nothing about the handlers.
            self._target = self._slots + max(ahead, int((self._target - self._slots) * 0.9))
        size = sum(len(delivery.message.body) for delivery in deliveries) / len(deliveries)
        self._average_size = max(size, self._average_size * 0.9)
        if self._average_size * self._target > PREFETCH_BYTES:
            self._target = max(self._slots, int(PREFETCH_BYTES / self._average_size))
