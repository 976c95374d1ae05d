"""Leases: what a living owner holds is his, what a dead one held is taken over, and who lost it may not settle."""

from __future__ import annotations

from typing import Any

import pytest

from ...broker import Broker, Settlement, Subscription, SupportsGhosts, SupportsInspect, SupportsReclaim
from ...outcome import Ack, DeadLetter, Outcome, Release, Retry
from .harness import PATIENCE, Harness, bodies, message, numbered


class LeaseTests(Harness):
    @pytest.fixture(autouse=True)
    def _with_own_leases(self, request: pytest.FixtureRequest) -> None:
        """For the tests of this part only, and behind what a test module sets up itself: the names are sorted."""
        if request.function.__qualname__.startswith(LeaseTests.__name__):
            self.need(request.getfixturevalue("broker"), "own_leases")

    async def test_a_lapsed_lease_passes_on_and_counts(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "counted")
        await self.send(broker, source, message(b"1", key="k", headers={"h": "1"}))
        first = await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        other = await self.another()
        (second,) = await self.reclaim(other, subscription)
        assert first.message == second.message
        assert (2, 1) == (second.count, second.attempt)

    async def test_what_was_taken_over_says_from_whom_and_for_how_long_he_was_silent(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        if not isinstance(broker, SupportsReclaim):
            pytest.skip("the broker redelivers by itself")
        await self.send(broker, source, message())
        first = await self.one(broker, subscription)
        await self.lapse(self.lease * 0.5)
        await broker.extend([first], self.lease)
        await self.lapse(self.lease * 1.5)
        (second,) = await self.reclaim(await self.another(), subscription)
        assert first.predecessor is None
        assert second.predecessor is not None
        assert broker.identity == second.predecessor.owner
        assert self.lease * 1.4 <= second.predecessor.silent <= self.lease * 1.5 + PATIENCE

    async def test_what_was_deleted_under_a_lease_is_counted_once_and_holds_up_nothing(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *numbered(3))
        held = await self.collect(broker, subscription, 3)
        if not await self.delete_entry(source, held[0].message):
            pytest.skip("nobody can delete a message of this system behind our back")
        assert isinstance(broker, SupportsGhosts)
        await self.lapse(self.lease * 1.5)
        other = await self.another()
        assert isinstance(other, SupportsGhosts)
        assert bodies(held[1:]) == bodies(await self.reclaim(other, subscription))
        assert 1 == await other.ghosts(subscription)
        assert [] == await self.reclaim(broker, subscription)
        assert (0, 0) == (await other.ghosts(subscription), await broker.ghosts(subscription))

    async def test_each_crash_counts(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        self.need(broker, "counted")
        await self.send(broker, source, message())
        await self.one(broker, subscription)
        for count in (2, 3, 4):
            await self.lapse(self.lease * 1.5)
            (delivery,) = await self.reclaim(await self.another(), subscription)
            assert count == delivery.count

    async def test_a_retry_after_a_crash_is_older_by_both(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message())
        await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        (second,) = await self.reclaim(broker, subscription)
        await self.settle(broker, second, Retry(0.0))
        again = await self.one(broker, subscription)
        assert (2, 2, 1) == (again.attempt, again.message.attempt, again.count)

    async def test_a_release_after_a_crash_keeps_the_crash(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "counted")
        await self.send(broker, source, message())
        await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        (second,) = await self.reclaim(broker, subscription)
        await self.settle(broker, second, Release())
        assert 2 == (await self.one(broker, subscription)).count

    async def test_a_living_lease_is_left_alone(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        other = await self.another()  # beforehand: making a connection takes time, and leases are short
        await self.send(broker, source, *numbered(3))
        await self.collect(broker, subscription, 3)
        assert [] == await self.reclaim(other, subscription)

    async def test_an_extended_lease_lives_on(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        other = await self.another()
        await self.send(broker, source, *numbered(3))
        held = await self.collect(broker, subscription, 3)
        for _ in range(3):
            await self.lapse(self.lease * 0.6)
            assert [] == list(await broker.extend(held[:2], self.lease))
        lapsed = await self.reclaim(other, subscription)
        assert bodies(held[2:]) == bodies(lapsed)
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in held[:2]]))

    async def test_extending_does_not_count_as_a_delivery(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "counted")
        await self.send(broker, source, message())
        held = [await self.one(broker, subscription)]
        await broker.extend(held, self.lease)
        await broker.extend(held, self.lease)
        await self.lapse(self.lease * 1.5)
        (delivery,) = await self.reclaim(await self.another(), subscription)
        assert 2 == delivery.count

    async def test_a_lapsed_message_goes_to_one_reclaimer_only(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *numbered(20))
        await self.collect(broker, subscription, 20)
        await self.lapse(self.lease * 1.5)
        first, second = await self.another(), await self.another()
        found = bodies(await self.reclaim(first, subscription, limit=15))
        assert 15 == len(found)
        found += bodies(await self.reclaim(second, subscription, limit=15))
        assert sorted(str(n).encode() for n in range(20)) == sorted(found)

    @pytest.mark.parametrize("limit", [100, 1])
    async def test_an_unreadable_entry_does_not_hold_up_the_recovery_of_those_behind_it(
        self, broker: Broker[Any], source: str, subscription: Subscription, limit: int
    ) -> None:
        self.need(broker, "counted")
        assert [] == await self.take(broker, subscription)  # the group exists, so that the garbage is its first entry
        if not await self.write_garbage(source):
            pytest.skip("nothing unreadable can get into this system")
        await self.send(broker, source, *numbered(5))
        assert 6 == len(await self.collect(broker, subscription, 6))
        await self.lapse(self.lease * 1.5)
        other = await self.another()
        found = [d for _ in range(6) for d in await self.reclaim(other, subscription, limit)]
        assert 1 == len([d for d in found if d.defect is not None])
        assert [b"0", b"1", b"2", b"3", b"4"] == sorted(bodies([d for d in found if d.defect is None]))
        assert {2} == {d.count for d in found}

    async def test_reclaiming_can_be_narrowed_to_a_range_of_counts(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        if not isinstance(broker, SupportsReclaim):
            pytest.skip("the broker redelivers by itself")
        await self.send(broker, source, message(b'"old"'))
        await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        await self.reclaim(broker, subscription)
        await self.send(broker, source, message(b'"new"'))
        await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        assert [b'"old"'] == bodies(await self.reclaim(broker, subscription, above=1))
        await self.lapse(self.lease * 1.5)
        assert [b'"new"'] == bodies(await self.reclaim(broker, subscription, below=2))

    @pytest.mark.parametrize("outcome", [Ack(), Retry(0.0), DeadLetter("no"), Release()])
    async def test_who_lost_the_lease_can_do_nothing(
        self, broker: Broker[Any], source: str, subscription: Subscription, outcome: Outcome
    ) -> None:
        other = await self.another()
        await self.send(broker, source, *numbered(2))
        mine, late = await self.collect(broker, subscription, 2)
        await self.lapse(self.lease * 0.6)
        await broker.extend([mine], self.lease)
        await self.lapse(self.lease * 0.6)
        (taken,) = await self.reclaim(other, subscription)
        assert late.message.body == taken.message.body
        settlements = [Settlement(delivery=d, outcome=outcome) for d in (late, mine)]
        assert [late] == list(await broker.settle(settlements))
        assert [late] == list(await broker.extend([late], self.lease))
        assert await self.settle(other, taken, Ack())

    async def test_who_lost_the_lease_does_not_get_it_back_by_extending(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message())
        late = await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        other = await self.another()
        (taken,) = await self.reclaim(other, subscription)
        assert [late] == list(await broker.extend([late], self.lease))
        assert not await self.settle(broker, late, Ack())
        assert [] == list(await other.extend([taken], self.lease))
        assert await self.settle(other, taken, Ack())

    async def test_a_late_refusal_leaves_no_trace(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        if not isinstance(broker, SupportsInspect):
            pytest.skip("the broker cannot be inspected")
        await self.send(broker, source, message())
        late = await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        await self.reclaim(await self.another(), subscription)
        for outcome in (DeadLetter("no"), Retry(60.0)):
            assert not await self.settle(broker, late, outcome)
        stats = await broker.stats(source)
        assert (1, 0, 0) == (stats.size, stats.delayed, stats.dead)

    async def test_a_fork_extends_and_settles_for_its_original(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        fork, other = broker.fork(), await self.another()
        assert broker.identity == fork.identity
        await fork.open()
        await self.send(broker, source, *numbered(2))
        held = await self.collect(broker, subscription, 2)
        await self.lapse(self.lease * 0.6)
        assert [] == list(await fork.extend(held, self.lease))
        await self.lapse(self.lease * 0.6)
        assert [] == await self.reclaim(other, subscription)
        assert await self.settle(fork, held[0], Ack())
        await fork.close()
        assert await self.settle(broker, held[1], Ack())

    async def test_closing_gives_back_what_was_not_settled(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *numbered(5))
        held = await self.collect(broker, subscription, 5)
        await self.settle(broker, held[0], Ack())
        await broker.close()
        found = await self.collect(await self.another(), subscription, 4)
        assert sorted(bodies(held[1:])) == sorted(bodies(found))
        assert {1} == {d.count for d in found}

    async def test_settling_in_a_lapsed_lease_that_nobody_took_is_safe(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message())
        held = await self.one(broker, subscription)
        await self.lapse(self.lease * 1.5)
        done = await self.settle(broker, held, Ack())
        left = await self.reclaim(broker, subscription)
        assert (1, 0) in {(done, len(left)), (1 - done, 1 - len(left))}
