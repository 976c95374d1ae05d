"""Turns of keys, looked at closely: busy keys, lost leases, purges, odd keys, and everything at random."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest
from msgspec.structs import replace

from ...broker import Broker, Settlement, Subscription, SupportsInspect
from ...message import Delivery, Message
from ...outcome import Ack, DeadLetter, Outcome, Release, Retry
from .harness import PATIENCE, Harness, bodies, message

ODD_KEYS = ("a", "", "a:", "a:1", "1:a", "1:a:", "é", "a\x00b", "a\x00", '"quoted"', "\\", "{tag}", "x" * 300)


def of(key: str | None, *numbers: int) -> list[Message]:
    """Messages of one key, with bodies such as ``a1``."""
    return [message(f"{key}{n}".encode(), key=key) for n in numbers]


class TurnTests(Harness):
    odd_keys = ODD_KEYS  # a driver that refuses some of them, by an error that says so, names the others

    @pytest.fixture
    def by_key(self, broker: Broker[Any], subscription: Subscription) -> Subscription:
        self.need(broker, "keyed")
        self.need(broker, "own_leases")  # its stories have two owners take from one queue in turn
        return replace(subscription, keyed=True)

    async def next(self, broker: Broker[Any], by_key: Subscription, body: bytes) -> Delivery[Any]:
        """What comes next, which must be this one alone."""
        found = await self.collect(broker, by_key, 1)
        assert [body] == bodies(found)
        assert [] == await self.take(broker, by_key)
        return found[0]

    @pytest.mark.parametrize("limit", [100, 1])
    async def test_a_busy_key_holds_up_no_other(
        self, broker: Broker[Any], source: str, by_key: Subscription, limit: int
    ) -> None:
        await self.send(broker, source, *of("hot", *range(3000)), *of("b", 1), *of(None, 1), *of("c", 1))
        found: list[bytes] = []
        for _ in range(8):
            found += bodies(await self.take(broker, by_key, limit))
        expected = [b"hot0", b"b1", b"None1", b"c1"]
        assert expected == found if broker.capabilities.ordered else sorted(expected) == sorted(found)

    @pytest.mark.parametrize("outcome", [Ack(), DeadLetter("no")])
    async def test_who_is_settled_for_good_lets_the_next_one_come(
        self, broker: Broker[Any], source: str, by_key: Subscription, outcome: Outcome
    ) -> None:
        await self.send(broker, source, *of("a", *range(5)))
        for n in range(5):
            delivery = await self.next(broker, by_key, b"a%d" % n)
            assert (1, 0) == (delivery.count, delivery.attempt)
            assert await self.settle(broker, delivery, outcome)
        assert [] == await self.take(broker, by_key)

    async def test_one_batch_settles_many_keys(self, broker: Broker[Any], source: str, by_key: Subscription) -> None:
        await self.send(broker, source, *[m for n in range(2) for key in range(40) for m in of(f"k{key}-", n)])
        for n in range(2):
            found = await self.collect(broker, by_key, 40)
            assert {b"k%d-%d" % (key, n) for key in range(40)} == set(bodies(found))
            assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in found]))
        assert [] == await self.take(broker, by_key)

    @pytest.mark.parametrize("outcome", [Retry(0.3), Release(0.3), Retry(0.3, counts=False)])
    async def test_followers_wait_for_what_is_to_be_tried_again(
        self, broker: Broker[Any], source: str, by_key: Subscription, outcome: Outcome
    ) -> None:
        other = await self.another()
        await self.send(broker, source, *of("a", 1, 2), *of("b", 1))
        a1, b1 = await self.take(broker, by_key)
        assert await self.settle(broker, a1, outcome)
        await self.settle(broker, b1, Ack())
        await self.send(broker, source, *of("a", 3), *of("b", 2))
        assert [b"b2"] == bodies(await self.take(other, by_key))
        await self.lapse(0.35)
        again = await self.next(other, by_key, b"a1")
        assert await self.settle(other, again, Retry(0.0))
        again = await self.next(broker, by_key, b"a1")
        assert "retryTurn" not in again.message.headers
        assert await self.settle(broker, again, Ack())
        await self.settle(broker, await self.next(broker, by_key, b"a2"), Ack())
        await self.next(other, by_key, b"a3")

    async def test_what_is_released_goes_first(self, broker: Broker[Any], source: str, by_key: Subscription) -> None:
        other = await self.another()
        await self.send(broker, source, *of("a", 1, 2))
        await self.settle(broker, await self.next(broker, by_key, b"a1"), Release())
        again = await self.next(other, by_key, b"a1")
        assert (1, 0) == (again.count, again.attempt) or not broker.capabilities.counted
        await self.settle(other, again, Ack())
        await self.next(broker, by_key, b"a2")

    async def test_waiting_for_a_turn_is_no_lapsed_lease(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        await self.send(broker, source, *of("a", 1, 2, 3))
        a1 = await self.next(broker, by_key, b"a1")
        for _ in range(3):
            await self.lapse(self.lease * 0.6)
            assert [] == list(await broker.extend([a1], self.lease))
            assert [] == await self.reclaim(await self.another(), by_key)
        assert await self.settle(broker, a1, Ack())
        assert 1 == (await self.next(broker, by_key, b"a2")).count

    @pytest.mark.parametrize("outcome", [Ack(), DeadLetter("no"), Retry(0.0), Release()])
    async def test_who_lost_the_lease_passes_no_turn_on(
        self, broker: Broker[Any], source: str, by_key: Subscription, outcome: Outcome
    ) -> None:
        other = await self.another()
        await self.send(broker, source, *of("a", 1, 2))
        late = await self.next(broker, by_key, b"a1")
        await self.lapse(self.lease * 1.5)
        (a1,) = await self.reclaim(other, by_key)
        assert not await self.settle(broker, late, outcome)
        assert [] == await self.take(broker, by_key)
        assert await self.settle(other, a1, Ack())
        await self.next(broker, by_key, b"a2")

    async def test_closing_hands_turns_back(self, broker: Broker[Any], source: str, by_key: Subscription) -> None:
        await self.send(broker, source, *of("a", 1, 2), *of("b", 1))
        assert [b"a1", b"b1"] == bodies(await self.take(broker, by_key))
        await broker.close()
        other = await self.another()
        found = await self.collect(other, by_key, 2)
        assert [b"a1", b"b1"] == sorted(bodies(found))
        assert {1} == {d.count for d in found}

    async def test_groups_take_turns_by_themselves(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        self.need(broker, "fanout")
        one, two, free = by_key, replace(by_key, group="two"), Subscription(source=source, group="free")
        for each in (one, two, free):
            await self.take(broker, each)
        await self.send(broker, source, *of("a", 1, 2))
        first = await self.next(broker, one, b"a1")
        await self.settle(broker, await self.next(broker, two, b"a1"), Ack())
        await self.settle(broker, first, Retry(0.0))
        await self.settle(broker, await self.next(broker, two, b"a2"), Ack())
        await self.settle(broker, await self.next(broker, one, b"a1"), Ack())
        await self.next(broker, one, b"a2")
        assert [] == await self.take(broker, two)
        assert [b"a1", b"a2"] == bodies(await self.take(broker, free))

    async def test_a_requeued_dead_letter_goes_to_the_end(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        if not isinstance(broker, SupportsInspect):
            pytest.skip("the broker cannot be inspected")
        await self.send(broker, source, *of("a", 1, 2, 3))
        await self.settle(broker, await self.next(broker, by_key, b"a1"), Retry(0.0))
        await self.settle(broker, await self.next(broker, by_key, b"a1"), DeadLetter("no"))
        a2 = await self.next(broker, by_key, b"a2")
        (letter,) = await broker.dead(source, 10)
        assert 1 == await broker.requeue_dead(source, [letter.id])
        await self.settle(broker, a2, Ack())
        await self.settle(broker, await self.next(broker, by_key, b"a3"), Ack())
        assert 0 == (await self.next(broker, by_key, b"a1")).attempt

    async def test_what_waits_for_its_turn_is_waiting_and_not_leased(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        if not isinstance(broker, SupportsInspect):
            pytest.skip("the broker cannot be inspected")
        await self.send(broker, source, *of("a", 1, 2, 3), *of("b", 1))
        await self.take(broker, by_key)
        stats = await broker.stats(source)
        assert (4, [(2, 2)]) == (stats.size, [(group.leased, group.lag) for group in stats.groups])

    async def test_purging_takes_what_waits_for_its_turn_and_no_key_stays_blocked(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        if not isinstance(broker, SupportsInspect):
            pytest.skip("the broker cannot be inspected")
        await self.send(broker, source, *of("a", 1, 2), *of("b", 1, 2), *of("c", 1, 2))
        a1, b1, c1 = await self.take(broker, by_key)
        await self.settle(broker, b1, Retry(60.0))
        await self.settle(broker, c1, Release())
        assert 5 == await broker.purge(source)
        assert [] == await self.take(broker, by_key)
        await self.send(broker, source, *of("a", 3), *of("b", 3), *of("c", 3))
        assert [b"b3", b"c3"] == sorted(bodies(await self.collect(broker, by_key, 2)))
        assert await self.settle(broker, a1, Ack())
        await self.next(broker, by_key, b"a3")

    async def test_any_text_may_be_a_key(self, broker: Broker[Any], source: str, by_key: Subscription) -> None:
        await self.send(broker, source, *[message(b"%d" % n, key=key) for n in range(2) for key in self.odd_keys])
        for n in range(2):
            found = await self.collect(broker, by_key, len(self.odd_keys))
            assert sorted(self.odd_keys) == sorted(str(d.message.key) for d in found)
            assert {b"%d" % n} == set(bodies(found))
            assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in found]))

    async def test_headers_do_not_hide_the_key(self, broker: Broker[Any], source: str, by_key: Subscription) -> None:
        sent = [message(b"%d" % n, key="a", headers={"key": "other", "h": 'ü"key":"x"', "n": [1, {}]}) for n in (1, 2)]
        await self.send(broker, source, *sent, message(b"3", headers={"nested": {"key": "a"}}))
        assert [b"1", b"3"] == bodies(await self.take(broker, by_key))

    async def test_a_waiting_fetch_wakes_up_for_a_turn(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        other = await self.another()
        await self.send(broker, source, *of("a", 1, 2, 3))
        a1 = await self.next(broker, by_key, b"a1")
        waiting = asyncio.create_task(self.get(broker, by_key, PATIENCE))
        await asyncio.sleep(0.02)
        await self.settle(broker, a1, Ack())
        (a2,) = await asyncio.wait_for(waiting, PATIENCE)
        waiting = asyncio.create_task(self.get(other, by_key, PATIENCE))
        await asyncio.sleep(0.02)
        await self.settle(broker, a2, Ack())
        assert [b"a3"] == bodies(await asyncio.wait_for(waiting, PATIENCE))

    async def test_a_waiting_fetch_wakes_up_for_a_new_message_and_for_a_retry(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        waiting = asyncio.create_task(self.get(broker, by_key, PATIENCE))
        await asyncio.sleep(0.02)
        await self.send(await self.another(), source, *of("a", 1, 2))
        (a1,) = await asyncio.wait_for(waiting, PATIENCE)
        assert b"a1" == a1.message.body
        waiting = asyncio.create_task(self.get(broker, by_key, PATIENCE))
        await asyncio.sleep(0.02)
        await self.settle(broker, a1, Retry(0.0))
        await self.promote(broker, by_key)
        (a1,) = await asyncio.wait_for(waiting, PATIENCE)
        assert (b"a1", 1, 1) == (a1.message.body, a1.attempt, a1.count)

    async def test_cancelling_a_fetch_loses_nothing_and_keeps_the_order(
        self, broker: Broker[Any], source: str, by_key: Subscription
    ) -> None:
        await self.take(broker, by_key)
        for n in range(12):
            fetching = asyncio.create_task(self.get(broker, by_key, PATIENCE))
            sending = asyncio.create_task(self.send(broker, source, *of("a", n)))
            await asyncio.sleep(0.001 * (n % 4))
            fetching.cancel()
            for result in await asyncio.gather(fetching, return_exceptions=True):
                if not isinstance(result, BaseException):
                    await broker.settle([Settlement(delivery=d, outcome=Release()) for d in result])
            await sending
        for n in range(12):
            (delivery,) = await self.collect(broker, by_key, 1)
            assert b"a%d" % n == delivery.message.body
            assert await self.settle(broker, delivery, Ack())

    async def test_an_ordinary_subscription_knows_no_turns(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *[message(b"%d" % n, key="a") for n in (1, 2, 3)])
        found = bodies(await self.take(broker, subscription))
        assert [b"1", b"2", b"3"] == (found if broker.capabilities.ordered else sorted(found))

    @pytest.mark.parametrize("seed", range(4))
    async def test_whatever_happens_each_key_stays_in_order(
        self, broker: Broker[Any], source: str, by_key: Subscription, seed: int
    ) -> None:
        """Owners come and go, lose leases, retry, release; per key the last outcomes come in publish order."""
        dice = random.Random(seed)  # noqa: S311 - to be the same each time
        owners = [broker, await self.another(), await self.another()]
        keys, done = ("a", "b", "c", None), defaultdict[str | None, list[int]](list)
        sent = [(dice.choice(keys), n) for n in range(80)]
        held: list[tuple[Broker[Any], Delivery[Any]]] = []
        for n in range(0, 80, 20):
            await self.send(broker, source, *[message(b"%d" % i, key=key) for key, i in sent[n : n + 20]])
            for _ in range(20):
                owner = dice.choice(owners)
                held += [(owner, d) for d in await self.take(owner, by_key, limit=dice.randint(1, 5))]
                await self.act(dice, by_key, held, done)
        deadline = 400
        while sum(map(len, done.values())) < len(sent) and deadline:
            deadline -= 1
            await self.lapse(self.lease / 8)
            owner = dice.choice(owners)
            held += [(owner, d) for d in (*await self.take(owner, by_key, 3), *await self.reclaim(owner, by_key, 3))]
            await self.act(dice, by_key, held, done)
        for key in ("a", "b", "c"):
            assert [n for k, n in sent if k == key] == done[key]
        assert sorted(n for k, n in sent if k is None) == sorted(done[None])

    async def act(
        self,
        dice: random.Random,
        by_key: Subscription,
        held: list[tuple[Broker[Any], Delivery[Any]]],
        done: dict[str | None, list[int]],
    ) -> None:
        """Do something with what is held; forgetting it lets its lease lapse."""
        outcomes: list[Outcome | None] = [Ack(), Ack(), DeadLetter("no"), Retry(0.02), Release(), None]
        for owner, delivery in [held.pop(0) for _ in range(dice.randint(0, len(held)))]:
            outcome = dice.choice(outcomes)
            if outcome is None or not await self.settle(owner, delivery, outcome):
                continue
            if isinstance(outcome, Ack | DeadLetter):
                done[delivery.message.key].append(int(delivery.message.body))

    async def get(self, broker: Broker[Any], by_key: Subscription, wait: float) -> Any:
        return await broker.fetch(by_key, 100, wait)
