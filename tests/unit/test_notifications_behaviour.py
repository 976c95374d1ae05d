"""What Rotif's own tests ask for, of all its generations, on memory, SQLite and Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import NobodySubscribed, Notification, NotificationManager
from penstock.errors import ConfigurationError, EncodeError, UnsupportedFeature
from penstock.notifications.dead_letters import Cleanup
from tests.unit.notifying import KINDS, Heard, Place, place_of, until


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made = place_of(request.param, request, tmp_path)
    yield made
    await made.close()


async def left(manager: NotificationManager, pattern: str) -> int:
    """Messages that are kept for a pattern."""
    broker: Any = manager.broker
    stats = await broker.stats(broker.source_of(pattern))
    size: int = stats.size + stats.delayed
    return size


async def test_a_message_is_handled_and_gone(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    subscription = await manager.subscribe("orders.created", heard)
    (ident,) = await manager.publish("orders.created", {"n": 1})
    (message,) = await heard.next()
    assert (ident, "orders.created", {"n": 1}, 1) == (message.id, message.channel, message.payload, message.attempt)

    async def gone() -> bool:
        stats = await subscription.stats()
        return (stats.messages, stats.pending, stats.waiting) == (1, 0, 0) and not await left(manager, "orders.created")

    await until(gone)


async def test_a_handler_that_fails_twice_is_called_three_times(place: Place) -> None:
    manager, heard = place.manager(max_retries=5), Heard(1, 2)
    subscription = await manager.subscribe("a.x", heard)
    await manager.publish("a.x", {"n": 1})
    await heard.next(3)
    assert ([1, 2, 3], [{"n": 1}] * 3) == (heard.attempts, heard.payloads)

    async def counted() -> bool:
        stats = await subscription.stats()
        return (stats.messages, stats.retries, stats.failures) == (1, 2, 0) and not await left(manager, "a.x")

    await until(counted)


async def test_a_message_that_always_fails_becomes_a_dead_letter_after_its_last_attempt(place: Place) -> None:
    manager, heard, dead = place.manager(), Heard(error=ValueError("Handler failure")), Heard()
    subscription = await manager.subscribe("a.*", heard, max_retries=3)
    await manager.subscribe_to_dlq(dead, auto_ack=True)
    await manager.publish("a.x", {"n": 1})
    (letter,) = await dead.next()
    assert [1, 2, 3] == heard.attempts
    assert ("a.x", {"n": 1}, 3, "grp:a.*") == (letter.channel, letter.payload, letter.attempt, letter.group)
    assert "Handler failure" in (letter.error or "")
    stats = await subscription.stats()
    assert (0, 3, 1, 0.0) == (stats.messages, stats.retries, stats.failures, stats.last_message_at)

    async def removed() -> bool:
        return (await manager.dead_letters.stats()).total == 0

    await until(removed)


@pytest.mark.parametrize(("given", "after_first", "total"), [(0, False, 1), (1, False, 1), (2, False, 2), (2, True, 3)])
async def test_max_retries_are_executions_in_total_unless_one_says_otherwise(
    place: Place, given: int, after_first: bool, total: int
) -> None:
    manager, heard, dead = place.manager(), Heard(error=ValueError("no")), Heard()
    await manager.subscribe("a", heard, max_retries=given, retries_after_first=after_first)
    await manager.subscribe_to_dlq(dead)
    await manager.publish("a", 1)
    await dead.next()
    assert list(range(1, total + 1)) == heard.attempts


async def test_hooks_are_called_in_their_order(place: Place) -> None:
    manager, heard, trace = place.manager(), Heard(), list[Any]()

    class Tracer:
        def __init__(self, name: str) -> None:
            self.name = name

        def before_publish(self, channel: str, payload: Any, options: Any) -> None:
            trace.append((self.name, "before_publish", channel, payload, options.delay))

        async def after_publish(self, channel: str, payload: Any, ids: list[str], options: Any) -> None:
            trace.append((self.name, "after_publish", ids))

        async def before_process(self, message: Notification) -> None:
            trace.append((self.name, "before_process"))

        def after_process(self, message: Notification) -> None:
            trace.append((self.name, "after_process"))

        def on_error(self, message: Notification, error: Exception) -> None:
            trace.append((self.name, "on_error", str(error)))

    manager.use(Tracer("a"))
    manager.use(Tracer("b"))
    good = await manager.subscribe("good", heard)
    ids = await manager.publish("good", 1)

    async def handled() -> bool:
        return (await good.stats()).messages == 1 and len(trace) == 8

    await until(handled)
    assert [("a", "before_publish", "good", 1, 0.0), ("b", "before_publish", "good", 1, 0.0)] == trace[:2]
    after = [item for item in trace if item[1] == "after_publish"]
    assert [("a", "after_publish", ids), ("b", "after_publish", ids)] == after
    rest = [item[:2] for item in trace if "process" in item[1]]
    assert [(n, f"{w}_process") for w in ("before", "after") for n in "ab"] == rest
    trace.clear()
    bad = await manager.subscribe("bad", Heard(error=ValueError("boom")), max_retries=1)
    await manager.publish("bad", 1)

    async def failed() -> bool:
        return (await bad.stats()).failures == 1

    await until(failed)
    steps = [item[1] for item in trace if item[0] == "a"]
    assert sorted(["before_publish", "after_publish", "before_process", "on_error"]) == sorted(steps)
    assert steps.index("before_process") < steps.index("on_error")


async def test_a_hook_may_refuse_a_message(place: Place) -> None:
    manager, heard = place.manager(), Heard()

    def validate(channel: str, payload: Any, options: Any) -> None:
        if "userId" not in payload:
            raise ValueError("Missing userId in user event")

    manager.use({"before_publish": validate})
    await manager.subscribe("user.*", heard)
    with pytest.raises(ValueError, match="Missing userId"):
        await manager.publish("user.created", {})
    await manager.publish("user.created", {"userId": 1})
    await heard.next()
    assert [{"userId": 1}] == heard.payloads


@pytest.mark.parametrize("how", ["delay", "at", "at seconds"])
async def test_a_delayed_message_comes_when_it_is_due(place: Place, how: str) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("later", heard)
    began, moment = time.monotonic(), datetime.now(UTC) + timedelta(seconds=0.5)
    options: dict[str, Any] = (
        {"delay": 0.5} if how == "delay" else {"at": moment if how == "at" else moment.timestamp()}
    )
    assert 1 == len(await manager.publish("later", 1, **options))
    await heard.next()
    assert 0.49 <= time.monotonic() - began < 2.0


@pytest.mark.parametrize("options", [{"delay": 0}, {"delay": -5}, {"at": 1000.0}])
async def test_what_is_due_already_comes_at_once(place: Place, options: dict[str, Any]) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("now", heard)
    await manager.publish("now", 1, **options)
    await heard.next(within=2.0)


async def test_only_exact_matches_reach_a_plain_name_and_nobody_after_unsubscribing(place: Place) -> None:
    manager, a, b = place.manager(unrouted="drop"), Heard(), Heard()
    await manager.subscribe("orders", a)
    other = await manager.subscribe("orders.x", b)
    assert [] == await manager.publish("orders.y", 1)
    await manager.publish("orders", 2)
    await manager.publish("orders.x", 3)
    await a.next()
    await b.next()
    assert ([2], [3]) == (a.payloads, b.payloads)
    await other.unsubscribe(remove_pattern=True)
    await other.unsubscribe()
    assert [] == await manager.publish("orders.x", 4)
    assert [3] == b.payloads


async def test_two_groups_on_one_channel_both_receive(place: Place) -> None:
    manager, a, b = place.manager(), Heard(), Heard()
    await manager.subscribe("c", a, group="a")
    await manager.subscribe("c", b, group="b")
    assert 1 == len(await manager.publish("c", 1))
    await a.next()
    await b.next()


async def test_an_equal_payload_is_published_once_and_handled_once_by_each_group(place: Place) -> None:
    manager, a, b = place.manager(), Heard(), Heard()
    await manager.subscribe("c", a, group="a")
    await manager.subscribe("c", b, group="b")
    assert 1 == len(await manager.publish("c", {"x": 1, "y": 2}, exactly_once=True))
    assert [] == await manager.publish("c", {"x": 1, "y": 2}, exactly_once=True)
    await manager.publish("c", {"x": 2}, exactly_once=True)
    for heard in (a, b):
        await heard.next(2)
        assert [{"x": 1, "y": 2}, {"x": 2}] == heard.payloads


async def test_a_payload_may_be_published_again_when_its_time_is_over(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("c", heard)
    await manager.publish("c", 1, exactly_once=True, dedup_ttl=0.3)
    await heard.next()

    async def published() -> bool:
        return bool(await manager.publish("c", 1, exactly_once=True, dedup_ttl=0.3))

    await until(published)
    await heard.next()


async def test_a_subscriber_that_wants_each_payload_once_gets_it_once_whoever_published_it_twice(place: Place) -> None:
    manager, heard, plain = place.manager(), Heard(), Heard()
    await manager.subscribe("c", heard, exactly_once=True, group="once")
    await manager.subscribe("c", plain, group="all")
    for payload in (1, 1, 2):
        await manager.publish("c", payload)
    await plain.next(3)
    assert [1, 2] == [m.payload for m in await heard.next(2)]

    async def settled() -> bool:
        return not await left(manager, "c")

    await until(settled)
    assert [1, 2] == heard.payloads


async def test_a_retried_message_is_no_duplicate_of_itself(place: Place) -> None:
    manager, heard = place.manager(), Heard(1)
    await manager.subscribe("c", heard, exactly_once=True)
    await manager.publish("c", 1, exactly_once=True)
    await heard.next(2)
    assert [1, 2] == heard.attempts


async def test_an_explicit_key_is_what_makes_two_messages_one(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("c", heard, exactly_once=True)
    assert 1 == len(await manager.publish("c", 1, key="k"))
    assert [] == await manager.publish("c", 2, key="k")
    assert 1 == len(await manager.publish("c", 1, key="other"))
    await heard.next(2)
    assert [1, 1] == heard.payloads


async def test_of_equal_concurrent_publishes_one_is_processed(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("c", heard)
    results = await asyncio.gather(*(manager.publish("c", {"x": 1}, exactly_once=True) for _ in range(50)))
    assert 1 == sum(map(len, results))
    await heard.next()


@pytest.mark.parametrize("turns", [True, False])
async def test_subscribers_of_one_group_in_one_process_take_turns_or_all_run(place: Place, turns: bool) -> None:
    manager, a, b, other = place.manager(local_round_robin=turns), Heard(), Heard(), Heard()
    await manager.subscribe("c", a)
    await manager.subscribe("c", b)
    await manager.subscribe("c", other, group="other")
    for n in range(2):
        await manager.publish("c", n)
    await other.next(2)
    if turns:
        async with asyncio.timeout(5):
            await asyncio.gather(a.next(), b.next())
        assert (1, 1) == (len(a.messages), len(b.messages))
    else:
        await a.next(2)
        await b.next(2)


@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.parametrize("same", [True, False])
async def test_managers_share_a_group_and_each_group_gets_all(place: Place, turns: bool, same: bool) -> None:
    heard = [Heard() for _ in range(2)]
    managers = [place.manager(local_round_robin=turns) for _ in range(2)]
    for n, (manager, each) in enumerate(zip(managers, heard, strict=True)):
        await manager.subscribe("c", each, group="g" if same else f"g{n}")
    for n in range(2):
        await managers[0].publish("c", n)
    wanted = 2 if same else 4

    async def all_there() -> bool:
        return sum(len(each.messages) for each in heard) == wanted

    await until(all_there)
    if not same:
        assert [[0, 1], [0, 1]] == [each.payloads for each in heard]


async def test_new_channels_reach_a_pattern_in_order(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("jobs.*", heard)
    for n in range(100):
        await manager.publish(f"jobs.{n}", n)
    await heard.next(100)
    assert list(range(100)) == heard.payloads


async def test_messages_published_while_nobody_runs_wait_for_the_group(place: Place) -> None:
    first, heard = place.manager(), Heard()
    subscription = await first.subscribe("jobs.*", heard)
    await subscription.unsubscribe()
    for n in range(2):
        await first.publish("jobs.x", n)
    again = place.manager()
    await again.subscribe("jobs.*", heard)
    await heard.next(2)
    assert [0, 1] == heard.payloads


async def test_dead_letters_go_back_where_they_came_from(place: Place) -> None:
    manager, heard = place.manager(), Heard(error=ValueError("no"))
    subscription = await manager.subscribe("a.*", heard, max_retries=0)
    for n in range(3):
        await manager.publish("a.x", n)

    async def dead() -> bool:
        return (await manager.dead_letters.stats()).total == 3

    await until(dead)
    await subscription.unsubscribe()
    good = Heard()
    await manager.subscribe("a.*", good)
    assert 2 == await manager.requeue_from_dlq(2)
    assert [(0, 1), (1, 1)] == [(m.payload, m.attempt) for m in await good.next(2)]
    assert {"a.x": 1} == (await manager.dead_letters.stats()).by_channel
    assert 1 == await manager.requeue_from_dlq()
    assert 0 == await manager.requeue_from_dlq()


async def test_a_dead_letter_that_is_not_acked_stays_and_one_whose_handler_fails_comes_again(place: Place) -> None:
    manager, calls = place.manager(), list[Any]()
    await manager.subscribe("a", Heard(error=ValueError("no")), max_retries=1)
    news = asyncio.Event()

    async def look(message: Notification) -> None:
        calls.append(message.payload)
        if message.payload == "twice" and calls.count("twice") == 1:
            raise ValueError("failed to process")
        if message.payload == "twice":
            await message.ack()
        news.set()

    await manager.subscribe_to_dlq(look, retry_delay=0.05)
    for payload in ("stays", "twice"):
        await manager.publish("a", payload)

    async def done() -> bool:
        return calls.count("twice") == 2 and (await manager.dead_letters.stats()).total == 1

    await until(done)
    assert 1 == calls.count("stays")
    (letter,) = await manager.dead_letters.messages()
    assert ("stays", "a", 1) == (letter.payload, letter.channel, letter.attempt)


async def test_dead_letters_are_counted_listed_swept_and_archived(place: Place) -> None:
    manager, archived = place.manager(), list[Any]()

    async def archive(letters: Any) -> None:
        archived.extend(letter.message.body for letter in letters)

    await manager.subscribe("a.*", Heard(error=ValueError("no")), max_retries=1)
    for n in range(6):
        await manager.publish(f"a.{n % 2}", n)

    async def dead() -> bool:
        return (await manager.dead_letters.stats()).total == 6

    await until(dead)
    letters = manager.dead_letters
    assert {"a.0": 3, "a.1": 3} == (await letters.stats()).by_channel
    assert [1, 3, 5] == [each.payload for each in await letters.messages(channel="a.1")]
    assert [2, 3] == [each.payload for each in await letters.messages(limit=2, offset=2)]
    assert [] == await letters.messages(max_age=0.0)
    assert 2 == await letters.cleanup(Cleanup(max_size=4, archive=archive))
    assert [b"0", b"1"] == archived
    assert 4 == await letters.cleanup(Cleanup(max_age=0.000001))
    stats = await letters.stats()
    assert (0, 6, 2) == (stats.total, stats.cleaned_up, stats.archived)
    await manager.publish("a.0", 1)

    async def one() -> bool:
        return (await letters.stats()).total == 1

    await until(one)
    assert (1, 0) == (await letters.clear(), await letters.clear())


async def test_dead_letters_are_swept_now_and_then_if_asked_for(place: Place) -> None:
    manager = place.manager(cleanup=Cleanup(max_age=0.001, interval=0.1))
    subscription = await manager.subscribe("a", Heard(error=ValueError("no")), max_retries=1)
    await manager.publish("a", 1)

    async def swept() -> bool:
        return (await subscription.stats()).failures == 1 and (await manager.dead_letters.stats()).cleaned_up == 1

    await until(swept)


async def test_a_handler_says_what_becomes_of_a_message(place: Place) -> None:
    manager, calls, dead = place.manager(), list[tuple[Any, int]](), Heard()

    async def decide(message: Notification) -> None:
        calls.append((message.payload, message.attempt))
        match message.payload:
            case "retry" if message.attempt == 1:
                message.retry(0.01)  # need not be awaited
            case "dead":
                await message.dead_letter("invalid")
            case "acked":
                await message.ack()
                raise ValueError("too late")
            case _:
                pass

    subscription = await manager.subscribe("c", decide)
    await manager.subscribe_to_dlq(dead)
    for payload in ("retry", "dead", "acked"):
        await manager.publish("c", payload)
    (letter,) = await dead.next()
    assert ("dead", "invalid") == (letter.payload, letter.reason)

    async def done() -> bool:
        stats = await subscription.stats()
        return (stats.messages, stats.retries, stats.failures) == (2, 1, 1)

    await until(done)
    assert [("acked", 1), ("dead", 1), ("retry", 1), ("retry", 2)] == sorted(calls)


async def test_a_batch_is_acked_when_it_has_been_processed(place: Place) -> None:
    manager, batch, done = place.manager(), list[Notification](), asyncio.Event()

    async def collect(message: Notification) -> None:
        batch.append(message)
        if len(batch) == 5:
            for each in batch:
                await each.ack()
            done.set()

    subscription = await manager.subscribe("orders.created", collect, group="batch", concurrency=5, auto_ack=False)
    for n in range(4):
        await manager.publish("orders.created", n)

    async def held() -> bool:
        return (await subscription.stats()).pending == 4

    await until(held)
    await manager.publish("orders.created", 4)
    await asyncio.wait_for(done.wait(), 5)

    async def gone() -> bool:
        return (await subscription.stats()).messages == 5 and not await left(manager, "orders.created")

    await until(gone)


async def test_a_paused_subscription_gets_what_has_waited(place: Place) -> None:
    manager, heard, other = place.manager(), Heard(), Heard()
    subscription = await manager.subscribe("c", heard)
    await manager.subscribe("c", other, group="other")
    await subscription.pause()
    assert subscription.is_paused
    await manager.publish("c", 1)
    await other.next()
    assert [] == heard.messages
    await subscription.resume()
    await heard.next()
    assert [subscription] == [each for each in manager.get_subscriptions() if each.group == "grp:c"]


@pytest.mark.parametrize(
    "payload",
    [None, "", 0, [], {}, {"a": {"b": [1, {"c": None}]}}, "x" * 1_000_000, "Zoë 😀 \u2028", 1.5, {"date": "1970"}],
    ids=lambda payload: repr(payload)[:20],
)
async def test_any_json_arrives_as_it_is(place: Place, payload: Any) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("c", heard)
    await manager.publish("c", payload)
    await heard.next()
    assert [payload] == heard.payloads


async def test_what_is_no_json_is_refused_where_it_is_published(place: Place) -> None:
    manager = place.manager()
    await manager.subscribe("c", Heard())
    with pytest.raises(EncodeError):
        await manager.publish("c", object())
    with pytest.raises(ConfigurationError, match="a channel has a name"):
        await manager.publish("", 1)
    with pytest.raises(ConfigurationError, match="not both"):
        await manager.publish("c", 1, delay=1, at=time.time())
    with pytest.raises(ConfigurationError, match="with a time zone"):
        await manager.publish("c", 1, at=datetime(2030, 1, 1))  # noqa: DTZ001 the point of it
    with pytest.raises(ConfigurationError, match="number of seconds"):
        await manager.publish("c", 1, delay=float("nan"))


async def test_long_and_odd_names_work(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    for pattern, channel in (("x" * 200, "x" * 200), ("a:b:*", "a:b:c"), ("a.**", "a.b.c"), ("日本.{a,b}", "日本.b")):
        await manager.subscribe(pattern, heard)
        await manager.publish(channel, channel)
    await heard.next(4)


async def test_payloads_have_types_where_one_names_them(place: Place) -> None:
    class Order(msgspec.Struct):
        number: int

    manager, heard, dead = place.manager(), Heard(), Heard()
    await manager.subscribe("orders", heard, payload_type=Order)
    await manager.subscribe_to_dlq(dead)
    await manager.publish("orders", Order(7))
    await manager.publish("orders", {"number": "seven"})
    await heard.next()
    assert [Order(7)] == heard.payloads
    assert "invalid" == (await dead.next())[0].reason


async def test_plain_functions_handle_messages_as_well(place: Place) -> None:
    manager, heard = place.manager(), list[int]()
    subscription = await manager.subscribe("c", lambda message: heard.append(message.payload))
    await manager.publish("c", 1)

    async def handled() -> bool:
        return (await subscription.stats()).messages == 1

    await until(handled)
    assert [1] == heard


async def test_a_message_that_nobody_wants_is_an_error_unless_one_says_otherwise(place: Place) -> None:
    with pytest.raises(NobodySubscribed, match="unrouted='keep'"):
        await place.manager().publish("c", 1)
    assert [] == await place.manager(unrouted="drop").publish("c", 1)
    keeper, heard = place.manager(unrouted="keep"), Heard()
    assert 1 == len(await keeper.publish("c", 2))
    await keeper.subscribe("c", heard)
    await heard.next()
    assert [2] == heard.payloads


async def test_a_new_group_may_begin_with_the_next_message(place: Place) -> None:
    manager, first, late = place.manager(), Heard(), Heard()
    slow = await manager.subscribe("c", first, group="first")
    await slow.pause()
    await manager.publish("c", 1)
    await manager.subscribe("c", late, group="late", start="next")
    await manager.publish("c", 2)
    await late.next()
    assert [2] == late.payloads


async def test_stopping_waits_for_handlers_and_may_be_repeated(place: Place) -> None:
    manager, begun, done = place.manager(), asyncio.Event(), list[int]()

    async def slow(message: Notification) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        done.append(message.payload)

    await manager.subscribe("c", slow)
    await manager.publish("c", 1)
    await asyncio.wait_for(begun.wait(), 5)
    await asyncio.gather(manager.stop_all(), manager.stop_all())
    await manager.stop_all()
    assert [1] == done
    with pytest.raises(ConfigurationError, match="has been stopped"):
        await manager.publish("c", 1)


async def test_stopping_before_anything_began_is_safe(place: Place) -> None:
    await place.manager().stop_all()


async def test_a_handler_may_end_its_own_subscription_and_the_manager(place: Place) -> None:
    manager, ended = place.manager(), asyncio.Event()

    async def last(message: Notification) -> None:
        await subscription.unsubscribe()
        await manager.stop_all()
        ended.set()

    subscription = await manager.subscribe("c", last)
    await manager.publish("c", 1)
    await asyncio.wait_for(ended.wait(), 5)
    async with asyncio.timeout(5):
        await manager.stop_all()


async def test_subscribing_and_unsubscribing_in_quick_succession_loses_nothing(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    await (await manager.subscribe("c", heard)).unsubscribe()
    for n in range(5):
        subscription = await manager.subscribe("c", heard)
        await manager.publish("c", n)
        await subscription.unsubscribe()
    await manager.subscribe("c", heard)
    await heard.next(5)
    assert list(range(5)) == sorted(heard.payloads)


async def test_wildcards_fan_out_retry_delay_and_deduplicate_together(place: Place) -> None:
    manager, exact, wild, all_ = place.manager(max_retries=3), Heard(), Heard(1), Heard()
    await manager.subscribe("orders.created", exact)
    await manager.subscribe("orders.*", wild)
    await manager.subscribe("*", all_)
    assert 3 == len(await manager.publish("orders.created", {"n": 1}, exactly_once=True))
    assert [] == await manager.publish("orders.created", {"n": 1}, exactly_once=True)
    assert 2 == len(await manager.publish("orders.paid", {"n": 2}, delay=0.2))
    await exact.next()
    await wild.next(4)
    await all_.next(2)
    assert 0 == (await manager.dead_letters.stats()).total


async def test_pubsub_reaches_who_listens_now(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    if place.server is None:
        with pytest.raises(UnsupportedFeature, match="has no Pub/Sub"):
            await manager.subscribe("c.*", heard, pubsub=True)
        return
    subscription = await manager.subscribe("c.*", heard, pubsub=True)
    place.server.call("PUBLISH", "c.raw", '{"payload":{"n":1}}')
    assert 1 == len(await manager.publish("c.ours", {"n": 2}, pubsub=True))
    place.server.call("PUBLISH", "c.raw", "nonsense")
    await manager.publish("c.ours", 3, pubsub=True)
    await heard.next(3)
    assert [("c.raw", {"n": 1}), ("c.ours", {"n": 2}), ("c.ours", 3)] == [
        (m.channel, m.payload) for m in heard.messages
    ]
    assert {1} == set(heard.attempts)
    await subscription.pause()
    await manager.publish("c.lost", 4, pubsub=True)
    await subscription.resume()

    async def listening() -> bool:
        return place.server is not None and int(place.server.call("PUBSUB", "NUMPAT")) == 1

    await until(listening)
    await manager.publish("c.again", 5, pubsub=True)
    (message,) = await heard.next()
    assert 5 == message.payload
    with pytest.raises(ConfigurationError, match="Pub/Sub keeps nothing"):
        await manager.publish("c.x", 1, delay=1, pubsub=True)
    await subscription.unsubscribe()
    assert 0 == int(place.server.call("PUBSUB", "NUMPAT"))
