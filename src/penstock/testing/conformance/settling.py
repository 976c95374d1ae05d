"""Settling: each outcome does what it says, in one step, to its own message only."""

from __future__ import annotations

from typing import Any

import pytest

from ...broker import Broker, Settlement, Subscription, SupportsInspect
from ...message import Delivery
from ...outcome import Ack, DeadLetter, Outcome, Release, Retry
from .harness import Harness, bodies, message, numbered


class SettlingTests(Harness):
    async def test_an_acked_message_is_gone(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        await self.send(broker, source, message())
        assert await self.settle(broker, await self.one(broker, subscription), Ack())
        await self.lapse(self.lease * 1.5)
        assert [] == await self.take(broker, subscription)
        assert [] == await self.reclaim(broker, subscription)

    async def test_an_ack_leaves_the_neighbours_alone(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *numbered(3))
        first, second, third = await self.collect(broker, subscription, 3)
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in (first, third)]))
        await self.pass_on()
        assert bodies([second]) == bodies(await self.reclaim(broker, subscription))

    @pytest.mark.parametrize("spared", [(0,), (59,), (20, 41), tuple(range(0, 60, 2))])
    async def test_a_large_ack_spares_what_is_leased_and_what_is_unread(
        self, broker: Broker[Any], source: str, subscription: Subscription, spared: tuple[int, ...]
    ) -> None:
        await self.send(broker, source, *numbered(100))
        found = sorted(await self.take(broker, subscription, limit=60), key=lambda d: int(d.message.body))
        acked = [d for n, d in enumerate(found) if n not in spared]
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in reversed(acked)]))
        await self.pass_on()
        left = [*await self.reclaim(broker, subscription), *await self.take(broker, subscription)]
        expected = {str(n).encode() for n in range(100)} - set(bodies(acked))
        assert sorted(expected) == sorted(bodies(left))

    async def test_a_retried_message_comes_back_older_and_not_early(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        sent = message(b'"x"', key="k", headers={"tenant": "acme"})
        await self.send(broker, source, sent)
        assert await self.settle(broker, await self.one(broker, subscription), Retry(0.3))
        assert [] == await self.take(broker, subscription)
        await self.lapse(0.35)
        again = await self.one(broker, subscription)
        assert (1, 1, 1) == (again.message.attempt, again.attempt, again.count)
        assert (sent.body, sent.type, sent.key) == (again.message.body, again.message.type, again.message.key)
        assert sent.headers == again.message.headers

    async def test_a_message_keeps_its_id_where_ids_are_stable(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "stable_ids")
        await self.settle(broker, await self._sent(broker, source, subscription, 0.0), Ack())  # makes the group
        first = await self._sent(broker, source, subscription, 0.2)
        for outcome in (Retry(0.0), Retry(0.2), Release(), Release(0.2)):
            await self.settle(broker, first, outcome)
            await self.lapse(0.25)
            again = await self.one(broker, subscription)
            assert first.message.id == again.message.id
            first = again

    async def _sent(self, broker: Broker[Any], source: str, subscription: Subscription, delay: float) -> Delivery[Any]:
        """Fetch what has just been published, under the id that it was published as."""
        (ident,) = await self.send(broker, source, message(), delay=delay)
        await self.lapse(delay * 1.25)
        delivery = await self.one(broker, subscription)
        assert ident == delivery.message.id
        return delivery

    async def test_retries_go_on_counting(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        await self.send(broker, source, message())
        for attempt in range(4):
            delivery = await self.one(broker, subscription)
            assert attempt == delivery.attempt
            await self.settle(broker, delivery, Retry(0.0))

    async def test_a_retry_that_does_not_count_keeps_the_attempt(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message())
        await self.settle(broker, await self.one(broker, subscription), Retry(0.0, counts=False))
        assert 0 == (await self.one(broker, subscription)).attempt

    async def test_equal_messages_retried_together_stay_distinct(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, *[message(b"1", key="k")] * 50)
        found = await self.collect(broker, subscription, 50)
        await broker.settle([Settlement(delivery=d, outcome=Retry(0.05)) for d in found])
        await self.lapse(0.1)
        assert 50 == len(await self.collect(broker, subscription, 50))

    async def test_a_binary_body_survives_a_retry_and_a_dead_letter(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "binary")
        body = bytes(range(256))
        await self.send(broker, source, message(body))
        await self.settle(broker, await self.one(broker, subscription), Retry(0.05))
        await self.lapse(0.1)
        again = await self.one(broker, subscription)
        assert body == again.message.body
        await self.settle(broker, again, DeadLetter("no"))
        if isinstance(broker, SupportsInspect):
            assert [body] == [d.message.body for d in await broker.dead(source, 10)]

    @pytest.mark.parametrize(
        "body", [b'"\\u0000\\ud800"', '"ü😀\u2028"'.encode(), b"[[[[[[[]]]]]]]", b"1e400", b'" / \\/ "']
    )
    async def test_a_body_survives_a_retry_byte_for_byte(
        self, broker: Broker[Any], source: str, subscription: Subscription, body: bytes
    ) -> None:
        await self.send(broker, source, message(body, headers={"h": "ü\n😀"}))
        await self.settle(broker, await self.one(broker, subscription), Retry(0.05))
        await self.lapse(0.1)
        again = (await self.one(broker, subscription)).message
        assert (body, {"h": "ü\n😀"}) == (again.body, again.headers)

    @pytest.mark.parametrize("text", ["half \ud800 a pair", "a NUL \0 in it", "\u2028 \x1f \r\n 😀"])
    async def test_a_dead_letter_is_written_whatever_its_texts_hold(
        self, broker: Broker[Any], source: str, subscription: Subscription, text: str
    ) -> None:
        await self.send(broker, source, message(), message())
        found = await self.collect(broker, subscription, 2)
        letter = DeadLetter("no", ValueError(text))
        assert [] == list(await broker.settle([Settlement(delivery=d, outcome=letter) for d in found]))
        if isinstance(broker, SupportsInspect):
            assert ["no", "no"] == [d.reason for d in await broker.dead(source, 10)]

    async def test_a_dead_message_is_not_handed_out(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message())
        await self.settle(broker, await self.one(broker, subscription), DeadLetter("no"))
        await self.lapse(self.lease * 1.5)
        assert [] == await self.take(broker, subscription)
        assert [] == await self.reclaim(broker, subscription)

    async def test_a_dead_letter_is_kept_whole_with_its_reason(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        if not isinstance(broker, SupportsInspect):
            pytest.skip("the broker cannot be inspected")
        sent = message('{"a":"ü"}'.encode(), type="email.send", key="k", headers={"tenant": "acme"})
        await self.send(broker, source, sent)
        outcome = DeadLetter("maxAttempts(1)", ValueError("böse"), meta={"a": [1, None]})
        await self.settle(broker, await self.one(broker, subscription), outcome)
        (letter,) = await broker.dead(source, 10)
        kept = letter.message
        assert (sent.body, sent.type, sent.key, 0) == (kept.body, kept.type, kept.key, kept.attempt)
        assert sent.headers == kept.headers
        assert ("maxAttempts(1)", "g", {"a": [1, None]}) == (letter.reason, letter.group, letter.meta)
        assert letter.owner == broker.identity
        assert letter.error is not None
        assert "ValueError: böse" in letter.error

    async def test_a_released_message_comes_back_as_if_never_fetched(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        await self.send(broker, source, message(b"1"))
        for _ in range(3):
            delivery = await self.one(broker, subscription)
            assert (b"1", 1, 0) == (delivery.message.body, delivery.count, delivery.attempt)
            assert await self.settle(broker, delivery, Release())

    async def test_a_released_message_may_go_to_another_owner(
        self, broker: Broker[Any], source: str, subscription: Subscription
    ) -> None:
        self.need(broker, "own_leases")
        await self.send(broker, source, message(b"1"))
        await self.settle(broker, await self.one(broker, subscription), Release())
        other = await self.another()
        delivery = await self.one(other, subscription)
        assert (b"1", 1) == (delivery.message.body, delivery.count)
        assert await self.settle(other, delivery, Ack())

    async def test_a_release_may_be_delayed(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        self.need(broker, "max_delay")
        await self.send(broker, source, message())
        await self.settle(broker, await self.one(broker, subscription), Release(0.3))
        assert [] == await self.take(broker, subscription)
        await self.lapse(0.35)
        assert (0, 1) == ((again := await self.one(broker, subscription)).attempt, again.count)

    async def test_a_batch_may_mix_outcomes(self, broker: Broker[Any], source: str, subscription: Subscription) -> None:
        await self.send(broker, source, *numbered(40))
        outcomes: list[Outcome] = [Ack(), Retry(0.0), DeadLetter("no"), Release()]
        found = await self.collect(broker, subscription, 40)
        settlements = [Settlement(delivery=d, outcome=outcomes[n % 4]) for n, d in enumerate(found)]
        assert [] == list(await broker.settle(settlements))
        again = await self.collect(broker, subscription, 20)
        expected = sorted(d.message.body for n, d in enumerate(found) if n % 4 in {1, 3})
        assert expected == sorted(bodies(again))
        if isinstance(broker, SupportsInspect):
            assert 10 == (await broker.stats(source)).dead

    async def test_settling_nothing_is_fine(self, broker: Broker[Any]) -> None:
        assert [] == list(await broker.settle([]))

    @pytest.mark.parametrize("second", [Ack(), Retry(0.0), DeadLetter("no"), Release()])
    async def test_settling_twice_reports_a_lost_lease_and_does_nothing(
        self, broker: Broker[Any], source: str, subscription: Subscription, second: Outcome
    ) -> None:
        await self.send(broker, source, message())
        delivery = await self.one(broker, subscription)
        assert await self.settle(broker, delivery, Ack())
        assert not await self.settle(broker, delivery, second)
        assert [] == await self.take(broker, subscription)
        if isinstance(broker, SupportsInspect):
            stats = await broker.stats(source)
            assert (0, 0, 0) == (stats.size, stats.delayed, stats.dead)
