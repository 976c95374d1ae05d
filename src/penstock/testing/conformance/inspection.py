"""Looking at a broker and mending it, without disturbing what runs."""

from __future__ import annotations

from typing import Any

import pytest

from ...broker import (
    Broker,
    Outgoing,
    Presence,
    Settlement,
    Subscription,
    SupportsDiagnosis,
    SupportsInspect,
    SupportsPresence,
    SupportsTrim,
)
from ...errors import UnsupportedFeature
from ...outcome import Ack, DeadLetter, Release, Retry
from .harness import Harness, bodies, message, numbered


def inspectable(broker: Broker[Any]) -> SupportsInspect:
    if not isinstance(broker, SupportsInspect):
        pytest.skip("the broker cannot be inspected")
    return broker


class InspectionTests(Harness):
    async def bury(self, broker: Broker[Any], subscription: Subscription, count: int) -> None:
        """Make ``count`` dead letters."""
        await self.send(broker, subscription.source, *numbered(count))
        found = sorted(await self.collect(broker, subscription, count), key=lambda d: d.message.body)
        await broker.settle([Settlement(delivery=d, outcome=DeadLetter("no")) for d in found])

    async def test_sizes_are_told(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        admin = inspectable(broker)
        await self.send(broker, source, *numbered(6))
        held = await self.take(broker, subscription, limit=3)
        await self.settle(broker, held[0], DeadLetter("no"))
        await self.settle(broker, held[1], Retry(60.0))
        stats = await admin.stats(source)
        assert (source, 4, 1, 1) == (stats.source, stats.size, stats.delayed, stats.dead)
        (group,) = stats.groups
        name = subscription.group if broker.capabilities.fanout else "default"
        assert (name, 1, 3) == (group.name, group.leased, group.lag)

    async def test_an_unknown_stream_has_nothing(self, broker: Broker[Any], source: str) -> None:
        stats = await inspectable(broker).stats(source)
        assert (0, 0, 0, ()) == (stats.size, stats.delayed, stats.dead, stats.groups)
        assert [] == list(await inspectable(broker).dead(source, 10))
        assert [] == list(await inspectable(broker).peek(source, 10))

    async def test_streams_are_listed(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        admin = inspectable(broker)
        await self.bury(broker, subscription, 1)
        await self.send(broker, f"{source}-b", message())
        assert [source, f"{source}-b"] == list(await admin.sources())

    async def test_peeking_changes_nothing(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        admin = inspectable(broker)
        await self.send(broker, source, *numbered(4))
        try:
            seen = await admin.peek(source, 2)
        except UnsupportedFeature as refusal:
            pytest.skip(str(refusal))
        assert [b"0", b"1"] == [m.body for m in seen]
        found = await self.collect(broker, subscription, 4)
        assert {1} == {d.count for d in found}

    async def test_dead_letters_are_paged(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        admin = inspectable(broker)
        await self.bury(broker, subscription, 5)
        first = await admin.dead(source, 2)
        rest = await admin.dead(source, 10, after=first[-1].id)
        assert [b"0", b"1", b"2", b"3", b"4"] == [d.message.body for d in (*first, *rest)]

    async def test_a_requeued_dead_letter_runs_afresh(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        admin = inspectable(broker)
        sent = message(b'{"a":1}', key="k", type="email.send", headers={"tenant": "acme"})
        await self.send(broker, source, sent)
        await self.settle(broker, await self.one(broker, subscription), Retry(0.0))
        await self.settle(broker, await self.one(broker, subscription), DeadLetter("no"))
        (letter,) = await admin.dead(source, 10)
        assert 1 == await admin.requeue_dead(source, [letter.id])
        assert 0 == await admin.requeue_dead(source, [letter.id])
        again = (await self.one(broker, subscription)).message
        assert (sent.body, sent.type, sent.key, 0) == (again.body, again.type, again.key, again.attempt)
        assert sent.headers == again.headers
        assert [] == list(await admin.dead(source, 10))

    async def test_headers_survive_whatever_becomes_of_a_message(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        """A delay, a retry, a release, a dead letter and its requeueing: a trace goes on through all of them."""
        self.need(broker, "max_delay")
        headers = {
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "tracestate": "vendor=t61rcWkgMzE,other=00f067aa",
            "baggage": "tenant=acme,userId=Am%C3%A9lie",
            "X-Tenant": "ü",
            "limits": {"most": [1, 2.5, None, True]},
        }
        seen: list[Any] = []
        await self.send(broker, source, message(headers=headers), delay=0.05)
        await self.lapse(0.1)
        for outcome in (Retry(0.05), Release(0.05), Retry(0.0), DeadLetter("no")):
            delivery = await self.one(broker, subscription)
            seen.append(delivery.message.headers)
            assert await self.settle(broker, delivery, outcome)
            await self.lapse(0.1)
        if isinstance(broker, SupportsInspect):
            (letter,) = await broker.dead(source, 10)
            await broker.requeue_dead(source, [letter.id])
            seen += [letter.message.headers, (await self.one(broker, subscription)).message.headers]
        assert [headers] * len(seen) == seen

    async def test_purged_dead_letters_are_gone(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        admin = inspectable(broker)
        await self.bury(broker, subscription, 3)
        letters = await admin.dead(source, 10)
        assert 2 == await admin.purge_dead(source, [letters[0].id, letters[2].id])
        assert 0 == await admin.purge_dead(source, [letters[0].id])
        assert [b"1"] == [d.message.body for d in await admin.dead(source, 10)]

    async def test_purging_spares_what_is_leased_and_dead(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        admin = inspectable(broker)
        await self.bury(broker, subscription, 1)
        await self.send(broker, source, *numbered(5))
        (held,) = await self.take(broker, subscription, limit=1)
        await broker.publish([Outgoing(destination=source, message=message(), delay=60.0)])
        try:
            purged = await admin.purge(source)
        except UnsupportedFeature as refusal:  # rather than take what is leased as well
            pytest.skip(str(refusal))
        assert 5 == purged
        assert [] == await self.take(broker, subscription)
        assert await self.settle(broker, held, Ack())
        stats = await admin.stats(source)
        assert (0, 0, 1) == (stats.size, stats.delayed, stats.dead)

    async def test_an_entry_that_cannot_be_read_is_marked_and_spares_its_neighbours(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message(b"1"))
        if not await self.write_garbage(source):
            pytest.skip("nothing unreadable can get into this system")
        await self.send(broker, source, message(b"2"))
        found = await self.collect(broker, subscription, 3)
        good = [d for d in found if d.defect is None]
        assert [b"1", b"2"] == sorted(bodies(good))
        (bad,) = [d for d in found if d.defect is not None]
        assert await self.settle(broker, bad, DeadLetter("undecodable"))
        admin = inspectable(broker)
        (letter,) = await admin.dead(source, 10)
        assert "undecodable" == letter.reason
        assert letter.raw
        assert 0 == await admin.requeue_dead(source, [letter.id])
        assert 1 == await admin.purge_dead(source, [letter.id])

    async def test_living_workers_are_listed(self, broker: Broker[Any]) -> None:
        if not isinstance(broker, SupportsPresence):
            pytest.skip("the broker keeps no list of workers")
        first, second = presence("a", self.clock.time()), presence("b", self.clock.time())
        await broker.beat(first, ttl=60.0)
        await broker.beat(second, ttl=1.0)
        assert [first, second] == sorted(await broker.processes(), key=lambda p: p.identity)
        await self.lapse(1.5)
        assert [first] == list(await broker.processes())
        await broker.leave("a")
        assert [] == list(await broker.processes())

    async def test_sweeping_takes_nothing_unread_or_leased(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        if not isinstance(broker, SupportsTrim):
            pytest.skip("the broker leaves nothing to sweep")
        await self.send(broker, source, *numbered(5))
        await self.take(broker, subscription, limit=2)
        await self.lapse(self.lease * 2)
        await broker.trim(subscription)
        await self.pass_on()
        assert 5 == len(await self.collect(await self.another(), subscription, 5))

    async def test_a_diagnosis_is_given(self, broker: Broker[Any]) -> None:
        if not isinstance(broker, SupportsDiagnosis):
            pytest.skip("the broker has nothing to diagnose")
        findings = await broker.diagnose()
        assert findings
        assert all(f.subject and f.detail for f in findings)


def presence(identity: str, now: float) -> Presence:
    return Presence(
        identity=identity,
        host="h",
        pid=1,
        started_at=now,
        beat_at=now,
        consumers=("email/g",),
        concurrency=10,
        busy=2,
        quiet=False,
        rss=1024,
        version="0",
    )
