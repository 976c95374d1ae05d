"""The network between simulated machines and the system, and each machine's broker at its end of the line.

Every call takes a request and an answer on the way, each of chance length: that is where the interleavings come from.
(Within one machine the order of wake-ups stays asyncio's own: code may rely on it.) A request may not arrive, and the
answer to one that has had its effect may be lost; the caller sees ``ConnectionFailed`` for both.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ...broker import Outgoing, Settlement, Subscription
from ...brokers.memory import MemoryBroker
from ...brokers.memory_system import MemorySystem
from ...errors import ConnectionFailed
from ...message import Delivery
from .machine import Machine
from .referee import Referee

T = TypeVar("T")


class Network:
    """``latency``: mean seconds of one way; ``faults``: share of the ways on which something gets lost."""

    def __init__(self, dice: random.Random, *, latency: float = 0.005, faults: float = 0.0) -> None:
        self._dice, self.latency, self.faults = dice, latency, faults
        self._answering = asyncio.Event()
        self._answering.set()

    def pause(self) -> None:
        """The system stands still and answers nobody."""
        self._answering.clear()

    def go_on(self) -> None:
        """It is back."""
        self._answering.set()

    async def travel(self, machine: Machine) -> None:
        """One way. Raises ``ConnectionFailed`` if it does not lead anywhere."""
        if machine.partitioned:
            await asyncio.sleep(0.2 + 0.3 * self._dice.random())  # a deadline's worth of silence
        elif self._dice.random() < 0.6:
            await asyncio.sleep(self._dice.expovariate(1.0 / self.latency))
        await self._answering.wait()
        if machine.partitioned or self._dice.random() < self.faults:
            machine.troubled()
            raise ConnectionFailed("the simulated network lost it")


class SimulatedBroker:
    """A memory broker behind the network, watched by the referee. A subclass may break the rules on purpose."""

    capabilities = MemoryBroker.capabilities
    url = "simulated://"

    def __init__(self, system: MemorySystem, machine: Machine, network: Network, referee: Referee) -> None:
        self.identity = machine.name
        self.system, self.machine, self.network, self.referee = system, machine, network, referee
        self.inner = MemoryBroker(system, identity=machine.name)

    async def open(self) -> None: ...

    async def close(self) -> None:
        try:
            await self.exchange(self.effect_close)
        except ConnectionFailed:
            return  # what could not be given back lapses

    def fork(self) -> SimulatedBroker:
        return type(self)(self.system, self.machine, self.network, self.referee)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        return await self.exchange(lambda: self.effect_publish(messages))

    async def fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[int]]:
        return await self._handing_over(lambda: self.effect_fetch(subscription, limit, wait))

    async def reclaim(
        self, subscription: Subscription, limit: int, *, above: int = 0, below: int | None = None
    ) -> Sequence[Delivery[int]]:
        return await self._handing_over(lambda: self.effect_reclaim(subscription, limit, above, below))

    async def settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        return await self.exchange(lambda: self.effect_settle(settlements))

    async def extend(self, deliveries: Sequence[Delivery[int]], lease: float) -> Sequence[Delivery[int]]:
        return await self.exchange(lambda: self.effect_extend(deliveries, lease))

    async def exchange(self, effect: Callable[[], Awaitable[T]], unheard: Callable[[T], None] | None = None) -> T:
        """Request, effect, answer. ``unheard`` is told of an effect whose caller was gone when the answer came."""
        await self.machine.gate()
        await self.network.travel(self.machine)
        result = await effect()
        try:
            await self.network.travel(self.machine)
            await self.machine.gate()
        except asyncio.CancelledError:
            if unheard is not None:
                unheard(result)
            raise
        return result

    async def _handing_over(self, effect: Callable[[], Awaitable[Sequence[Delivery[int]]]]) -> Sequence[Delivery[int]]:
        return await self.exchange(effect, self.referee.set_adrift)

    # ---------------------------------------------------------------------- what the system does, in no time at all

    async def effect_close(self) -> None:
        await self.inner.close()
        self.referee.given_back(self.machine)

    async def effect_publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        idents = await self.inner.publish(messages)
        for item, ident in zip(messages, idents, strict=True):
            self.referee.published(item.message.headers["number"], ident)
        return idents

    async def effect_fetch(self, subscription: Subscription, limit: int, wait: float) -> Sequence[Delivery[int]]:
        deliveries = await self.inner.fetch(subscription, limit, wait)
        self.referee.handed(self.machine, deliveries)
        return deliveries

    async def effect_reclaim(
        self, subscription: Subscription, limit: int, above: int, below: int | None
    ) -> Sequence[Delivery[int]]:
        deliveries = await self.inner.reclaim(subscription, limit, above=above, below=below)
        self.referee.handed(self.machine, deliveries)
        return deliveries

    async def effect_settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        lost: list[Delivery[int]] = []
        for item in settlements:
            refused = await self.inner.settle([item])
            lost += refused
            if not refused:
                self.referee.settled(self.machine, item)
        return lost

    async def effect_extend(self, deliveries: Sequence[Delivery[int]], lease: float) -> Sequence[Delivery[int]]:
        lost: Sequence[Delivery[Any]] = await self.inner.extend(deliveries, lease)
        self.referee.renewed(deliveries, lost)
        return lost
