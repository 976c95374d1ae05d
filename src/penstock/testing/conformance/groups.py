"""Groups: each sees every message, and none ever shows another what it does."""

from __future__ import annotations

from typing import Any

import pytest

from ...broker import Broker, Retention, Settlement, Subscription, SupportsInspect, SupportsTrim
from ...errors import ConfigurationError
from ...outcome import Ack, DeadLetter, Outcome, Release, Retry
from .harness import PATIENCE, Harness, bodies, message, numbered


class GroupTests(Harness):
    @pytest.fixture
    def pair(self, source: str) -> tuple[Subscription, Subscription]:
        a, b = (Subscription(source=source, group=name, lease=self.lease) for name in ("a", "b"))
        return a, b

    async def start(self, broker: Broker[Any], *subscriptions: Subscription) -> None:
        """Make the groups exist."""
        self.need(broker, "fanout")
        for each in subscriptions:
            await self.take(broker, each)

    async def test_every_group_gets_every_message(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        await self.start(broker, *pair)
        await self.send(broker, source, *numbered(10))
        for each in pair:
            assert 10 == len(await self.collect(broker, each, 10))

    @pytest.mark.parametrize("outcome", [Ack(), Retry(0.0), DeadLetter("no"), Release(), Release(0.05)])
    async def test_what_one_group_does_never_shows_in_another(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription], outcome: Outcome
    ) -> None:
        a, b = pair
        await self.start(broker, a, b)
        await self.send(broker, source, *numbered(3))
        await broker.settle([Settlement(delivery=d, outcome=outcome) for d in await self.collect(broker, a, 3)])
        await self.lapse(0.1)
        await self.promote(broker, a)
        found = await self.collect(broker, b, 3)
        assert [b"0", b"1", b"2"] == sorted(bodies(found))
        assert {(0, 1)} == {(d.attempt, d.count) for d in found}
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in found]))
        assert [] == await self.take(broker, b)

    @pytest.mark.parametrize(
        ("retention", "limits"),
        [("interest", {}), ("limits", {"max_length": 1}), ("keep", {})],
        ids=str,
    )
    async def test_a_slow_group_gets_everything_whatever_goes_away_meanwhile(
        self, source: str, pair: tuple[Subscription, Subscription], retention: Retention, limits: dict[str, Any]
    ) -> None:
        broker, (fast, slow) = await self.retaining(retention, **limits), pair
        # Nor does it depend on which group's name is the first or the last
        last = Subscription(source=source, group="c", lease=self.lease)
        await self.start(broker, fast, slow, last)
        await self.send(broker, source, *numbered(40))
        found: list[bytes] = []
        for _ in range(40):
            for each, limit in ((fast, 10), (slow, 1), (last, 10)):
                taken = await self.take(broker, each, limit)
                assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in taken]))
                found += bodies(taken) if each is slow else []
            if isinstance(broker, SupportsTrim):
                await broker.trim(fast)
        assert [str(n).encode() for n in range(40)] == found
        if isinstance(broker, SupportsInspect):
            left = (await broker.stats(source)).size
            assert {"interest": 0, "limits": 1, "keep": 40}[retention] == left

    async def test_a_work_queue_belongs_to_one_group_and_refuses_another(
        self, source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        broker, (ours, other) = await self.retaining("workqueue"), pair
        self.need(broker, "fanout")  # else there are no groups to tell apart
        await self.send(broker, source, *numbered(3))
        taken = await self.collect(broker, ours, 3)
        with pytest.raises(ConfigurationError, match=r"belongs to group 'a'.*retention='interest'"):
            await broker.fetch(other, 0, 0.0)
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in taken]))
        if isinstance(broker, SupportsInspect):
            stats = await broker.stats(source)
            assert (0, ["a"]) == (stats.size, [group.name for group in stats.groups])

    async def test_a_retry_comes_back_to_its_own_group(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        a, b = pair
        await self.start(broker, a, b)
        await self.send(broker, source, message(b"1"))
        await self.settle(broker, await self.one(broker, a), Retry(0.0))
        await self.settle(broker, await self.one(broker, b), Ack())
        again = await self.one(broker, a)
        assert (b"1", 1) == (again.message.body, again.attempt)
        assert [] == await self.take(broker, b)
        assert await self.settle(broker, again, Ack())

    async def test_a_crash_in_one_group_is_recovered_in_that_group(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        self.need(broker, "own_leases")
        a, b = pair
        await self.start(broker, a, b)
        await self.send(broker, source, message(b"1"))
        await self.one(broker, a)
        await self.lapse(self.lease * 1.5)
        (found,) = await self.reclaim(broker, a)
        assert 2 == found.count
        assert 1 == (await self.one(broker, b)).count

    async def test_a_slow_group_loses_nothing(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        fast, slow = pair
        await self.start(broker, fast, slow)
        await self.send(broker, source, *numbered(200))
        while batch := await self.take(broker, fast, limit=30):
            await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in batch])
        assert 200 == len(await self.collect(broker, slow, 200))

    async def test_what_every_group_has_acked_is_gone(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        if not isinstance(broker, SupportsInspect):
            pytest.skip("the broker cannot be inspected")
        await self.start(broker, *pair)
        await self.send(broker, source, *numbered(10))
        for each in pair:
            found = await self.collect(broker, each, 10)
            await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in found])
        assert 0 == (await broker.stats(source)).size

    async def test_groups_that_join_before_anyone_reads_all_get_what_was_there(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        self.need(broker, "fanout")
        other = Subscription(source=f"{source}-b", group="a", lease=self.lease)
        assert [] == list(await broker.fetch(other, 0, PATIENCE * 100))
        await self.send(broker, source, *numbered(5))
        for each in pair:
            assert [] == list(await broker.fetch(each, 0, PATIENCE * 100))
        for each in pair:
            found = await self.collect(broker, each, 5)
            assert [b"0", b"1", b"2", b"3", b"4"] == bodies(found)
            assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in found]))
        assert [] == await self.take(broker, pair[0])

    async def test_a_late_group_gets_what_another_has_not_finished(
        self, broker: Broker[Any], source: str, pair: tuple[Subscription, Subscription]
    ) -> None:
        self.need(broker, "backfill")
        if not broker.capabilities.retentions:
            pytest.skip("what everybody has acked stays for as long as the system's own rules say")
        early, late = pair
        await self.start(broker, early)
        await self.send(broker, source, *numbered(5))
        held = await self.take(broker, early, limit=3)
        await self.settle(broker, held[0], Ack())
        found = await self.collect(broker, late, 4)
        assert [b"1", b"2", b"3", b"4"] == bodies(found)
        assert {(1, 0)} == {(d.count, d.attempt) for d in found}
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in (*held[1:], *found)]))

    async def test_a_group_begins_with_what_was_there_before_it(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *numbered(3))
        assert 3 == len(await self.collect(broker, subscription, 3))

    async def test_a_group_may_begin_with_the_next_message(self, broker: Broker[Any], source: str) -> None:
        self.need(broker, "fanout")
        subscription = Subscription(source=source, group="late", lease=self.lease, start="next")
        await self.send(broker, source, message(b'"early"'))
        assert [] == await self.take(broker, subscription)
        await self.send(broker, source, message(b'"late"'))
        assert [b'"late"'] == bodies(await self.collect(broker, subscription, 1))
