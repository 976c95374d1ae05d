"""Keys: messages of one key are handed out one at a time and in publish order, whichever worker takes them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from msgspec.structs import replace

from ...broker import Broker, Settlement, Subscription
from ...message import Delivery, Message
from ...outcome import Ack, DeadLetter, Outcome, Release, Retry
from .harness import PATIENCE, Harness, bodies, message


def of(key: str | None, *numbers: int) -> list[Message]:
    """Messages of a key: their bodies are its name and a number."""
    return [message(f"{key}{number}".encode(), key=key) for number in numbers]


class KeyedTests(Harness):
    @pytest.fixture
    def keyed(self, subscription: Subscription) -> Subscription:
        return replace(subscription, keyed=True)

    async def test_a_key_is_taken_one_message_at_a_time_and_in_order(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        self.need(broker, "keyed")
        await self.send(broker, source, *of("a", 1, 2, 3), *of("b", 1), *of(None, 1, 2))
        found = await self.take(broker, keyed)
        assert [b"None1", b"None2", b"a1", b"b1"] == sorted(bodies(found))
        assert [] == await self.take(broker, keyed)
        for expected in (b"a2", b"a3"):
            assert await self.settle(broker, self._the(found, b"a"), Ack())
            found = await self.take(broker, keyed)
            assert [expected] == bodies(found)

    async def test_no_other_owner_gets_a_message_whose_key_is_taken(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        self.need(broker, "own_leases")
        self.need(broker, "keyed")
        await self.send(broker, source, *of("a", 1, 2), *of("b", 1, 2))
        (first,) = await self.take(broker, keyed, limit=1)
        other = await self.another()
        assert [b"b1"] == bodies(await self.collect(other, keyed, 1))
        assert [] == await self.take(other, keyed)
        assert await self.settle(broker, first, Ack())
        assert [b"a2"] == bodies(await self.collect(other, keyed, 1))

    @pytest.mark.parametrize("outcome", [Retry(0.3), Release(0.3)])
    async def test_what_comes_back_keeps_its_turn(
        self, broker: Broker[Any], source: str, keyed: Subscription, outcome: Outcome
    ) -> None:
        self.need(broker, "keyed")
        await self.send(broker, source, *of("a", 1, 2), *of("b", 1))
        found = await self.take(broker, keyed)
        assert await self.settle(broker, self._the(found, b"a"), outcome)
        assert await self.settle(broker, self._the(found, b"b"), Ack())
        await self.send(broker, source, *of("b", 2))
        assert [b"b2"] == bodies(await self.collect(broker, keyed, 1)), "other keys go on"
        await self.lapse(0.35)
        again = await self.one(broker, keyed)
        assert b"a1" == again.message.body
        assert [] == await self.take(broker, keyed)
        assert await self.settle(broker, again, Ack())
        assert [b"a2"] == bodies(await self.collect(broker, keyed, 1))

    @pytest.mark.parametrize("outcome", [Retry(0.0), Release()])
    async def test_what_comes_back_at_once_is_first_again(
        self, broker: Broker[Any], source: str, keyed: Subscription, outcome: Outcome
    ) -> None:
        self.need(broker, "keyed")
        await self.send(broker, source, *of("a", 1, 2))
        assert await self.settle(broker, await self.one(broker, keyed), outcome)
        again = await self.one(broker, keyed)
        assert b"a1" == again.message.body
        assert await self.settle(broker, again, Ack())
        assert [b"a2"] == bodies(await self.collect(broker, keyed, 1))

    async def test_a_dead_letter_lets_the_next_one_come(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        self.need(broker, "keyed")
        await self.send(broker, source, *of("a", 1, 2))
        assert await self.settle(broker, await self.one(broker, keyed), DeadLetter("no"))
        assert [b"a2"] == bodies(await self.collect(broker, keyed, 1))

    async def test_a_crash_does_not_let_later_ones_overtake(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        self.need(broker, "own_leases")
        self.need(broker, "keyed")
        await self.send(broker, source, *of("a", 1, 2))
        crashed = await self.one(broker, keyed)
        await self.lapse(self.lease * 1.5)
        other = await self.another()
        (found,) = [*await self.take(other, keyed), *await self.reclaim(other, keyed)]
        assert (b"a1", 1) == (found.message.body, found.attempt)
        assert [] == await self.take(other, keyed)
        assert not await self.settle(broker, crashed, Ack())
        assert await self.settle(other, found, Ack())
        assert [b"a2"] == bodies(await self.collect(other, keyed, 1))

    async def test_a_delayed_message_is_waited_for_by_those_published_behind_it(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        self.need(broker, "keyed")
        self.need(broker, "max_delay")
        await self.send(broker, source, *of("a", 1), delay=0.3)
        await self.send(broker, source, *of("a", 2))
        assert [] == await self.take(broker, keyed)
        await self.lapse(0.35)
        first = await self.one(broker, keyed)
        assert b"a1" == first.message.body
        assert await self.settle(broker, first, Ack())
        assert [b"a2"] == bodies(await self.collect(broker, keyed, 1))

    async def test_a_fetch_that_waits_wakes_up_when_the_key_is_free(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        self.need(broker, "keyed")
        await self.send(broker, source, *of("a", 1, 2))
        first = await self.one(broker, keyed)
        other = await self.another()
        waiting = asyncio.ensure_future(other.fetch(keyed, 10, PATIENCE * 10))
        await asyncio.sleep(0.05)
        assert await self.settle(broker, first, Ack())
        assert [b"a2"] == bodies(await asyncio.wait_for(waiting, PATIENCE))

    async def test_groups_have_turns_of_their_own(self, broker: Broker[Any], source: str, keyed: Subscription) -> None:
        self.need(broker, "keyed")
        self.need(broker, "fanout")
        other = replace(keyed, group="other")
        for each in (keyed, other):
            await self.take(broker, each)
        await self.send(broker, source, *of("a", 1, 2))
        first = await self.one(broker, keyed)
        assert await self.settle(broker, first, Ack())
        assert [b"a2"] == bodies(await self.collect(broker, keyed, 1))
        assert [b"a1"] == bodies(await self.take(broker, other))

    async def test_several_owners_keep_the_order_of_every_key(
        self, broker: Broker[Any], source: str, keyed: Subscription
    ) -> None:
        self.need(broker, "keyed")
        keys, each = "abcdef", 12
        owners = [broker, await self.another(), await self.another()]
        await self.take(broker, keyed)
        done: defaultdict[str, list[int]] = defaultdict(list)
        running: set[str] = set()

        async def work(owner: Broker[Any]) -> None:
            while sum(map(len, done.values())) < len(keys) * each:
                for delivery in await owner.fetch(keyed, 3, 0.0):
                    key = delivery.message.key or ""
                    assert key not in running
                    running.add(key)
                    await asyncio.sleep(0)
                    done[key].append(int(delivery.message.body[1:]))
                    running.discard(key)
                    await owner.settle([Settlement(delivery=delivery, outcome=Ack())])
                await asyncio.sleep(0)

        async def publish() -> None:
            for number in range(each):
                await self.send(broker, source, *[m for key in keys for m in of(key, number)])

        await asyncio.wait_for(asyncio.gather(publish(), *map(work, owners)), PATIENCE * 3)
        assert {key: list(range(each)) for key in keys} == done

    @staticmethod
    def _the(found: list[Delivery[Any]], key: bytes) -> Delivery[Any]:
        (delivery,) = [d for d in found if d.message.body.startswith(key)]
        return delivery
