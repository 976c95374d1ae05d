"""The faults of the original, by their numbers in its analysis: each of them absent."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock import Notification
from penstock.bindings import Post
from penstock.broker import Subscription
from penstock.brokers.rotif import RotifBroker
from penstock.errors import BrokerError, ConfigurationError, ConnectionFailed
from penstock.message import Message
from penstock.notifications.dead_letters import Cleanup
from penstock.testing.clock import ManualClock
from tests.servers.redis_server import OwnServer, Server, find_binary
from tests.unit.notifying import Heard, Place, until


@pytest.fixture
async def place(redis_server: Server) -> AsyncIterator[Place]:
    redis_server.flush()
    made = Place("redis", redis_server.url, redis_server)
    yield made
    await made.close()


@pytest.fixture
def server(place: Place) -> Server:
    assert place.server is not None
    return place.server


def length(server: Server, *streams: str) -> int:
    return sum(int(server.call("XLEN", stream)) for stream in streams)


async def empty(server: Server, pattern: str) -> None:
    """Wait until nothing is left of a pattern's messages."""

    async def gone() -> bool:
        return not length(server, f"rotif:stream:{pattern}", f"rotif:stream:{pattern}:retry")

    await until(gone)


async def dead(server: Server, count: int) -> None:
    async def there() -> bool:
        return length(server, "rotif:dlq") == count

    await until(there)


async def test_r1_the_second_and_third_retry_happen_and_then_the_dead_letter(place: Place, server: Server) -> None:
    manager, heard = place.manager(), Heard(error=ValueError("no"))
    await manager.subscribe("x", heard, max_retries=4)
    await manager.publish("x", 1)
    await dead(server, 1)
    assert [1, 2, 3, 4] == heard.attempts
    assert [] == [key for key in server.call("KEYS", "*") if key.endswith(b":retry:retry")]


async def test_r2_a_message_that_failed_once_is_not_run_again_after_its_success(place: Place, server: Server) -> None:
    manager, heard = place.manager(lease=0.3, claim_interval=0.05), Heard(1)
    await manager.subscribe("x", heard)
    await manager.publish("x", 1)
    await heard.next(2)
    await empty(server, "x")
    await asyncio.sleep(0.7)  # more than two leases: what is pending would be claimed
    assert [1, 2] == heard.attempts


async def test_r3_publishing_and_consuming_wait_for_no_blocking_read(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("x", heard)
    began = time.monotonic()
    for n in range(200):
        await manager.publish("x", n)
    await heard.next(200)
    assert time.monotonic() - began < 5.0  # the original: 1000 seconds


async def test_r4_what_is_published_right_after_subscribing_is_delivered_whoever_publishes(place: Place) -> None:
    manager, other, heard = place.manager(), place.manager(), Heard()
    for n in range(10):
        await manager.subscribe(f"c{n}", heard)
        assert 1 == len(await other.publish(f"c{n}", n))
    await heard.next(10)


async def test_r5_an_error_is_an_error_and_no_duplicate(place: Place, server: Server) -> None:
    manager, other = place.manager(), Heard()
    await manager.subscribe("a.*", other)
    await manager.publish("a.x", 1)
    await other.next()
    server.call("SET", "rotif:stream:b", "no stream")
    server.call("ZADD", "rotif:patterns", 1, "b", 1, "[b]")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await manager.publish("b", 1, exactly_once=True)
    assert 0 == length(server, "rotif:stream:[b]")  # all patterns or none
    assert [] == server.call("KEYS", "rotif:dedup:*")


async def test_r6_a_malformed_entry_is_a_dead_letter_and_stops_nobody(place: Place, server: Server) -> None:
    manager, heard, letters = place.manager(), Heard(), Heard()
    await manager.subscribe("x", heard)
    for payload in ("{no json", ""):
        server.call("XADD", "rotif:stream:x", "*", "channel", "x", "payload", payload, "attempt", "1")
    server.call("XADD", "rotif:stream:x", "*", "nonsense", "1")
    await manager.publish("x", 1)
    await heard.next()
    await dead(server, 3)
    await manager.subscribe_to_dlq(letters)
    assert {"undecodable"} == {letter.reason for letter in await letters.next(3)}
    await empty(server, "x")


async def test_r7_what_waits_behind_a_slow_handler_is_stolen_by_nobody(place: Place) -> None:
    heard, slow = list[Any](), [place.manager(lease=0.3, claim_interval=0.05) for _ in range(2)]
    done = asyncio.Event()

    async def handle(message: Notification) -> None:
        heard.append(message.payload)
        await asyncio.sleep(0.2)
        if len(heard) >= 6:
            done.set()

    for manager in slow:
        await manager.subscribe("x", handle)
    for n in range(6):
        await slow[0].publish("x", n)
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.sleep(0.5)
    assert list(range(6)) == sorted(heard)


async def test_r8_hooks_that_fail_after_the_fact_do_not_bring_a_message_back(place: Place, server: Server) -> None:
    manager, heard, bad = place.manager(), Heard(), Heard(error=ValueError("no"))

    def broken(*_: Any) -> None:
        raise RuntimeError("hook")

    manager.use({"after_process": broken, "on_error": broken, "after_publish": broken})
    await manager.subscribe("x", heard)
    await manager.subscribe("y", bad, max_retries=2)
    await manager.publish("x", 1)
    await manager.publish("y", 1)
    await dead(server, 1)
    await empty(server, "x")
    assert ([1], [1, 2]) == (heard.attempts, bad.attempts)


async def test_r9_duplicates_in_flight_at_once_run_once_and_every_sibling_runs(place: Place, server: Server) -> None:
    manager, runs, sibling = place.manager(), list[Any](), Heard()

    async def slow(message: Notification) -> None:
        runs.append(message.payload)
        await asyncio.sleep(0.2)

    await manager.subscribe("x", slow, concurrency=10, exactly_once=True)
    await manager.subscribe("x", sibling)
    for _ in range(5):
        await manager.publish("x", {"same": 1})
    await empty(server, "x")
    assert ([{"same": 1}], 1) == (runs, len(sibling.messages))


async def test_r10_dead_letters_acked_are_gone_and_one_that_is_odd_blocks_no_requeue(
    place: Place, server: Server
) -> None:
    manager, heard = place.manager(), Heard(error=ValueError("no"))
    await manager.subscribe("x", heard, max_retries=1)
    server.call("XADD", "rotif:dlq", "*", "error", "what is this")
    await manager.publish("x", "acked")
    await dead(server, 2)

    async def ack_known(message: Notification) -> None:
        if message.channel:
            await message.ack()

    await manager.subscribe_to_dlq(ack_known)
    await dead(server, 1)
    await manager.stop_all()
    again = place.manager()
    server.call("XADD", "rotif:dlq", "*", "channel", "y", "payload", "1", "error", "no stream named")
    assert 1 == await again.requeue_from_dlq()
    assert 1 == length(server, "rotif:stream:y")


async def test_r11_nothing_grows_for_ever(place: Place, server: Server) -> None:
    manager, heard = place.manager(), Heard(1, 2)
    subscription = await manager.subscribe("x.*", heard, max_retries=2)
    for n in range(20):
        await manager.publish(f"x.{n}", n)
    await dead(server, 20)
    await empty(server, "x.*")
    assert 20 == await manager.dead_letters.cleanup(Cleanup(max_age=0.0001))
    assert [] == server.call("KEYS", "rotif:delayed:*")
    await subscription.unsubscribe(remove_pattern=True)
    keys = {key.decode() for key in server.call("KEYS", "*")}
    assert not {key for key in keys if "x.*" in key}
    server.call("EVAL", "for i=1,10000 do redis.call('ZADD','rotif:channels',0,'c'..i) end", 0)
    await manager.subscribe("z.*", Heard())
    for n in range(5):
        await manager.publish(f"z.{n}", n)
    assert 10_000 >= int(server.call("ZCARD", "rotif:channels"))


async def test_r12_a_group_ten_times_slower_loses_nothing(place: Place, server: Server) -> None:
    manager, fast, slow, done = place.manager(), Heard(), list[int](), asyncio.Event()

    async def slowly(message: Notification) -> None:
        await asyncio.sleep(0.02)
        slow.append(message.payload)
        if len(slow) == 100:
            done.set()

    await manager.subscribe("x", fast, group="fast")
    await manager.subscribe("x", slowly, group="slow")
    for n in range(100):
        await manager.publish("x", n)
    await fast.next(100)
    await asyncio.wait_for(done.wait(), 10)
    assert list(range(100)) == slow
    await empty(server, "x")


async def test_r13_restarts_do_not_inflate_references_and_a_pattern_goes_with_its_last_group(
    place: Place, server: Server
) -> None:
    for _ in range(3):
        manager = place.manager()
        subscription = await manager.subscribe("x", Heard())
        assert 1 == int(server.call("ZSCORE", "rotif:patterns", "x"))
        if _ < 2:
            await manager.stop_all()
    server.call("ZINCRBY", "rotif:patterns", 1, "x")  # somebody else's
    await subscription.unsubscribe(remove_pattern=True)
    assert 1 == int(server.call("ZSCORE", "rotif:patterns", "x"))


async def test_r13_a_pattern_stays_while_another_process_reads_as_the_same_group(place: Place, server: Server) -> None:
    one, two, heard = place.manager(), place.manager(), Heard()
    going = await one.subscribe("x", Heard())
    await two.subscribe("x", heard)
    await going.unsubscribe(remove_pattern=True)
    await one.publish("x", 1)
    await heard.next()


@pytest.mark.parametrize("option", [{"max_stream_length": 2}, {"min_stream_id": "9999999999999-0"}])
async def test_r14_trimming_removes_nothing_unread_and_a_lost_body_is_a_dead_letter(
    place: Place, server: Server, option: dict[str, Any]
) -> None:
    manager, heard, other = place.manager(**option), Heard(), Heard()
    waiting = await manager.subscribe("x", heard)
    await manager.subscribe("x", other, group="other")
    await waiting.pause()
    for n in range(10):
        await manager.publish("x", n)
    await other.next(10)
    broker: Any = manager.broker
    for group in ("grp:x", "other"):
        await broker.trim(Subscription(source="rotif:stream:x", group=group))
    assert 10 == length(server, "rotif:stream:x")
    await waiting.resume()
    await heard.next(10)

    async def trimmed() -> bool:
        await broker.trim(Subscription(source="rotif:stream:x", group="other"))
        return length(server, "rotif:stream:x") <= option.get("max_stream_length", 1)

    await until(trimmed)
    server.call("ZADD", "rotif:scheduled", 1, "0a0a0a0a-0000-4000-8000-000000000000")
    await dead(server, 1)


async def test_r15_what_a_dead_process_held_is_taken_over_and_its_name_forgotten(place: Place, server: Server) -> None:
    dying = RotifBroker.from_url(f"rotif+{place.url}")
    source = await dying.bind("x", "grp:x")
    subscription = Subscription(source=source, group="grp:x", lease=0.3)
    await dying.open()
    await dying.fetch(subscription, 0, 0.0)
    manager, heard = place.manager(lease=0.3, claim_interval=0.05), Heard()
    await manager.publish("x", 1)
    assert 1 == len(await dying.fetch(subscription, 10, 2.0))
    await manager.subscribe("x", heard)
    (message,) = await heard.next()
    assert 2 == message.attempt  # the crash counts
    await empty(server, "x")
    broker = RotifBroker.from_url(f"rotif+{place.url}", owner_gone_after=0.001)
    short = Subscription(source=source, group="grp:x", lease=0.001)

    async def forgotten() -> bool:
        await broker.trim(short)
        names = {each[b"name"].decode() for each in server.call("XINFO", "CONSUMERS", source, "grp:x")}
        return dying.identity not in names

    await until(forgotten)
    await broker.close()
    await dying.close()


async def test_r16_a_server_that_forgot_its_scripts_is_told_again(place: Place, server: Server) -> None:
    manager, heard, letters = place.manager(), Heard(1), Heard()
    await manager.subscribe("x", heard, max_retries=2)
    await manager.subscribe_to_dlq(letters)
    for n in range(3):
        server.call("SCRIPT", "FLUSH")
        results = await asyncio.gather(*(manager.publish("x", [n, i]) for i in range(10)))
        assert [1] * 10 == list(map(len, results))
    await heard.next(60)
    await empty(server, "x")
    assert 30 == heard.attempts.count(2)


async def test_r16_and_r17_a_restart_and_a_flush_heal_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    server = OwnServer(find_binary("redis"), durable=True).start()
    place = Place("redis", server.url, server)
    try:
        manager, heard = place.manager(lease=2.0), Heard()
        await manager.subscribe("x", heard)
        await manager.publish("x", 1)
        await heard.next()
        await asyncio.to_thread(server.restart)

        async def published() -> bool:
            try:
                return bool(await manager.publish("x", 2))
            except ConnectionFailed:
                return False

        await until(published)
        await heard.next(within=20.0)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            server.call("FLUSHALL")

            async def bound_again() -> bool:
                return server.call("ZSCORE", "rotif:patterns", "x") is not None

            await until(bound_again)
            await manager.publish("x", 3)
            await heard.next(within=20.0)
        assert len(caplog.records) < 10
        assert {1, 2, 3} == set(heard.payloads)
    finally:
        await place.close()
        server.stop()


async def test_r18_stopping_is_fast_while_reads_block_and_awaits_handlers(place: Place, server: Server) -> None:
    manager, begun, done = place.manager(wait=30.0), asyncio.Event(), list[int]()

    async def slow(message: Notification) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        done.append(1)

    await manager.subscribe("x", slow)
    for n in range(10):
        await manager.subscribe(f"idle{n}.*", Heard())
    await manager.publish("x", 1)
    await asyncio.wait_for(begun.wait(), 5)
    began = time.monotonic()
    await manager.stop_all()
    assert time.monotonic() - began < 2.0  # the original: 5 seconds, and nothing awaited
    assert [1] == done
    assert 0 == length(server, "rotif:stream:x")


async def test_r18_what_does_not_finish_within_the_grace_goes_back_whole(place: Place) -> None:
    manager, begun, heard = place.manager(), asyncio.Event(), Heard()

    async def stuck(message: Notification) -> None:
        begun.set()
        await asyncio.Event().wait()

    await manager.subscribe("x", stuck)
    for n in range(5):
        await manager.publish("x", n)
    await asyncio.wait_for(begun.wait(), 5)
    began = time.monotonic()
    await manager.stop_all(timeout=0.2)
    assert time.monotonic() - began < 3.0
    await place.manager().subscribe("x", heard)
    await heard.next(5)
    assert ([0, 1, 2, 3, 4], {1}) == (sorted(heard.payloads), set(heard.attempts))


async def test_r19_a_colon_in_a_pattern_and_a_lost_connection_leave_publishers_informed(
    place: Place, server: Server
) -> None:
    manager, other, heard = place.manager(), place.manager(unrouted="drop"), Heard()
    assert [] == await other.publish("user:1", 0)
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await manager.subscribe("user:*", heard)

    async def published() -> bool:
        try:
            return bool(await other.publish("user:1", 1))
        except ConnectionFailed:
            return False

    await until(published)
    await heard.next()


async def test_r20_options_mean_something_and_those_that_do_not_are_errors(place: Place) -> None:
    calls: list[tuple[int, Any]] = []

    def delay(attempt: int, message: Notification) -> float:
        calls.append((attempt, message.payload))
        return 0.01

    manager, heard = place.manager(retry_delay=delay, group_name=lambda p: f"{p}-group", consumer="me"), Heard(1)
    subscription = await manager.subscribe("x", heard, max_retries=2)
    assert "x-group" == subscription.group
    await manager.publish("x", 7)
    await heard.next(2)
    assert [(1, 7)] == calls
    assert "me" == manager.broker.identity
    with pytest.raises(ConfigurationError, match="retry_delay"):
        await manager.subscribe("x", heard, retry_delay="soon")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no option maxRetries"):
        place.manager(maxRetries=3)
    other = Heard(1)
    await manager.subscribe("y", other, retry_delay=lambda *_: float("nan"))
    await manager.publish("y", 1)
    await other.next(2)


async def test_r21_every_publisher_knows_all_patterns_and_a_fan_out_is_whole(place: Place) -> None:
    managers, heard = [place.manager() for _ in range(4)], Heard()

    async def come(n: int) -> None:
        await managers[n % 4].subscribe(f"{{x,{n}}}", heard)
        assert n < len(await managers[(n + 1) % 4].publish("x", n)) + 20

    await asyncio.gather(*(come(n) for n in range(20)))
    for manager in managers:
        assert 20 == len(await manager.publish("x", "all"))


async def test_r22_groups_of_one_pattern_share_one_copy_and_headers_travel(place: Place, server: Server) -> None:
    manager, heard = place.manager(), [Heard() for _ in range(5)]
    subscriptions = [await manager.subscribe("x", each, group=f"g{n}") for n, each in enumerate(heard)]
    for each in subscriptions:
        await each.pause()
    await manager.publish("x", "x" * 1000, headers={"traceparent": "00-1-2-01"}, key="k")
    assert 1 == length(server, "rotif:stream:x")
    for each in subscriptions:
        await each.resume()
    for each in heard:
        (message,) = await each.next()
        assert ("00-1-2-01", "k") == (message.headers["traceparent"], message.key)


async def test_r23_what_is_due_is_due_by_the_clock_of_the_server(place: Place, server: Server) -> None:
    clock = ManualClock(start=time.time() - 3600.0)  # an hour late
    broker = RotifBroker.from_url(f"rotif+{place.url}", clock=clock)
    await broker.bind("x", "g")
    await broker.post([Post(message=Message(type="x", body=b"1"), delay=60.0)])
    ((_, score),) = server.call("ZRANGE", "rotif:scheduled", 0, -1, "WITHSCORES")
    assert 55 < float(score) / 1000 - time.time() < 65
    assert 0 == (await broker.promote_due("rotif:stream:x", 10)).count
    await broker.close()


async def test_r24_statistics_are_kept(place: Place) -> None:
    manager, heard = place.manager(), Heard(1)
    subscription = await manager.subscribe("x", heard, max_retries=2)
    await manager.publish("x", 1)
    await heard.next(2)

    async def told() -> bool:
        stats = await subscription.stats()
        return (stats.messages, stats.retries, stats.failures, stats.pending) == (1, 1, 0, 0)

    await until(told)
    assert abs((await subscription.stats()).last_message_at - time.time()) < 10


async def test_r25_a_dead_letter_says_when_where_and_why(place: Place, server: Server) -> None:
    manager = place.manager()
    await manager.subscribe("x", Heard(error=ValueError("boom")), max_retries=1, group="g")
    (ident,) = await manager.publish("x", 1)
    await dead(server, 1)
    ((_, fields),) = server.call("XRANGE", "rotif:dlq", "-", "+")
    letter = {name.decode(): value.decode() for name, value in fields.items()}
    assert (ident, "g", "boom", "ValueError") == (letter["id"], letter["group"], letter["error"], letter["errorType"])
    assert abs(int(letter["failedAt"]) / 1000 - time.time()) < 10
    assert "Traceback" in letter["stack"]


async def test_r26_a_message_that_kills_its_processes_becomes_a_dead_letter(place: Place, server: Server) -> None:
    manager = place.manager()
    broker: Any = manager.broker
    source = await broker.bind("x", "grp:x")
    subscription = Subscription(source=source, group="grp:x", lease=0.1)
    await manager.publish("x", "killer")
    for n in range(3):  # owners that take it and are never heard of again
        victim = RotifBroker.from_url(f"rotif+{place.url}", consumer=f"victim{n}")
        taken: list[Any] = []

        async def take(victim: RotifBroker = victim, taken: list[Any] = taken) -> bool:
            taken.extend(await victim.fetch(subscription, 1, 0.0))
            taken.extend(await victim.reclaim(subscription, 1) if not taken else [])
            return bool(taken)

        await until(take)
        for reader in victim._readers.values():
            await reader.close()
        await victim._client.close()
    heard = Heard()
    await place.manager(lease=0.1, claim_interval=0.05, max_retries=3).subscribe("x", heard)
    await dead(server, 1)
    assert [] == heard.messages
    ((_, fields),) = server.call("XRANGE", "rotif:dlq", "-", "+")
    assert b"poison" == fields[b"reason"]


async def test_r27_a_subscription_that_stands_still_stops_no_other(place: Place) -> None:
    manager, stuck, heard = place.manager(), asyncio.Event(), Heard()

    async def slow(message: Notification) -> None:
        await stuck.wait()

    await manager.subscribe("x", slow)
    paused = await manager.subscribe("x", Heard(), group="paused")
    await paused.pause()
    await manager.subscribe("x", heard, group="lively")
    for n in range(20):
        await manager.publish("x", n)
    await heard.next(20)
    parallel = Heard()
    await manager.subscribe("y", parallel, concurrency=10)
    await manager.publish("y", 1)
    await parallel.next()
    stuck.set()


def test_r28_which_servers_will_do_is_said() -> None:
    from pathlib import Path

    guide = Path(__file__).parents[2] / "docs" / "guides" / "notifications.md"
    assert "Redis 6.2" in guide.read_text("utf-8")


async def test_ten_thousand_concurrent_publishes_over_ten_channels_arrive_exactly(place: Place, server: Server) -> None:
    manager = place.manager()
    count: dict[str, list[int]] = {f"c.{n}": [] for n in range(10)}
    done = asyncio.Event()

    async def handle(message: Notification) -> None:
        count[message.channel].append(message.payload)
        if sum(map(len, count.values())) >= 10_000:
            done.set()

    for channel in count:
        await manager.subscribe(channel, handle)
    results = await asyncio.gather(
        *(manager.publish(f"c.{n % 10}", n, delay=1.0 if n % 20 < 1 else 0.0) for n in range(10_000))
    )
    assert [1] * 10_000 == list(map(len, results))
    await asyncio.wait_for(done.wait(), 60)
    for n, channel in enumerate(count):
        assert list(range(n, 10_000, 10)) == sorted(count[channel])
        await empty(server, channel)


async def test_a_fan_out_that_a_typescript_mover_has_moved_reaches_its_group(place: Place, server: Server) -> None:
    """The original moves a retry of ours without the fields that it does not know."""
    manager, heard = place.manager(), Heard()
    await manager.subscribe("x", heard)
    body = {
        "channel": "x",
        "payload": "1",
        "timestamp": "1",
        "attempt": "2",
        "exactlyOnce": "false",
        "dedupTTL": "3600",
    }
    flat = [part for pair in body.items() for part in pair]
    server.call("XADD", "rotif:stream:x:retry", "*", *flat)
    await heard.next()
    assert [2] == heard.attempts
    assert json.loads("1") == heard.payloads[0]


async def test_a_letter_whose_group_or_stream_is_gone_stays_and_hides_no_other(place: Place, server: Server) -> None:
    manager, others = place.manager(max_retries=1), (Heard(), Heard())
    failing = await manager.subscribe("x", Heard(error=ValueError("no")), group="failing")
    for name, heard in zip(("b", "c"), others, strict=True):
        await manager.subscribe("x", heard, group=name)
    await manager.publish("x", 1)
    await dead(server, 1)
    await failing.unsubscribe(remove_pattern=True)
    server.call("SET", "rotif:stream:text", "no stream")
    for stream in ("rotif:stream:text", "rotif:stream:x"):
        server.call("XADD", "rotif:dlq", "*", "channel", "x", "payload", "2", "streamKey", stream)
    assert 1 == await manager.requeue_from_dlq(1)
    for heard in others:
        await heard.next(2)
        assert [1, 2] == heard.payloads
    assert 2 == length(server, "rotif:dlq")


async def test_a_delayed_body_without_a_channel_is_a_dead_letter(place: Place, server: Server) -> None:
    manager = place.manager()
    await manager.subscribe("x", Heard())
    server.call("SET", "rotif:delayed:odd", '{"payload":"1","timestamp":"1"}')
    server.call("ZADD", "rotif:scheduled", "1", "odd")
    await dead(server, 1)
    assert 0 == server.call("EXISTS", "rotif:stream:1")


async def test_a_payload_too_wide_for_a_fingerprint_is_handled_all_the_same(place: Place) -> None:
    manager, heard = place.manager(), Heard()
    await manager.subscribe("x", heard, exactly_once=True)
    await manager.publish("x", {f"k{number}": 1 for number in range(66_000)})
    await heard.next()
    assert [1] == heard.attempts
