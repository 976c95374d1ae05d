"""The gate before a broker: of a queue with a rate no more is handed on than its budget allows.

A look at the budget says how much may be asked for; what came is then spent, in one step, and what others have spent
meanwhile is given back, uncounted, until there may be more. So no workers together run more than the limit, waiting at
an empty queue costs nothing of it, and nothing is spent that was not taken. If the store cannot be reached nothing is
fetched: that is an outage like the broker's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .broker import Broker, Settlement, Subscription
from .clock import Clock
from .message import Delivery
from .outcome import Release
from .rate import Rate
from .store import Grant, SupportsBudgets


@dataclass(frozen=True, slots=True)
class Budget:
    """What several queues may spend together: ``rate``, counted under ``name``."""

    name: str
    rate: Rate


@dataclass(frozen=True, slots=True)
class Rates:
    """Which queues have a budget, and where it is kept."""

    store: SupportsBudgets
    budgets: Mapping[str, Budget]

    def alike(self, queues: Collection[str]) -> bool:
        """Whether all of these spend of one budget, or of none: then one fetch may take from all of them."""
        return len({self.budgets.get(queue) for queue in queues}) == 1


class Gate:
    """``fetch`` as the port's, within the budgets."""

    def __init__(self, broker: Broker[Any], rates: Rates, clock: Clock) -> None:
        self._broker, self._rates, self._clock = broker, rates, clock

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[Any]]:
        """Up to ``limit`` messages, as far as the budget of the subscription's source, or queues, goes.

        Cancelling it loses nothing: what was fetched and not handed on is the broker's to give back.
        """
        budget = self._rates.budgets.get((subscription.queues or (subscription.source,))[0])
        if budget is None or limit <= 0:
            return await self._broker.fetch(subscription, limit, wait)
        now = await self._spend(budget, 0)
        if not now.left:
            if wait > 0:
                await self._clock.sleep(min(wait, now.retry_after))
            return []
        found = await self._broker.fetch(subscription, min(limit, now.left), wait)
        if not found:
            return found
        try:
            grant = await self._spend(budget, len(found))
        except BaseException:
            await self._give_back(found, 0.0)
            raise
        if grant.count < len(found):
            await self._give_back(found[grant.count :], grant.retry_after)
        return found[: grant.count]

    async def _spend(self, budget: Budget, wanted: int) -> Grant:
        return await self._rates.store.spend(budget.name, budget.rate.limit, budget.rate.window, wanted)

    async def _give_back(self, deliveries: Sequence[Delivery[Any]], delay: float) -> None:
        await self._broker.settle([Settlement(delivery=each, outcome=Release(delay)) for each in deliveries])
