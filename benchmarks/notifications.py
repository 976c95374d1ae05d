"""Notifications on Redis, measured: ``python -m benchmarks.notifications``.

1. Publishing, one after the other, from a process that has twenty subscriptions: p50 and p99 in ms.
2. Delivery of single messages to an idle subscription, from the call of publish to the handler: p50 and p99 in ms.
3. Publishing and handling many: messages a second.
"""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

from penstock import Notification, NotificationManager
from tests.servers.redis_server import OwnServer, find_binary

SINGLE, MANY = 2000, 20_000


def percentiles(seconds: list[float]) -> str:
    cuts = quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:.2f} ms, p99 {cuts[98] * 1000:.2f} ms"


async def publishing(url: str) -> None:
    async with NotificationManager(url) as manager:
        for n in range(20):
            await manager.subscribe(f"topic{n}.*", _nothing)
        taken: list[float] = []
        for n in range(SINGLE):
            began = time.perf_counter()
            await manager.publish(f"topic{n % 20}.x", {"number": n})
            taken.append(time.perf_counter() - began)
    print(f"publish while 20 subscriptions run: {percentiles(taken)}")


async def delivery(url: str) -> None:
    async with NotificationManager(url) as manager:
        arrived, taken = asyncio.Event(), list[float]()

        async def handle(message: Notification) -> None:
            taken.append(time.perf_counter() - message.payload)
            arrived.set()

        await manager.subscribe("ping", handle)
        for _ in range(SINGLE // 4):
            arrived.clear()
            await manager.publish("ping", time.perf_counter())
            await arrived.wait()
            await asyncio.sleep(0.002)
    print(f"delivery to an idle subscription: {percentiles(taken)}")


async def many(url: str) -> None:
    async with NotificationManager(url) as manager:
        count, done = 0, asyncio.Event()

        async def handle(_: Notification) -> None:
            nonlocal count
            count += 1
            if count == MANY:
                done.set()

        subscription = await manager.subscribe("many", handle)
        await subscription.pause()
        began = time.perf_counter()
        await asyncio.gather(*(manager.publish("many", {"number": n}) for n in range(MANY)))
        published = time.perf_counter() - began
        began = time.perf_counter()
        await subscription.resume()
        await done.wait()
        handled = time.perf_counter() - began
    print(f"{MANY} messages: published {MANY / published:,.0f}/s, handled {MANY / handled:,.0f}/s")


async def _nothing(message: Notification) -> None: ...


def main() -> None:
    server = OwnServer(find_binary("redis")).start()
    try:
        for part in (publishing, delivery, many):
            server.flush()
            asyncio.run(part(server.url))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
