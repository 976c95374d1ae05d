"""The Sidekiq driver against somebody who tries to lose a job or to have it twice, on a real server, from seeds.

Owners fetch and are cut off, keep, forget, settle and extend at random, reclaim from each other and from themselves, lose
their connections, leave and die; Ruby takes and pushes beside them; equal texts and equal jids are among the jobs. The
books must balance: what was pushed is acked, or is somewhere; and once all is calm, everything comes to somebody's hands,
while those who forgot what they hold live on.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from penstock.broker import Settlement, Subscription
from penstock.brokers.sidekiq import SidekiqBroker
from penstock.errors import BrokerError
from penstock.message import Delivery
from penstock.outcome import ACK, DeadLetter, Outcome, Release, Retry
from tests.servers.redis_server import Server

LEASE = 0.4
STEPS = int(os.environ.get("PENSTOCK_SIDEKIQ_STEPS", "250"))
SEEDS = range(*map(int, os.environ.get("PENSTOCK_SIDEKIQ_SEEDS", "0:4").split(":")))


class Owner:
    """One process: a broker, what it holds and has not forgotten, and the queues that it reads."""

    def __init__(self, url: str, queues: tuple[str, ...]) -> None:
        self.broker = SidekiqBroker.from_url(f"sidekiq+{url}", foreign_grace=0.1)
        self.queues = queues
        self.hands: list[Delivery[Any]] = []
        self.fetching = asyncio.Lock()  # at most one fetch at a time is what the port allows

    def subscription(self, dice: random.Random) -> Subscription:
        queues = list(self.queues)
        dice.shuffle(queues)
        return Subscription(source=",".join(sorted(queues)), lease=LEASE, queues=tuple(queues))


class World:
    """The server, its owners, and the books."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.dice = server, random.Random(seed)
        self.owners = [self._owner() for _ in range(3)]
        self.pushed: Counter[int] = Counter()
        self.acked: Counter[int] = Counter()
        self.perhaps: Counter[int] = Counter()  # acks whose answer was lost
        self.rubys: list[tuple[str, bytes]] = []
        self.number = 0

    def _owner(self) -> Owner:
        return Owner(self.server.url, self.dice.choice([("a", "b"), ("a", "b"), ("b",), ("a",)]))

    # ----------------------------------------------------------------------------------------------------- the moves

    async def push(self) -> None:
        """One job, or several with one text, or with one jid; sometimes as something that is no job."""
        self.number += 1
        queue, jid = self.dice.choice("ab"), f"j{self.dice.choice([self.number, self.number, 0])}"
        fields: dict[str, Any] = {"class": "T", "args": [self.number], "queue": queue, "jid": jid}
        if self.dice.random() < 0.1:
            del fields["class"]
        raw = json.dumps(fields, separators=(",", ":"))
        for _ in range(self.dice.choice([1, 1, 1, 2, 3])):
            self.pushed[self.number] += 1
            self.server.call("LPUSH", f"queue:{queue}", raw)

    async def fetch(self) -> None:
        owner = self.dice.choice(self.owners)
        if owner.fetching.locked():
            return
        async with owner.fetching:
            subscription, limit = owner.subscription(self.dice), self.dice.randint(1, 4)
            if self.dice.random() < 0.2:
                call: Any = owner.broker.reclaim(subscription, limit)
            else:
                call = owner.broker.fetch(subscription, limit, self.dice.choice([0.0, 0.02]))
            found = await self._maybe_cut(call) or ()
            owner.hands += found  # not before: others change what is in hand meanwhile

    async def settle(self) -> None:
        owner = self.dice.choice(self.owners)
        some = [each for each in owner.hands if self.dice.random() < 0.6]
        batch = [Settlement(delivery=each, outcome=self._outcome(each)) for each in some]
        owner.hands = [each for each in owner.hands if each not in some]
        acks = [item.delivery for item in batch if item.outcome is ACK]
        if not batch:
            return
        lost = await self._maybe_cut(owner.broker.settle(batch))
        if lost is None:
            self.perhaps.update(map(number_of, acks))
            if self.dice.random() < 0.7:  # as the engine does
                owner.hands += some
        else:
            self.acked.update(number_of(each) for each in acks if each not in lost)

    async def extend(self) -> None:
        owner = self.dice.choice(self.owners)
        some = [each for each in owner.hands if self.dice.random() < 0.7]
        lost = await self._maybe_cut(owner.broker.extend(some, LEASE)) or ()
        owner.hands = [each for each in owner.hands if each not in lost]

    async def forget(self) -> None:
        owner = self.dice.choice(self.owners)
        owner.hands = [each for each in owner.hands if self.dice.random() < 0.8]

    async def promote(self) -> None:
        with suppress(BrokerError):
            await self._maybe_cut(self.dice.choice(self.owners).broker.promote_due("", self.dice.randint(1, 5)))

    async def kill_connections(self) -> None:
        if self.dice.random() < 0.3:
            self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def wait(self) -> None:
        await asyncio.sleep(self.dice.choice([0.001, 0.01, 0.1]))

    async def ruby(self) -> None:
        """Take a job, and at times put one back, as a Ruby worker that is told to stop."""
        queue = self.dice.choice("ab")
        raw = self.server.call("RPOP", f"queue:{queue}")
        if raw is not None:
            self.rubys.append((queue, raw))
        if self.rubys and self.dice.random() < 0.6:
            queue, raw = self.rubys.pop()
            self.server.call("RPUSH", f"queue:{queue}", raw)

    async def replace(self) -> None:
        """One leaves, or dies, and another one comes."""
        if self.dice.random() < 0.2:
            owner = self.owners.pop(self.dice.randrange(len(self.owners)))
            self.owners.append(self._owner())
            if self.dice.random() < 0.5:
                await owner.broker.close()
            else:
                await owner.broker.client.close()
                for reader in owner.broker._readers.values():
                    await reader.close()

    def _outcome(self, delivery: Delivery[Any]) -> Outcome:
        if delivery.defect is not None:
            return self.dice.choice([DeadLetter("undecodable"), Release()])
        delay = self.dice.choice([0.0, 0.05])
        error = RuntimeError("no")
        return self.dice.choice(
            [
                ACK,
                ACK,
                ACK,
                Retry(delay, error),
                Retry(delay, counts=False),
                Release(),
                Release(0.03),
                DeadLetter("", error),
            ]
        )

    async def _maybe_cut(self, call: Any) -> Any:
        """The result of a call, or nothing if it was cut off or failed."""
        task = asyncio.ensure_future(call)
        if self.dice.random() < 0.25:
            for _ in range(self.dice.randint(0, 12)):
                await asyncio.sleep(0)
            task.cancel()
        elif self.dice.random() < 0.1:
            self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            return await task
        except (asyncio.CancelledError, BrokerError):
            return None

    # ----------------------------------------------------------------------------------------------------- the books

    def there(self) -> Counter[int]:
        """The copies of each job in all structures."""
        found: Counter[int] = Counter(number_in(raw) for _, raw in self.rubys)
        for key in self.server.call("KEYS", "queue:*") + self.server.call("KEYS", "pq:inflight:*"):
            found.update(map(number_in, self.server.call("LRANGE", key, 0, -1)))
        for key in ("retry", "schedule", "dead"):
            found.update(map(number_in, self.server.call("ZRANGE", key, 0, -1)))
        return found

    def check(self) -> None:
        there = self.there()
        for number, count in self.pushed.items():
            gone = count - there[number]
            assert self.acked[number] <= gone <= self.acked[number] + self.perhaps[number], (
                f"job {number}: pushed {count}, there {there[number]}, acked {self.acked[number]},"
                f" perhaps {self.perhaps[number]}"
            )

    async def calm_down(self) -> None:
        """Everybody works as he should, and lives on with what he has forgotten; in the end nothing is left."""
        for queue, raw in self.rubys:
            self.server.call("RPUSH", f"queue:{queue}", raw)
        self.rubys.clear()
        self.owners.append(Owner(self.server.url, ("a", "b")))
        for owner in self.owners:
            owner.hands.clear()
        deadline = time.monotonic() + 20 * LEASE + 5
        while left := self._left():
            assert time.monotonic() < deadline, f"nobody gets what is in {left}, of owners {self._leases()}"
            for owner in self.owners:
                await self._work(owner)
            await asyncio.sleep(0.01)

    async def _work(self, owner: Owner) -> None:
        subscription = owner.subscription(self.dice)
        await owner.broker.promote_due("", 100)
        for delivery in (
            *await owner.broker.reclaim(subscription, 100),
            *await owner.broker.fetch(subscription, 2, 0.0),
        ):
            outcome = ACK if delivery.defect is None else DeadLetter("undecodable")
            if delivery.defect is None:
                self.perhaps[number_of(delivery)] += 1
            await owner.broker.settle([Settlement(delivery=delivery, outcome=outcome)])

    def _left(self) -> list[str]:
        lists = self.server.call("KEYS", "queue:*") + self.server.call("KEYS", "pq:inflight:*")
        sets = [key for key in ("retry", "schedule") if self.server.call("ZCARD", key)]
        return [key.decode() for key in lists] + sets

    def _leases(self) -> Any:
        return self.server.call("ZRANGE", "pq:procs", 0, -1, "WITHSCORES"), self.server.call("TIME")

    async def close(self) -> None:
        for owner in self.owners:
            await owner.broker.close()


def number_of(delivery: Delivery[Any]) -> int:
    return number_in(delivery.receipt.raw)


def number_in(raw: bytes) -> int:
    number: int = json.loads(raw)["args"][0]
    return number


@pytest.fixture(params=SEEDS)
async def world(request: pytest.FixtureRequest, redis_server: Server) -> AsyncIterator[World]:
    redis_server.flush()
    world = World(redis_server, request.param)
    yield world
    await world.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of owners that die
async def test_whatever_happens_the_books_balance_and_all_comes_to_hand(world: World) -> None:
    weights = {
        world.push: 12,
        world.fetch: 12,
        world.settle: 10,
        world.extend: 6,
        world.promote: 4,
        world.wait: 3,
        world.ruby: 2,
        world.replace: 1,
        world.kill_connections: 1,
        world.forget: 1,
    }
    moves = world.dice.choices(list(weights), list(weights.values()), k=STEPS)
    for first, second in zip(moves[::2], moves[1::2], strict=True):
        await asyncio.gather(first(), second())
    await asyncio.sleep(0.05)  # what was cut off may still be on its way
    world.check()
    await world.calm_down()
    world.check()
