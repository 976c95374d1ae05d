"""The client: what it refuses, what it makes of an item, bulk pushes, middleware."""

from __future__ import annotations

import asyncio
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from random import Random

import pytest

from penstock.app import open_broker
from penstock.broker import Capabilities
from penstock.errors import (
    ArgumentError,
    BrokerError,
    ConfigurationError,
    PayloadTooLarge,
    PublishError,
    UnsupportedFeature,
)
from penstock.inspector import Inspector
from penstock.job import Job, job
from penstock.job_route import install
from penstock.sidekiq import Chain, Client
from penstock.testing import ManualClock

NOW = 1_800_000_000.0
SEEN: list = []


class PlainJob(Job, abstract=True):  # not registered: others have jobs of this name
    def perform(self, *args):
        SEEN.append(args)


@job()
def shrink(image): ...


class Veto:
    def call(self, job_class, payload, queue, broker, call_next):
        SEEN.append((job_class, payload["class"], queue, broker.url))
        return None if payload["args"][:1] == ["no"] else call_next()


class Stamp:
    def __init__(self, name="stamp", value=1):
        self.name, self.value = name, value

    async def call(self, job_class, payload, queue, broker, call_next):
        payload.setdefault(self.name, []).append(self.value)
        return await call_next()


class Taking:
    """A broker that keeps what it is given."""

    capabilities = Capabilities(max_delay=1000.0, max_body=100)
    url = "taking://"

    def __init__(self):
        self.batches = []
        self.fails_at = None

    async def open(self): ...

    async def publish(self, messages):
        await asyncio.sleep(0)
        if len(self.batches) == self.fails_at:
            raise BrokerError("no more")
        self.batches.append(list(messages))
        return ["" for _ in messages]


@pytest.fixture
def broker():
    return Taking()


@pytest.fixture
def client(broker):
    SEEN.clear()
    yield Client(broker, clock=ManualClock(NOW), random=Random(1))
    install(None)


def args_of(broker):
    return [[json.loads(item.message.body) for item in batch] for batch in broker.batches]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "must be a mapping with 'class' and 'args'"),
        ([], "must be a mapping with 'class' and 'args'"),
        ({}, "must be a mapping with 'class' and 'args'"),
        ({"class": "A"}, "must be a mapping with 'class' and 'args'"),
        ({"args": []}, "must be a mapping with 'class' and 'args'"),
        ({"class": 1, "args": 1, "at": "x"}, "args of a job must be a list"),
        ({"class": "A", "args": (1,)}, "args of a job must be a list"),
        ({"class": "A", "args": {}}, "args of a job must be a list"),
        ({"class": 1, "args": [], "at": "x"}, "must be either a class or a text"),
        ({"class": PlainJob(), "args": []}, "must be either a class or a text"),
        ({"class": "A", "args": [], "at": "x", "tags": "t"}, "'at' of a job must be a numeric timestamp"),
        ({"class": "A", "args": [], "at": datetime.now(UTC)}, "'at' of a job must be a numeric timestamp"),
        ({"class": "A", "args": [], "at": math.nan}, "'at' of a job must be a numeric timestamp"),
        ({"class": "A", "args": [], "at": True}, "'at' of a job must be a numeric timestamp"),
        ({"class": "A", "args": [], "tags": "t", "retry_for": 1e10}, "tags of a job must be a list"),
        ({"class": int, "args": [], "retry_for": 1.1e9}, "must be a relative amount of time"),
        ({"class": int, "args": [], "queue": ""}, "must include a class of jobs"),
        ({"class": "A", "args": [], "queue": ""}, "must include a valid queue name"),
        ({"class": "A", "args": [], "queue": None}, "must include a valid queue name"),
        ({"class": PlainJob, "args": [], "queue": 3}, "must include a valid queue name"),
        ({"class": "A", "args": [], 1: 2}, "no keys but texts"),
        ({"class": "A", "args": [], "jid": 7}, "a jid is a text"),
    ],
)
async def test_an_item_that_is_no_job_is_refused_with_the_first_thing_that_is_wrong(client, broker, item, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        await client.push(item)
    assert isinstance(caught.value, ValueError)
    assert [] == broker.batches


@pytest.mark.parametrize("name", ["", "a/b"])
async def test_a_name_that_no_reader_can_bear_is_refused(client, name):
    with pytest.raises(ArgumentError, match="a wire name is"):
        await client.push({"class": name, "args": []})


async def test_a_job_of_another_language_needs_no_class_here(client, broker):
    jid = await client.push(
        {"class": "Other::Lang", "args": [1], "queue": "q.with:odd-chars_1", "jid": "ABC", "retry": 2}
    )
    ((item,),) = broker.batches
    assert "ABC" == jid
    assert ("q.with:odd-chars_1", "Other::Lang", b"[1]") == (item.destination, item.message.type, item.message.body)
    assert {"retry": 2, "jid": "ABC", "created_at": 1_800_000_000_000} == item.message.headers


async def test_concurrent_pushes_share_round_trips(client, broker):
    jids = await asyncio.gather(*(client.push({"class": PlainJob, "args": [n]}) for n in range(50)))
    assert [1, 49] == [len(batch) for batch in broker.batches]
    assert sorted(jids) == sorted(item.message.headers["jid"] for batch in broker.batches for item in batch)


async def test_what_is_given_is_not_changed(client):
    item = {"class": PlainJob, "args": [1], "at": NOW + 5}
    items = {"class": PlainJob, "args": [[1]], "at": [NOW + 5], "batch_size": 3}
    await client.push(item)
    await client.push_bulk(items)
    assert {"class": PlainJob, "args": [1], "at": NOW + 5} == item
    assert {"class": PlainJob, "args": [[1]], "at": [NOW + 5], "batch_size": 3} == items


async def test_options_of_a_wrapped_class_come_between_and_its_name_is_sent(client, broker):
    class Wrapped(Job, queue="wrapped", retry=9, wire_name="My::Wrapped"):
        def perform(self): ...

    class Wrapper(Job, queue="wrapper", backtrace=3):
        def perform(self): ...

    await client.push({"class": Wrapper, "wrapped": Wrapped, "args": [], "retry": 1, "retry_for": 3600.9})
    ((item,),) = broker.batches
    headers = {name: value for name, value in item.message.headers.items() if name not in {"jid", "created_at"}}
    assert ("wrapped", "Wrapper") == (item.destination, item.message.type)
    assert {"retry": 1, "backtrace": 3, "wrapped": "My::Wrapped", "retry_for": 3600} == headers


async def test_a_moment_is_a_delay_for_every_broker_and_exact_for_those_who_keep_moments(client, broker):
    await client.push({"class": PlainJob, "args": [], "at": NOW + 60.25})
    ((item,),) = broker.batches
    assert (60.25, NOW + 60.25) == (item.delay, item.message.headers["at"])
    with pytest.raises(UnsupportedFeature, match=r"delays by at most 1000.0 seconds, PlainJob is to wait for 1001"):
        await client.push({"class": PlainJob, "args": [], "at": NOW + 1001})


async def test_arguments_that_the_broker_cannot_hold_are_refused(client):
    with pytest.raises(PayloadTooLarge, match="have 104 bytes, taking:// takes 100"):
        await client.push({"class": PlainJob, "args": ["x" * 100]})


# ------------------------------------------------------------------------------------------------------- strict args


class Colour(Enum):
    RED = 1


class Text(str):
    __slots__ = ()


UNSAFE = [
    (1, 2),
    {1},
    b"x",
    Decimal(1),
    datetime(2026, 11, 21, tzinfo=UTC),
    Colour.RED,
    Text("x"),
    {1: 2},
    {Text("x"): 2},
    math.nan,
    math.inf,
    object(),
    PlainJob,
]


@pytest.mark.parametrize(
    "value", UNSAFE, ids=lambda value: repr(value).partition(" at 0x")[0]
)  # an address differs by process
@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: [1, [v]], lambda v: {"a": [{"b": v}]}], ids=["", "list", "dict"]
)
async def test_what_would_arrive_as_something_else_is_refused(client, broker, value, wrap):
    args = [1.5, wrap(value)]
    for push in (
        client.push({"class": PlainJob, "args": args}),
        client.push_bulk({"class": PlainJob, "args": [[1], args]}),
        client.perform_inline({"class": PlainJob, "args": args}),
    ):
        with pytest.raises(ArgumentError, match=r"the arguments of PlainJob must be of JSON's own types.*strict_args"):
            await push
    assert ([], []) == (broker.batches, SEEN)


async def test_the_complaint_names_the_wrapped_class(client):
    with pytest.raises(ArgumentError, match="the arguments of Inner must be"):
        await client.push({"class": "Wrapper", "wrapped": "Inner", "args": [()]})


async def test_warn_logs_and_none_is_silent_and_both_send_the_nearest_that_json_has(broker, caplog):
    for mode, warnings in (("none", 0), ("warn", 1)):
        await Client(broker, strict_args=mode).push({"class": PlainJob, "args": [(1, 2.0), Text("x")]})
        assert warnings == len(caplog.records)
    assert [[[[1, 2.0], "x"]]] * 2 == args_of(broker)
    with pytest.raises(ArgumentError, match="cannot be written as JSON"):
        await Client(broker, strict_args="none").push({"class": PlainJob, "args": [object()]})
    with pytest.raises(ConfigurationError, match="strict_args is one of"):
        Client(broker, strict_args=False)


@pytest.mark.parametrize("args", [["\ud800"], ["\ud800", 0.5], [[[]] * 1000, "\udfff"]])
@pytest.mark.parametrize("mode", ["raise", "none"])
async def test_half_a_character_is_refused_in_every_mode(broker, args, mode):
    with pytest.raises(ArgumentError, match="cannot be written as JSON"):
        await Client(broker, strict_args=mode).push({"class": PlainJob, "args": args})


@pytest.mark.parametrize("mode", ["raise", "none"])
async def test_arguments_nest_as_deep_as_ruby_reads(broker, mode):
    client, value = Client(open_broker("memory://"), strict_args=mode), []
    for _ in range(97):
        value = [value]
    await client.push({"class": PlainJob, "args": [value]})  # 98, in args, in the payload: 100
    with pytest.raises(ArgumentError, match="nested more than 100 deep"):
        await client.push({"class": PlainJob, "args": [[value]]})


# --------------------------------------------------------------------------------------------------------------- bulk


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (None, "must be a mapping"),
        ({"class": PlainJob}, "must be a mapping"),
        ({"class": PlainJob, "args": [1]}, "must be a list of lists"),
        ({"class": PlainJob, "args": [[1], 2]}, "must be a list of lists"),
        ({"class": PlainJob, "args": "ab"}, "must be a list of lists"),
        ({"class": PlainJob, "args": 5}, "must be a list of lists"),
        ({"class": PlainJob, "args": [[1]], "at": "soon"}, "'at' must be a numeric timestamp or a list"),
        ({"class": PlainJob, "args": [[1]], "at": []}, "got an empty list"),
        ({"class": PlainJob, "args": [[1]], "at": [math.inf]}, "'at' must be a numeric timestamp or a list"),
        ({"class": PlainJob, "args": [[1]], "at": [None]}, "'at' must be a numeric timestamp or a list"),
        ({"class": PlainJob, "args": [[1]], "at": [1, 2]}, "same size as 'args', got 2 for 1"),
        ({"class": PlainJob, "args": iter([[1]]), "at": [1, 2]}, "same size as 'args', got 2 for 1"),
        ({"class": PlainJob, "args": [[1], [2]], "jid": "a"}, "'jid' when pushing more than one job"),
        ({"class": PlainJob, "args": [[1]], "spread_interval": 0}, "spread_interval must be a positive number"),
        ({"class": PlainJob, "args": [[1]], "spread_interval": "1"}, "spread_interval must be a positive number"),
        ({"class": PlainJob, "args": [[1]], "spread_interval": 9, "at": 5}, "two ways to say when"),
        ({"class": PlainJob, "args": [[1]], "batch_size": 0}, "batch_size must be a whole number"),
        ({"class": PlainJob, "args": [[1]], "batch_size": 1.5}, "batch_size must be a whole number"),
        ({"class": 7, "args": [[1]]}, "must be either a class or a text"),
    ],
)
async def test_bulk_items_that_make_no_sense_are_refused(client, broker, items, message):
    with pytest.raises(ArgumentError, match=message):
        await client.push_bulk(items)
    assert [] == broker.batches


async def test_jobs_go_in_order_in_batches_of_a_thousand_with_ids_of_their_own(client, broker):
    jids = await client.push_bulk({"class": PlainJob, "args": [[n] for n in range(2500)], "queue": "low"})
    assert [1000, 1000, 500] == [len(batch) for batch in broker.batches]
    sent = [item for batch in broker.batches for item in batch]
    assert [[n] for n in range(2500)] == [json.loads(item.message.body) for item in sent]
    assert jids == [item.message.headers["jid"] for item in sent]
    assert 2500 == len(set(jids))
    assert {"low"} == {item.destination for item in sent}
    assert {0.0} == {item.delay for item in sent}


async def test_no_arguments_are_no_jobs(client, broker):
    assert [] == await client.push_bulk({"class": PlainJob, "args": []})
    assert [] == broker.batches


async def test_the_size_of_batches_can_be_chosen_and_is_less_for_scheduled_ones(client, broker):
    await client.push_bulk({"class": PlainJob, "args": [[n] for n in range(5)], "batch_size": 2})
    assert [[[0], [1]], [[2], [3]], [[4]]] == args_of(broker)
    broker.batches.clear()
    await client.push_bulk({"class": PlainJob, "args": [[n] for n in range(250)], "at": NOW + 5})
    assert [100, 100, 50] == [len(batch) for batch in broker.batches]


async def test_an_iterator_is_consumed_batch_by_batch(client, broker):
    pulled = []

    def produce():
        for n in range(5):
            pulled.append((n, len(broker.batches)))
            yield [n]

    assert 5 == len(await client.push_bulk({"class": PlainJob, "args": produce(), "batch_size": 2}))
    assert [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)] == pulled


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOW + 5, [5.0, 5.0]),
        (60, [60.0, 60.0]),  # as Sidekiq documents it: less than 1e9 is from now
        ([NOW + 1, 2.5], [1.0, 2.5]),
        ([NOW - 1, 3], [0.0, 3.0]),  # what lies in the past goes at once
    ],
)
async def test_bulk_jobs_have_one_moment_or_one_each(client, broker, at, expected):
    await client.push_bulk({"class": PlainJob, "args": [[1], [2]], "at": at})
    assert expected == [item.delay for batch in broker.batches for item in batch]


async def test_jobs_are_spread_over_an_interval_of_at_least_five_seconds(client, broker):
    for interval, most in ((100, 100), (1, 5)):
        broker.batches.clear()
        await client.push_bulk({"class": PlainJob, "args": [[n] for n in range(50)], "spread_interval": interval})
        delays = [item.delay for batch in broker.batches for item in batch]
        assert 0 <= min(delays) < most / 5
        assert most * 4 / 5 < max(delays) < most
        assert 50 == len(set(delays))


async def test_a_single_job_in_bulk_may_bring_its_id(client):
    assert ["mine"] == await client.push_bulk({"class": PlainJob, "args": [[1]], "jid": "mine"})


async def test_a_batch_that_fails_says_what_became_of_each_job(client, broker):
    broker.fails_at = 1
    items = {"class": PlainJob, "args": [[n] for n in range(5)], "batch_size": 2}
    with pytest.raises(PublishError, match="2 of 4 messages were not published; first error: no more") as caught:
        await client.push_bulk(items)
    sent = [item.message.headers["jid"] for item in broker.batches[0]]
    assert sent == list(caught.value.results[:2])
    broker.batches.clear()
    broker.fails_at = 0
    with pytest.raises(BrokerError, match=r"^no more$"):
        await client.push_bulk(items)


async def test_arguments_that_are_refused_in_a_later_batch_hide_no_job_that_was_sent(client, broker):
    items = {"class": PlainJob, "args": [[0], [1], [(2,)]], "batch_size": 2}
    with pytest.raises(PublishError, match="1 of 3 messages were not published") as caught:
        await client.push_bulk(items)
    assert [item.message.headers["jid"] for item in broker.batches[0]] == list(caught.value.results[:2])
    assert isinstance(caught.value.__cause__, ArgumentError)


async def test_a_middleware_that_fails_in_a_later_batch_hides_no_job_that_was_sent(client, broker):
    class Fussy:
        async def call(self, job_class, payload, queue, broker, call_next):
            if payload["args"] == [2]:
                raise LookupError("not this one")
            return await call_next()

    client.middleware.add(Fussy)
    with pytest.raises(PublishError, match="first error: not this one") as caught:
        await client.push_bulk({"class": PlainJob, "args": [[0], [1], [2]], "batch_size": 2})
    assert 2 == sum(isinstance(fate, str) for fate in caught.value.results)
    with pytest.raises(LookupError):  # nothing was sent before it
        await client.push_bulk({"class": PlainJob, "args": [[2], [1]], "batch_size": 1})


async def test_a_list_of_bulk_arguments_is_looked_at_before_the_first_is_sent(client, broker):
    with pytest.raises(ArgumentError, match="must be a list of lists"):
        await client.push_bulk({"class": PlainJob, "args": [[1], 2], "batch_size": 1})
    assert [] == broker.batches


async def test_a_function_job_is_as_good_as_a_class(client, broker):
    await client.push({"class": shrink, "args": ["a"]})
    await client.push_bulk({"class": shrink, "args": [["b"]]})
    assert ["shrink", "shrink"] == [item.message.type for batch in broker.batches for item in batch]


# --------------------------------------------------------------------------------------------------------- middleware


async def test_middleware_sees_what_the_caller_gave_and_may_stop_a_job(client, broker):
    client.middleware.add(Veto)
    assert await client.push({"class": PlainJob, "args": ["no"]}) is None
    assert await client.push({"class": "PlainJob", "args": ["yes"], "queue": "low"})
    assert [(PlainJob, "PlainJob", "default", "taking://"), ("PlainJob", "PlainJob", "low", "taking://")] == SEEN
    jids = await client.push_bulk({"class": PlainJob, "args": [["yes"], ["no"], ["yes"]]})
    assert [False, True, False] == [jid is None for jid in jids]
    assert [[["yes"]], [["yes"], ["yes"]]] == args_of(broker)
    assert await client.perform_inline({"class": PlainJob, "args": ["no"]}) is None
    assert [None] == await client.push_bulk({"class": PlainJob, "args": [["no"]]})
    assert 2 == len(broker.batches)


async def test_middleware_may_change_the_payload_in_place_or_put_another_in_its_place(client, broker):
    class Elsewhere:
        async def call(self, job_class, payload, queue, broker, call_next):
            return {**await call_next(), "queue": "elsewhere"}

    client.middleware.add(Stamp, value=2)
    client.middleware.prepend(Elsewhere)
    await client.push({"class": PlainJob, "args": [1]})
    await client.push_bulk({"class": PlainJob, "args": [[1], [2]]})
    items = [item for batch in broker.batches for item in batch]
    assert [("elsewhere", [2])] * 2 == [(item.destination, item.message.headers["stamp"]) for item in items[:2]]


async def test_arguments_are_checked_as_middleware_leaves_them(client):
    class Spoil:
        async def call(self, job_class, payload, queue, broker, call_next):
            payload["args"].append(())
            return await call_next()

    client.middleware.add(Spoil)
    with pytest.raises(ArgumentError, match="must be of JSON's own types"):
        await client.push({"class": PlainJob, "args": []})


async def test_a_copy_has_chains_of_its_own(client):
    client.strict_args = "none"
    copy = client.copy()
    assert ("none", client.broker) == (copy.strict_args, copy.broker)
    copy.middleware.add(Veto)
    assert (True, False) == (Veto in copy.middleware, Veto in client.middleware)
    assert await client.push({"class": PlainJob, "args": ["no"]})


async def test_the_middleware_of_an_execution_is_around_inline_jobs(broker):
    class Around:
        async def call(self, job, payload, queue, call_next):
            SEEN.append(("before", type(job), job.jid == payload["jid"], queue))
            result = await call_next()
            SEEN.append("after")
            return result

    SEEN.clear()
    chain = Chain()
    chain.add(Around)
    await Client(broker, server_middleware=chain).perform_inline({"class": PlainJob, "args": [1]})
    assert [("before", PlainJob, True, "default"), (1,), "after"] == SEEN


async def test_shortcuts_push_with_this_client(client, broker):
    await client.enqueue(PlainJob, 1)
    await client.enqueue_to("low", PlainJob, 2)
    await client.enqueue_in(600, PlainJob, 3)
    await client.enqueue_to_in("low", 600, PlainJob, 4)
    assert [("default", 0.0), ("low", 0.0), ("default", 600.0), ("low", 600.0)] == [
        (item.destination, item.delay) for batch in broker.batches for item in batch
    ]


async def test_a_broker_without_iterable_jobs_says_so(client):
    with pytest.raises(UnsupportedFeature, match=r"sidekiq\+redis"):
        await client.cancel("abc")


def test_a_url_is_no_broker():
    with pytest.raises(ConfigurationError, match="open_broker"):
        Client("redis://localhost")


def test_code_without_a_loop_pushes_by_a_connection_of_its_own():
    broker = open_broker("memory://")
    client = Client(broker)
    client.sync.push({"class": "A", "args": [1]})
    client.sync.push_bulk({"class": "A", "args": ([n] for n in range(3))})

    async def look():
        return [message.body for message in await Inspector(broker).peek("default")]

    assert [b"[1]", b"[0]", b"[1]", b"[2]"] == asyncio.run(look())
