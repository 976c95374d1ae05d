"""Faults of ``@logistically/events`` that ours must not have: release 2 by E, release 3.3 by F, on real servers.

The name of each test begins with the fault's number.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from penstock import (
    BatchedEventPublisher,
    BrokerError,
    Claim,
    ConfigurationError,
    ConnectionFailed,
    Constant,
    EventBatch,
    EventConsumer,
    EventHeader,
    EventPublisher,
    EventValidator,
    PublishError,
    RetryPolicy,
    Route,
    ValidationError,
    open_broker,
)
from penstock.broker import Broker, Outgoing
from penstock.brokers.memory import MemoryBroker
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.clock import SYSTEM_CLOCK
from penstock.events.envelope import Stamp, event
from penstock.events.handlers import EventRegistry
from penstock.events.stats import MOST_NAMES, Observed, Tally
from penstock.stores.memory import MemoryStore
from penstock.testing.clock import ManualClock
from tests.servers.redis_server import OwnServer, Server

STREAM = "user-events"
TYPE = "user.created"
SOON = RetryPolicy(max_attempts=3, backoff=Constant(delay=0.01))


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[RedisStreamsBroker]:
    broker = RedisStreamsBroker.from_url(redis_url)
    yield broker
    await broker.close()


def consumer_on(broker: Broker[Any], **terms: Any) -> EventConsumer:
    return EventConsumer(broker, **{"stream": STREAM, "group": "g", "retry": SOON, **terms})


def noting(consumer: EventConsumer, pattern: Any = "*") -> list[Any]:
    """A handler that notes what it gets."""
    got: list[Any] = []

    async def note(body: Any) -> None:
        got.append(body)

    consumer.add_handler(pattern, note)
    return got


async def publish(broker: Broker[Any], *bodies: Any, type_: str = TYPE, **terms: Any) -> None:
    async with EventPublisher(broker, **{"origin": "user-service", **terms}) as publisher:
        for body in bodies:
            await publisher.publish(type_, body)


async def until(condition: Any) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


def pending(server: Server, stream: str = STREAM) -> int:
    return server.call("XPENDING", stream, "g")["pending"]


class Refusing(MemoryBroker):
    """Refuses what ``wrong`` names, and is as slow as ``gate``."""

    def __init__(self, *wrong: bytes) -> None:
        super().__init__()
        self.wrong, self.sent, self.sizes = set(wrong), list[bytes](), list[int]()
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most = 0

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.sizes.append(len(messages))
        await self.gate.wait()
        self.at_once -= 1
        bodies = [each.message.body for each in messages]
        self.sent += [body for body in bodies if body not in self.wrong]
        if self.wrong.isdisjoint(bodies):
            return ["1"] * len(bodies)
        raise PublishError([BrokerError(f"no {body!r}") if body in self.wrong else "1" for body in bodies])


# ------------------------------------------------------------------------------------------------------------ release 2


async def test_e1_the_advertised_path_works(broker: RedisStreamsBroker, shared_server: Server):
    consumer = consumer_on(broker)
    got = noting(consumer, TYPE)
    await publish(broker, 1, 2)
    async with consumer:
        await until(lambda: len(got) == 2)
        await until(lambda: pending(shared_server) == 0)


async def test_e2_handlers_are_named_without_the_service_that_publishes(broker: RedisStreamsBroker):
    consumer = consumer_on(broker)
    got = noting(consumer, TYPE)
    await publish(broker, 1, origin="user-service")
    await publish(broker, 2, origin="another-service")
    await publish(broker, 3, namespace="chosen")
    async with consumer:
        await until(lambda: sorted(got) == [1, 2, 3])


async def test_e3_what_fails_is_tried_again_before_it_is_dead(broker: RedisStreamsBroker, shared_server: Server):
    consumer, attempts = consumer_on(broker, dead_letter_stream="user-events-dlq"), list[int]()

    @consumer.on(TYPE)
    async def fail(body: Any, header: EventHeader) -> None:
        attempts.append(header.attempt)
        raise ValueError

    await publish(broker, 1)
    async with consumer:
        await until(lambda: shared_server.call("XLEN", "user-events-dlq") == 1)
    assert [0, 1, 2] == attempts


async def test_e4_a_failure_is_never_acked_whoever_looks_on(broker: RedisStreamsBroker):
    async def looks_on(envelope: Any, call_next: Any) -> Any:
        try:
            return await call_next(envelope)
        except ValueError:
            raise

    consumer, attempts = consumer_on(broker, middleware=[looks_on]), list[int]()

    @consumer.on(TYPE)
    async def fail_twice(body: Any, header: EventHeader) -> None:
        attempts.append(header.attempt)
        if header.attempt < 2:
            raise ValueError

    await publish(broker, 1)
    async with consumer:
        await until(lambda: consumer.consumer.counters.acked == 1)
    assert [0, 1, 2] == attempts


async def test_e5_the_first_event_after_a_long_silence_is_handled(broker: RedisStreamsBroker):
    consumer = consumer_on(broker, block=0.1)
    got = noting(consumer)
    async with consumer:
        await asyncio.sleep(0.5)  # several blocking reads come to their end
        await publish(broker, 1)
        await until(lambda: got == [1])


async def test_e6_what_is_not_published_is_told(durable_server: OwnServer):
    broker = RedisStreamsBroker.from_url(durable_server.url, timeout=1.0)
    publisher = EventPublisher(broker, origin="s")
    batched = BatchedEventPublisher(broker, origin="s")
    await publisher.publish(TYPE, 0)
    await batched.add(TYPE, 1)
    durable_server.kill()
    with pytest.raises(ConnectionFailed):
        await publisher.publish(TYPE, 2)
    with pytest.raises(PublishError):
        await batched.flush()
    assert [1] == [failed.body for failed in batched.failed_messages()]
    durable_server.start()
    assert 1 == await batched.retry_failed_messages()
    for each in (publisher, batched, broker):
        await each.close()


async def test_e7_batches_beyond_the_limit_wait():
    broker = Refusing()
    broker.gate.clear()
    batched = BatchedEventPublisher(broker, origin="s", batch=EventBatch(max_concurrent=5))
    for n in range(8):
        await batched.add(f"type{n}", n)
    flushing = asyncio.create_task(batched.flush())
    await asyncio.sleep(0.05)
    assert 5 == batched.memory_stats().active_batches
    broker.gate.set()
    await flushing

    assert (8, 5, []) == (len(broker.sent), broker.most, batched.failed_messages())
    await batched.close()


async def test_e8_a_timer_that_meets_an_error_disturbs_nobody():
    trouble: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
    clock, broker = ManualClock(), Refusing(b"1")
    batched = BatchedEventPublisher(broker, origin="s", batch=EventBatch(max_wait=0.1), clock=clock)
    await batched.add("a", 1)
    await asyncio.sleep(0)
    await clock.advance(0.2)
    await until(batched.failed_messages)
    await batched.close()
    asyncio.get_running_loop().set_exception_handler(None)
    assert [] == trouble


async def test_e9_what_comes_while_a_flush_is_under_way_has_a_timer():
    broker, clock = Refusing(), ManualClock()
    batched = BatchedEventPublisher(broker, origin="s", batch=EventBatch(max_wait=0.05), clock=clock)
    broker.gate.clear()
    await batched.add("a", 1)
    flushing = asyncio.create_task(batched.flush())
    await asyncio.sleep(0.01)
    await batched.add("a", 2)
    await asyncio.sleep(0)
    await clock.advance(0.06)  # it fires while the flush runs
    await batched.add("a", 3)
    broker.gate.set()
    await flushing
    await asyncio.sleep(0.01)
    await clock.advance(0.06)
    await until(lambda: len(broker.sent) == 3)
    await batched.close()


async def test_e10_no_batch_is_larger_than_allowed():
    broker = Refusing()
    async with BatchedEventPublisher(broker, origin="s", batch=EventBatch(max_size=100)) as batched:
        await asyncio.gather(*(batched.add("a", n) for n in range(1000)))
        await batched.publish_many("a", range(250))
    assert (100, 1250) == (max(broker.sizes), sum(broker.sizes))


async def test_e11_only_what_failed_has_failed_and_the_order_is_kept():
    broker = Refusing(b"2")
    batched = BatchedEventPublisher(broker, origin="s")
    with pytest.raises(PublishError):
        await batched.publish_many("a", [1, 2, 3])
    assert ([b"1", b"3"], [2]) == (broker.sent, [failed.body for failed in batched.failed_messages()])
    await batched.close()


async def test_e12_failed_messages_survive_close_and_others_keep_their_broker(broker: RedisStreamsBroker):
    refusing = Refusing(b"1")
    batched = BatchedEventPublisher({"r": refusing}, origin="s")
    await batched.add("a", 1)
    await batched.close()
    assert [1] == [failed.body for failed in batched.failed_messages()]

    one, two = EventPublisher(broker, origin="s"), EventPublisher(broker, origin="s")
    queued = BatchedEventPublisher(broker, origin="s")
    await queued.add(TYPE, 3)
    await one.publish(TYPE, 1)
    await one.close()
    await two.publish(TYPE, 2)
    await queued.close()
    assert [] == queued.failed_messages()
    await two.close()


async def test_e12_what_cannot_be_sent_in_time_is_failed():
    broker, clock = Refusing(), ManualClock()
    broker.gate.clear()
    batched = BatchedEventPublisher(broker, origin="s", batch=EventBatch(max_size=2), clock=clock)
    filling = asyncio.gather(batched.add("a", 1), batched.add("a", 2))
    await asyncio.sleep(0.01)
    await batched.add("b", 3)
    closing = asyncio.create_task(batched.close(5))
    await asyncio.sleep(0.01)
    await clock.advance(5)
    await closing
    await asyncio.gather(filling, return_exceptions=True)

    assert [1, 2, 3] == sorted(failed.body for failed in batched.failed_messages())
    assert 0 == batched.memory_stats().total_messages


async def test_e13_what_is_published_in_batches_every_consumer_reads(broker: RedisStreamsBroker, shared_server: Server):
    async with BatchedEventPublisher(broker, origin="s", batch=EventBatch(max_size=3)) as batched:
        await batched.publish_many(TYPE, range(7))
    assert 7 == shared_server.call("XLEN", STREAM)
    consumer = consumer_on(broker)
    got = noting(consumer, TYPE)
    async with consumer:
        await until(lambda: sorted(got) == list(range(7)))


@pytest.mark.parametrize("stream", [None, "elsewhere", lambda type_: f"{type_}!"])
async def test_e14_one_type_goes_to_one_stream_on_every_path(
    broker: RedisStreamsBroker, shared_server: Server, stream: Any
):
    terms: Any = {"origin": "s", "stream": stream}
    await publish(broker, 1, **terms)
    async with BatchedEventPublisher(broker, **terms) as batched:
        await batched.add(TYPE, 2)
    names = [name.decode() for name in shared_server.call("KEYS", "*")]
    assert [STREAM if stream is None else stream if isinstance(stream, str) else stream(TYPE)] == names
    assert 2 == shared_server.call("XLEN", names[0])


async def test_e15_a_dead_letter_says_why_and_can_live_again(broker: RedisStreamsBroker, shared_server: Server):
    consumer, healthy = consumer_on(broker, retry=RetryPolicy(max_attempts=1)), False

    @consumer.on(TYPE)
    async def fail(body: Any) -> None:
        if not healthy:
            raise ValueError("no")

    await publish(broker, {"a": 1})
    events = broker.speaking("events")
    async with consumer:
        await until(lambda: shared_server.call("XLEN", "user-events-dlq") == 1)
        (letter,) = await events.dead(STREAM, 10)
        assert ("maxAttempts(1)", "ValueError: no", "g") == (letter.reason, letter.error, letter.group)
        healthy = True
        await events.requeue_dead(STREAM, [letter.id])
        await until(lambda: consumer.consumer.counters.acked == 1)
        healthy = False
        await publish(broker, {"a": 2})
        await until(lambda: shared_server.call("XLEN", "user-events-dlq") == 1)
        mourner = EventConsumer(broker, stream="user-events-dlq", group="m")
        got = noting(mourner)
        async with mourner:
            await until(lambda: got == [{"a": 2}])
    await events.close()


async def test_e16_an_event_that_fails_inside_a_batch_is_tried_again(broker: RedisStreamsBroker, shared_server: Server):
    consumer, attempts = consumer_on(broker, retry=RetryPolicy(max_attempts=2, backoff=0.01)), list[tuple[int, int]]()

    @consumer.on(TYPE)
    async def fail(body: int, header: EventHeader) -> None:
        attempts.append((body, header.attempt))
        if body == 2:
            raise ValueError

    shared_server.call("XADD", STREAM, "*", "data", batch(1, 2, 3))
    async with consumer:
        await until(lambda: shared_server.call("XLEN", "user-events-dlq") == 1)
        await until(lambda: pending(shared_server) == 0)
    assert [(1, 0), (2, 0), (2, 1), (3, 0)] == sorted(attempts)


def batch(*numbers: int) -> str:
    stamp = Stamp(origin="svc", namespace="svc", at=0.0)
    messages: list[Any] = []
    for n in numbers:
        message = event(stamp, TYPE, str(n).encode())
        header = {**message.headers, "type": message.type}
        messages.append({"eventType": TYPE, "body": n, "envelope": {"header": header, "body": n}})
    header = {"type": "user-batch", "messageCount": len(numbers), "batchId": "ab", "timestamp": "2026"}
    return json.dumps({"pattern": "user-batch", "data": {"header": header, "body": {"messages": messages}}})


async def test_e17_a_group_begins_with_the_first_event_and_is_made_again(
    broker: RedisStreamsBroker, shared_server: Server
):
    consumer = consumer_on(broker, block=0.2)
    got = noting(consumer)
    await publish(broker, 1)
    async with consumer:
        await until(lambda: got == [1])
        shared_server.call("FLUSHALL")
        await publish(broker, 2)
        await until(lambda: got == [1, 2])


async def test_e18_what_every_group_has_acked_is_gone(broker: RedisStreamsBroker, shared_server: Server):
    consumer = consumer_on(broker)
    got = noting(consumer)
    await publish(broker, *range(50))
    async with consumer:
        await until(lambda: len(got) == 50)
        await until(lambda: shared_server.call("XLEN", STREAM) == 0)


async def test_e18_a_queue_that_cannot_be_sent_does_not_grow_for_ever():
    broker = Refusing()
    broker.gate.clear()
    batched = BatchedEventPublisher(broker, origin="s", batch=EventBatch(max_size=2, max_queued=10))
    adding = [asyncio.create_task(batched.add(f"t{n % 3}", n)) for n in range(100)]
    await asyncio.sleep(0.05)
    assert 10 == batched.memory_stats().total_messages
    broker.gate.set()
    while not all(task.done() for task in adding):
        await batched.flush()
        await asyncio.sleep(0)
    await batched.close()
    assert 100 == len(broker.sent)


async def test_e19_a_body_is_stored_once(broker: RedisStreamsBroker, shared_server: Server):
    async with BatchedEventPublisher(broker, origin="s") as batched:
        await batched.add(TYPE, {"needle": 1})
    ((_, fields),) = shared_server.call("XRANGE", STREAM, "-", "+")
    assert 1 == fields[b"data"].count(b"needle")


async def test_e20_what_is_documented_is_there(broker: RedisStreamsBroker):
    consumer = EventConsumer(
        broker,
        stream=STREAM,
        group="g",
        retry_attempts=3,
        retry_delay=1.0,
        max_retry_delay=30.0,
        dead_letter_stream="user-events-dlq",
        auto_ack=False,
        max_pending=100,
        batch_size=10,
        block=1.0,
    )
    status = await consumer.status()
    assert (True, 0, None, None, 0, 0) == (
        *(status.is_connected, status.pending_messages, status.lag, status.last_processed_id),
        *(status.error_count, status.retry_count),
    )
    broken = EventConsumer(open_broker("redis://127.0.0.1:1", timeout=0.2), stream=STREAM, group="g")
    assert not (await broken.status()).is_connected
    assert "high" == Route("payment.*", priority="high").priority


async def test_e21_close_ends_a_read_that_waits_and_lets_handlers_finish(broker: RedisStreamsBroker):
    consumer, gate, done = consumer_on(broker, block=10.0), asyncio.Event(), list[int]()
    await consumer.listen()
    began = time.monotonic()
    await consumer.close()
    assert 5 > time.monotonic() - began

    @consumer.on("*")
    async def slow(body: int) -> None:
        gate.set()
        await asyncio.sleep(0.1)
        done.append(body)

    await publish(broker, 1)
    await consumer.listen()
    await gate.wait()
    assert await consumer.close()
    assert [1] == done


async def test_e22_two_events_that_say_the_same_are_two_and_one_that_comes_twice_is_one(broker: RedisStreamsBroker):
    store = MemoryStore()
    consumers = [consumer_on(broker, idempotency=store) for _ in range(2)]
    got = [noting(each) for each in consumers]
    async with EventPublisher(broker, origin="s") as publisher:
        once = await publisher.prepare(TYPE, {"a": 1})
        await publisher.send([once] * 20)
        await publisher.publish(TYPE, {"a": 1})
    for each in consumers:
        await each.listen()
    await until(lambda: sum(each.consumer.counters.acked for each in consumers) == 21)
    for each in consumers:
        await each.close()
    assert 2 == len(got[0] + got[1])


async def test_e23_concurrent_publishes_have_their_own_validators():
    class Slow:
        def __init__(self, good: Any) -> None:
            self.good = good

        async def validate(self, event_type: str, body: Any) -> bool:
            await asyncio.sleep(0.001)
            return bool(body == self.good)

    publisher = EventPublisher(Refusing(), origin="s", validator=Slow("never"))
    results = await asyncio.gather(
        *(publisher.publish("a", n, validator=Slow(n if n % 2 else -1)) for n in range(20)), return_exceptions=True
    )
    assert [bool(n % 2) for n in range(20)] == [isinstance(each, str) for each in results]
    assert all(isinstance(each, str | ValidationError) for each in results)


async def test_e24_the_default_is_honoured_and_a_transport_that_is_missing_is_named():
    one, two = Refusing(), Refusing()
    publisher = EventPublisher({"console": one, "redis": two}, origin="s", default="redis")
    await publisher.publish("order.created", 1)
    assert ([], [b"1"]) == (one.sent, two.sent)
    with pytest.raises(ConfigurationError, match="no transport is named 'redis'; there are console"):
        EventPublisher({"console": one}, origin="s", routes=[Route("user.*", "redis")])


# ---------------------------------------------------------------------------------------------------------- release 3.3


async def test_f1_batches_of_release_3_are_read(broker: RedisStreamsBroker, shared_server: Server):
    consumer = consumer_on(broker)
    got = noting(consumer, TYPE)
    inner = [each["envelope"] for each in json.loads(batch(1, 2))["data"]["body"]["messages"]]
    data = json.dumps({"data": inner, "metadata": {"batch": True, "count": 2}})
    shared_server.call(
        "XADD", STREAM, "*", "data", data, "timestamp", "1", "topic", STREAM, "batch", "true", "count", "2"
    )
    async with consumer:
        await until(lambda: sorted(got) == [1, 2])
        await until(lambda: pending(shared_server) == 0)


async def test_f2_what_a_dead_process_held_is_handled_by_another(broker: RedisStreamsBroker, shared_server: Server):
    await publish(broker, 1)
    shared_server.call("XGROUP", "CREATE", STREAM, "g", "0")
    shared_server.call("XREADGROUP", "GROUP", "g", "dead-process", "STREAMS", STREAM, ">")
    consumer = consumer_on(broker, claim=Claim(min_idle=0.3, interval=0.1))
    got = noting(consumer)
    async with consumer:
        await until(lambda: got == [1])


async def test_f3_several_handlers_of_one_stream_share_a_reader_and_nothing_is_stuck(
    broker: RedisStreamsBroker, shared_server: Server
):
    consumer = consumer_on(broker)
    created, updated = noting(consumer, "user.created"), noting(consumer, "user.updated")
    for type_ in ("user.created", "user.updated", "user.deleted"):
        await publish(broker, *range(34), type_=type_)
    async with consumer:
        await until(lambda: len(created) == len(updated) == 34)
        await until(lambda: consumer.consumer.counters.acked == 102)
        assert 0 == pending(shared_server)
        assert 34 == (await consumer.status()).unhandled


@pytest.mark.parametrize("pattern", ["user.*", re.compile("^user")])
async def test_f4_patterns_work_on_redis(broker: RedisStreamsBroker, pattern: Any):
    consumer = consumer_on(broker)
    got = noting(consumer, pattern)
    await publish(broker, 1, type_="user.profile.updated")
    async with consumer:
        await until(lambda: got == [1])


async def test_f5_a_handler_that_fails_has_not_acked(broker: RedisStreamsBroker, shared_server: Server):
    consumer = consumer_on(broker, retry=RetryPolicy(max_attempts=2, backoff=Constant(delay=3600)))

    @consumer.on("*")
    async def fail(body: Any) -> None:
        raise ValueError

    await publish(broker, 1)
    async with consumer:
        await until(lambda: consumer.consumer.counters.retried == 1)
    assert (1, 0) == (shared_server.call("ZCARD", "user-events:retry"), consumer.consumer.counters.acked)


async def test_f6_a_second_group_on_the_same_broker_gets_everything(broker: RedisStreamsBroker):
    one, two = consumer_on(broker), consumer_on(broker, group="h")
    got, too = noting(one), noting(two)
    async with one, two:
        await publish(broker, 1)
        await until(lambda: (got, too) == ([1], [1]))


async def test_f7_trimming_takes_nothing_unread(redis_url: str, shared_server: Server):
    broker = RedisStreamsBroker.from_url(redis_url, retention="limits", max_length=10)
    consumer = consumer_on(broker)
    await consumer.listen()  # the group is there
    await consumer.close()
    await publish(broker, *range(50))
    assert 50 == shared_server.call("XLEN", STREAM)
    got = noting(consumer)
    async with consumer:
        await until(lambda: len(got) == 50)
    await broker.close()


async def test_f8_an_error_of_one_command_of_a_pipeline_is_told(broker: RedisStreamsBroker, shared_server: Server):
    shared_server.call("SET", "order-events", "no stream")
    batched = BatchedEventPublisher(broker, origin="s", batch=EventBatch(group_by="exact"))
    await batched.add("order.created", 1)
    await batched.add(TYPE, 2)
    with pytest.raises(PublishError, match="WRONGTYPE"):
        await batched.flush()
    assert ([1], 1) == ([each.body for each in batched.failed_messages()], shared_server.call("XLEN", STREAM))
    await batched.close()


async def test_f9_after_close_nothing_runs_any_more(broker: RedisStreamsBroker):
    before = asyncio.all_tasks()
    consumer = consumer_on(broker)
    noting(consumer)
    async with consumer:
        await publish(broker, 1)
        await until(lambda: consumer.consumer.counters.acked == 1)
    await until(lambda: asyncio.all_tasks() <= before)


async def test_f10_whoever_waits_to_be_tried_again_holds_up_nobody(broker: RedisStreamsBroker):
    consumer, got = consumer_on(broker, concurrency=1, retry=RetryPolicy(backoff=Constant(delay=3600))), list[int]()

    @consumer.on("*")
    async def fail_first(body: int) -> None:
        got.append(body)
        if body == 0:
            raise ValueError

    await publish(broker, *range(5))
    async with consumer:
        await until(lambda: got == [0, 1, 2, 3, 4])


async def test_f11_a_consumer_that_is_gone_takes_nothing_with_it(broker: RedisStreamsBroker, shared_server: Server):
    await publish(broker, 1)
    shared_server.call("XGROUP", "CREATE", STREAM, "g", "0")
    shared_server.call("XREADGROUP", "GROUP", "g", "ghost", "STREAMS", STREAM, ">")
    events = broker.speaking("events")
    consumer = consumer_on(broker, claim=Claim(min_idle=60.0))
    async with consumer:
        await events.trim(consumer.consumer.subscription)
        assert 1 == pending(shared_server)
    await events.close()


async def test_f12_an_event_whose_dead_letter_cannot_be_written_stays(
    broker: RedisStreamsBroker, shared_server: Server
):
    shared_server.call("SET", "user-events-dlq", "no stream")
    consumer = consumer_on(broker, retry=RetryPolicy(max_attempts=1))

    @consumer.on("*")
    async def fail(body: Any) -> None:
        raise ValueError

    await publish(broker, 1)
    async with consumer:
        await until(lambda: pending(shared_server) == 1 and not consumer.ready)
        shared_server.call("DEL", "user-events-dlq")
        await until(lambda: shared_server.call("XLEN", "user-events-dlq") == 1)
    ((_, fields),) = shared_server.call("XRANGE", "user-events-dlq", "-", "+")
    assert len(fields) == len(set(fields))


def test_f13_nothing_is_accepted_and_ignored():
    for wrong in ({"compression": "gzip"}, {"rate_limiting": 3}):
        with pytest.raises(TypeError, match="unexpected keyword"):
            EventPublisher(Refusing(), origin="s", **wrong)
    with pytest.raises(ConfigurationError, match="priority is one of"):
        Route("a", priority="urgent")  # type: ignore[arg-type]


async def test_f14_publishing_does_not_wait_for_a_reader(broker: RedisStreamsBroker):
    consumer = consumer_on(broker, block=5.0)
    noting(consumer, "never")
    async with consumer, EventPublisher(broker, origin="s") as publisher:
        await publisher.publish(TYPE, 0)
        await asyncio.sleep(0.1)  # the reader waits again
        began = time.monotonic()
        await publisher.publish(TYPE, 1)
        assert 1.0 > time.monotonic() - began


async def test_f15_what_is_remembered_has_a_limit():
    observed = Observed()
    registry = EventRegistry(observed, SYSTEM_CLOCK, auto_ack=True)
    tally, publisher = Tally(), EventPublisher(Refusing(), origin="s", validator=EventValidator())
    for n in range(2 * MOST_NAMES):
        message = event(Stamp(origin="s", namespace="s", at=0.0), f"t{n}", b"1")
        registry.route(message)
        tally.add(str(n))
        await publisher.prepare(f"t{n}", 1)
    assert MOST_NAMES >= len(registry._known)
    assert MOST_NAMES + 1 == len(tally.view())
    assert MOST_NAMES >= len(publisher._routes._found)
