"""Very many messages: the server holds what is in flight and nothing else, whoever came, went or died meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from penstock import Claim, Consumer, Producer, Send, Worker
from penstock.broker import Subscription
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.errors import ConfigurationError
from tests.servers.redis_server import OwnServer, Server, find_binary

MESSAGES = int(os.environ.get("PENSTOCK_E2E_MESSAGES", "50000"))
SLOW = MESSAGES // 100  # messages of the test in which one group is slow
LEASE = 0.5
BACKLOG, CHUNK = 10_000, 1000
RESTARTS = 20
MEGABYTE = 1024 * 1024

RETENTIONS = {"interest": {}, "limits": {"max_length": 100}, "keep": {}}


class Total:
    """Handles by counting. ``pause``: seconds for each message."""

    def __init__(self, pause: float = 0.0) -> None:
        self.seen: dict[int, int] = {}
        self.orphans: set[int] = set()
        self._pause = pause

    async def __call__(self, number: int) -> None:
        if number < 0:
            self.orphans.add(number)
        else:
            self.seen[number] = self.seen.get(number, 0) + 1
        if self._pause:
            await asyncio.sleep(self._pause)


@pytest.fixture
async def own_server(server_kind: str) -> AsyncIterator[OwnServer]:
    """One that nobody else fills."""
    server = OwnServer(find_binary(server_kind))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.timeout(120 + MESSAGES / 2000)
async def test_after_very_many_messages_and_restarts_the_server_holds_nothing_and_has_its_memory_back(
    own_server: OwnServer,
) -> None:
    total = Total()
    await flow(own_server, total, 0, CHUNK * 5)  # so that what the server allocates once is allocated
    before, began = memory(own_server), time.monotonic()
    longest = 0
    part, end = MESSAGES // RESTARTS, CHUNK * 5
    for _ in range(RESTARTS):
        orphans = {-end, -end - 1, -end - 2}
        await die_with_some(own_server.url, orphans)
        longest = max(longest, await flow(own_server, total, end, end + part))
        end += part
    await flow(own_server, total, end, end + CHUNK, empty=True)
    seconds, after = time.monotonic() - began, memory(own_server)
    owners = await owners_left(own_server)
    again = sum(times > 1 for times in total.seen.values())
    print(
        f"{MESSAGES} messages in {seconds:.1f} s, {RESTARTS} restarts and as many crashes, {again} handed over again; "
        f"longest {longest}, owners left {owners}, memory {before / MEGABYTE:.2f} MiB → {after / MEGABYTE:.2f} MiB"
    )
    assert set(total.seen) == set(range(end + CHUNK))
    assert len(total.orphans) == 3 * RESTARTS
    assert longest <= BACKLOG + 2 * CHUNK
    assert own_server.call("XLEN", "s") == 0
    assert own_server.call("XPENDING", "s", "default")["pending"] == 0
    assert owners <= 1  # what was handed back has a name of its own
    assert after - before < MEGABYTE


async def flow(server: Server, total: Total, start: int, end: int, *, empty: bool = False) -> int:
    """Send the numbers and have them handled by a worker that comes and goes; the longest that the stream ever was.

    ``empty``: stay until there is nothing left, of the dead either.
    """
    broker = RedisStreamsBroker.from_url(server.url)
    consumer = Consumer(broker, "s", int, total, concurrency=50, claim=Claim(min_idle=LEASE, interval=0.1))
    producer, sent, longest = Producer(broker, "s", int), start, 0
    async with Worker(consumer):
        while len(total.seen) < end or (empty and server.call("XLEN", "s")):
            if sent < end and sent - len(total.seen) < BACKLOG:
                await producer.send_many([Send(n) for n in range(sent, min(sent + CHUNK, end))])
                sent = min(sent + CHUNK, end)
                longest = max(longest, int(server.call("XLEN", "s")))
            else:
                await asyncio.sleep(0.001)
    return longest


async def die_with_some(url: str, numbers: set[int]) -> None:
    """An owner takes a few messages and is never heard of again."""
    broker = RedisStreamsBroker.from_url(url)
    await Producer(broker, "s", int).send_many([Send(n) for n in numbers])
    await broker.fetch(Subscription(source="s", lease=LEASE), 5, 0.1)
    for reader in broker._readers.values():
        await reader.close()
    await broker._client.close()


async def owners_left(server: Server) -> int:
    """Once those long silent have been swept away."""
    broker = RedisStreamsBroker.from_url(server.url, owner_gone_after=0.1)
    subscription, deadline = Subscription(source="s", lease=0.01), time.monotonic() + 10.0
    while True:
        await broker.trim(subscription)
        count = len(server.call("XINFO", "CONSUMERS", "s", "default"))
        if count <= 1 or time.monotonic() > deadline:
            await broker.close()
            return count
        await asyncio.sleep(0.05)


def memory(server: Server) -> int:
    server.call("MEMORY", "PURGE")
    return int(server.call("INFO", "memory")["used_memory"])


@pytest.mark.slow
@pytest.mark.timeout(120 + SLOW / 100)
@pytest.mark.parametrize("retention", RETENTIONS)
async def test_a_group_ten_times_slower_gets_everything_and_what_stays_is_what_retention_says(
    own_server: OwnServer, retention: str
) -> None:
    broker = RedisStreamsBroker.from_url(own_server.url, retention=retention, **RETENTIONS[retention])
    fast, slow = Total(0.002), Total(0.02)
    groups = {"fast": fast, "slow": slow}
    consumers = [Consumer(broker, "s", int, total, group=name, concurrency=10) for name, total in groups.items()]
    async with Worker(*consumers), sweeping(broker):
        await Producer(broker, "s", int).send_many([Send(n) for n in range(SLOW)])
        await until(lambda: len(fast.seen) == SLOW)
        assert len(slow.seen) < SLOW
        await until(lambda: all(consumer.counters.acked == SLOW for consumer in consumers))
        await broker.trim(Subscription(source="s", group="fast"))
        left = own_server.call("XLEN", "s")
    assert dict.fromkeys(range(SLOW), 1) == slow.seen == fast.seen
    assert {"interest": 0, "limits": 100, "keep": SLOW}[retention] == left


@asynccontextmanager
async def sweeping(broker: RedisStreamsBroker) -> AsyncIterator[None]:
    """The pruner, in a hurry."""

    async def sweep() -> None:
        while True:
            await broker.trim(Subscription(source="s", group="fast"))
            await asyncio.sleep(0.01)

    task = asyncio.create_task(sweep())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_work_queue_has_no_second_group_to_lose_anything(own_server: OwnServer) -> None:
    broker = RedisStreamsBroker.from_url(own_server.url, retention="workqueue")
    async with Worker(Consumer(broker, "s", int, Total(), group="one")):
        other = RedisStreamsBroker.from_url(own_server.url, retention="workqueue")
        with pytest.raises(ConfigurationError, match="belongs to group 'one'"):
            await Worker(Consumer(other, "s", int, Total(), group="two")).start()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60 + SLOW / 100):
        while not condition():
            await asyncio.sleep(0.01)
