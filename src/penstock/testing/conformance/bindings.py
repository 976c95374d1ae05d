"""Bindings: what is posted to a channel reaches each pattern that matches, once, and nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ...bindings import Post, Posted, SupportsBindings
from ...broker import Broker, Subscription
from ...outcome import Ack
from .harness import Harness, bodies, message


class BindingTests(Harness):
    @pytest.fixture
    def channels(self, broker: Broker[Any]) -> Any:
        """The broker, if it knows patterns."""
        if not isinstance(broker, SupportsBindings):
            pytest.skip("the broker knows no patterns")
        return broker

    async def bound(self, broker: Any, pattern: str, group: str = "g") -> Subscription:
        """A pattern bound for a group that is there."""
        subscription = Subscription(source=await broker.bind(pattern, group), group=group, lease=self.lease)
        await broker.fetch(subscription, 0, 0.0)
        return subscription

    async def posted(self, broker: Any, channel: str, body: bytes = b"1", **options: Any) -> Posted:
        """Post one message; its fate, which is no error."""
        keyed = {"key": options.pop("key")} if "key" in options else {}
        (fate,) = await broker.post([Post(message=message(body, type=channel, **keyed), **options)])
        assert isinstance(fate, Posted)
        return fate

    async def test_a_post_reaches_each_pattern_that_matches_once_and_no_other(self, channels: Any) -> None:
        patterns = ("orders.*", "orders.created", "*", "users.*")
        subscriptions = {pattern: await self.bound(channels, pattern) for pattern in patterns}
        fate = await self.posted(channels, "orders.created")
        assert (3, 3) == (fate.matched, len(fate.ids))
        for pattern, subscription in subscriptions.items():
            found = await self.take(channels, subscription)
            assert ([] if pattern == "users.*" else [b"1"]) == bodies(found)
            assert all(d.message.type == "orders.created" for d in found)

    async def test_groups_of_one_pattern_share_its_source_and_each_gets_everything(self, channels: Any) -> None:
        a, b = [await self.bound(channels, "orders.*", group) for group in ("a", "b")]
        assert a.source == b.source == channels.source_of("orders.*")
        fate = await self.posted(channels, "orders.created")
        assert (1, 1) == (fate.matched, len(fate.ids))
        for each in (a, b):
            assert [b"1"] == bodies(await self.collect(channels, each, 1))

    async def test_a_post_that_nothing_matches_goes_nowhere(self, channels: Any) -> None:
        subscription = await self.bound(channels, "orders.*")
        assert Posted() == await self.posted(channels, "users.created")
        assert [] == await self.take(channels, subscription)

    async def test_a_post_may_be_kept_for_who_subscribes_to_its_channel_later(self, channels: Any) -> None:
        fate = await self.posted(channels, "orders.created", keep=True)
        assert (0, 1) == (fate.matched, len(fate.ids))
        subscription = await self.bound(channels, "orders.created")
        assert [b"1"] == bodies(await self.collect(channels, subscription, 1))

    async def test_binding_again_changes_nothing(self, channels: Any) -> None:
        subscription = await self.bound(channels, "orders.*")
        for _ in range(3):
            assert subscription.source == await channels.bind("orders.*", "g")
        assert {"orders.*": frozenset({"g"})} == dict(await channels.bindings())
        await self.posted(channels, "orders.created")
        assert [b"1"] == bodies(await self.take(channels, subscription))

    async def test_a_binding_outlives_its_readers(self, channels: Any) -> None:
        subscription = await self.bound(channels, "orders.*")
        await channels.close()
        other: Any = await self.another()
        await self.posted(other, "orders.created")
        assert [b"1"] == bodies(await self.collect(other, subscription, 1))

    async def test_a_pattern_is_gone_with_its_last_group(self, channels: Any) -> None:
        a = await self.bound(channels, "orders.*", "a")
        assert "orders.*" == (await self.another_binds(channels, "orders.*", "b"))
        assert await channels.unbind("orders.*", "b")
        assert not await channels.unbind("orders.*", "b")
        assert 1 == (await self.posted(channels, "orders.created")).matched
        assert [b"1"] == bodies(await self.collect(channels, a, 1))
        assert await channels.unbind("orders.*", "a")
        assert {} == dict(await channels.bindings())
        assert Posted() == await self.posted(channels, "orders.created")

    async def another_binds(self, channels: Any, pattern: str, group: str) -> str:
        await self.bound(channels, pattern, group)
        return pattern

    async def test_what_a_group_leaves_behind_does_not_stay_for_ever(self, channels: Any) -> None:
        subscription = await self.bound(channels, "orders.*")
        await self.posted(channels, "orders.created")
        (held,) = await self.collect(channels, subscription, 1)
        await self.posted(channels, "orders.paid")
        assert await channels.unbind("orders.*", "g")
        assert not await self.settle(channels, held, Ack())
        assert [held] == list(await channels.extend([held], self.lease))

    async def test_a_delayed_post_goes_to_those_who_are_there_when_it_is_posted(self, channels: Any) -> None:
        early = await self.bound(channels, "orders.*")
        fate = await self.posted(channels, "orders.created", delay=0.1)
        assert (1, 1) == (fate.matched, len(fate.ids))
        late = await self.bound(channels, "orders.created")
        assert [] == await self.take(channels, early)
        await self.lapse(0.15)
        assert [b"1"] == bodies(await self.collect(channels, early, 1))
        assert [] == await self.take(channels, late)

    async def test_a_key_is_posted_once_to_each_pattern(self, channels: Any) -> None:
        first = await self.bound(channels, "orders.*")
        assert 1 == len((await self.posted(channels, "orders.created", b"1", key="k", once=60)).ids)
        second = await self.bound(channels, "orders.created")
        again = await self.posted(channels, "orders.created", b"2", key="k", once=60)
        assert (2, 1) == (again.matched, len(again.ids))
        other = await self.posted(channels, "orders.paid", b"3", key="k", once=60)
        assert (1, 1) == (other.matched, len(other.ids))
        assert [b"1", b"3"] == bodies(await self.collect(channels, first, 2))
        assert [b"2"] == bodies(await self.collect(channels, second, 1))

    async def test_a_race_of_equal_posts_has_one_winner(self, channels: Any) -> None:
        subscription = await self.bound(channels, "orders.*")
        rivals: list[Any] = [channels, await self.another(), await self.another()]
        fates = await asyncio.gather(
            *(self.posted(rivals[n % 3], "orders.created", key="k", once=60) for n in range(30))
        )
        assert 1 == sum(len(fate.ids) for fate in fates)
        assert 1 == len(await self.collect(channels, subscription, 1))

    async def test_posts_of_one_batch_come_in_order_and_tell_their_fates_in_order(self, channels: Any) -> None:
        subscription = await self.bound(channels, "a.*")
        posts = [Post(message=message(str(n).encode(), type=f"{'ab'[n % 2]}.x")) for n in range(20)]
        fates = await channels.post(posts)
        assert [1, 0] * 10 == [fate.matched for fate in fates]
        assert [str(n).encode() for n in range(0, 20, 2)] == bodies(await self.collect(channels, subscription, 10))

    async def test_who_binds_is_known_to_all_publishers_at_once(self, channels: Any) -> None:
        other: Any = await self.another()
        assert Posted() == await self.posted(other, "orders.created")
        subscription = await self.bound(channels, "orders.*")
        assert 1 == (await self.posted(other, "orders.created")).matched
        assert [b"1"] == bodies(await self.collect(channels, subscription, 1))

    @pytest.mark.parametrize(
        ("pattern", "channel"), [("user:*", "user:1"), ("é.{a,b}", "é.b"), ("a b.?", "a b.c"), ("[ab].+(x|y)", "a.xyx")]
    )
    async def test_odd_patterns_work_as_well(self, channels: Any, pattern: str, channel: str) -> None:
        subscription = await self.bound(channels, pattern)
        assert 1 == (await self.posted(channels, channel)).matched
        assert 0 == (await self.posted(channels, "nobody/else")).matched
        assert [b"1"] == bodies(await self.collect(channels, subscription, 1))
