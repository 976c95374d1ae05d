"""What works for a worker's consumers in the background: their services and the thread that renews their leases.

Consumers come and go while the worker runs; with each, its keepers and its services. A broker has services too, for as
long as the worker lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from .audit import Audit
from .broker import Broker
from .consumer import Consumer
from .running import Surroundings
from .services import Service, run_forever
from .services.archivist import Archivist
from .services.leases import KeeperThread, LeaseKeeper


class Staff:
    """``of_broker``: the services that a broker needs once. ``thread``: renew leases on a thread."""

    def __init__(
        self,
        around: Surroundings,
        of_broker: Callable[[Broker[Any]], Iterable[Service]],
        *,
        scheduler: bool,
        thread: bool,
    ) -> None:
        self._around, self._of_broker, self._scheduler = around, of_broker, scheduler
        self._keeper = KeeperThread(around.clock, around.dice, around.telemetry) if thread else None
        self._tasks: dict[int, list[asyncio.Task[None]]] = {}  # by the consumer, broker or archive that they work for
        self._keepers: dict[int, list[LeaseKeeper]] = {}
        self.brokers: dict[int, Broker[Any]] = {}

    def start(self) -> None:
        """Start the thread."""
        if self._keeper is not None:
            self._keeper.start()

    def begin(self, consumer: Consumer[Any]) -> None:
        """Work for a consumer that has started."""
        own, around = self._tasks.setdefault(id(consumer), []), self._around
        outages = around.outages(consumer.broker)
        for running in consumer.running:
            keeper = running.keeper()
            if self._keeper is not None:
                self._keeper.add(keeper, outages)
                self._keepers.setdefault(id(consumer), []).append(keeper)
            else:
                own.append(_task(keeper.run(around.clock, around.dice, around.telemetry, outages)))
            own += [self._serve(consumer.broker, each) for each in running.services(scheduler=self._scheduler)]
        archive = consumer.archive
        if archive is not None and archive.retention is not None and id(archive) not in self._tasks:
            self._tasks[id(archive)] = [self._serve(archive, Archivist(archive))]
        if id(consumer.broker) not in self.brokers:
            self.brokers[id(consumer.broker)] = consumer.broker
            services = self._of_broker(consumer.broker)
            self._tasks[id(consumer.broker)] = [self._serve(consumer.broker, each) for each in services]

    async def end(self, consumer: Consumer[Any]) -> None:
        """Work no more for a consumer that has stopped."""
        for keeper in self._keepers.pop(id(consumer), []):
            if self._keeper is not None:
                self._keeper.drop(keeper)
        await _cancelled(self._tasks.pop(id(consumer), []))

    async def stop(self) -> None:
        """End everything."""
        await _cancelled([task for tasks in self._tasks.values() for task in tasks])
        self._tasks.clear()
        self._keepers.clear()
        if self._keeper is not None:
            await self._keeper.stop()

    def _serve(self, on: Broker[Any] | Audit, service: Service) -> asyncio.Task[None]:
        around = self._around
        outages = around.outages(on)
        return _task(run_forever(service, around.clock, around.dice, around.telemetry, outages=outages))


def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
