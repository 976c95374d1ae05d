"""What Ruby's client wrote (``tests/data/sidekiq_8.json``): ours writes the same, but for ids and times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.app import open_broker
from penstock.job import Job
from penstock.job_route import install
from penstock.sidekiq import Client
from penstock.testing import ManualClock

VECTORS = {
    item["scenario"]: item
    for item in json.loads((Path(__file__).parent.parent / "data" / "sidekiq_8.json").read_text("utf-8"))
    if item["scenario"].startswith("push_")
}


class PlainJob(Job, abstract=True):  # not registered: others have jobs of this name
    def perform(self, *args): ...


class Invoice(Job, abstract=True, wire_name="Billing::InvoiceJob", queue="critical", retry=7):
    def perform(self, number): ...


async def no_args(client):
    await PlainJob.perform_async()


async def nested_args(client):
    empty = {"a": {"b": [None, {"c": {}}]}, "empty": ""}
    await PlainJob.perform_async(1, None, True, False, "text", [1, [2, [3, []]]], empty)


async def unicode_args(client):
    await PlainJob.perform_async(*VECTORS["push_unicode_args"]["args_given"])


async def big_ints(client):
    await PlainJob.perform_async(0, -1, 2**31, 2**53, 2**53 + 1, -(2**63), 2**64, 10**40)


async def floats(client):
    values = [0.0, -0.0, 1.0, 2.5, 0.1, 1.0 / 3, 1e-5, 1e-7, 123456789.125]
    await PlainJob.perform_async(*values, 1e15, 1e16, 1e20, 1.5e300, 5e-324, 1.7976931348623157e308)


async def options(client):
    await Invoice.perform_async(42)
    said = [{"queue": "low"}, {"retry": 3}, {"retry": False}, {"queue": "low", "tags": ["alpha", "beta"]}]
    said += [{"backtrace": True}, {"backtrace": 10}, {"retry_for": 3600.9}, {"my_extra": {"k": 1}}]
    for number, each in enumerate(said, 1):
        await PlainJob.set(**each).perform_async(number)


async def perform_in(client):
    await PlainJob.perform_in(600, "later")
    await PlainJob.perform_in(0.5, "soon")


async def perform_at(client):
    await PlainJob.perform_at(2000000000.25, "future")
    await PlainJob.perform_at(1500000000, "past")


async def bulk_immediate(client):
    await client.push_bulk({"class": PlainJob, "args": [[1], [2], [3]]})
    await PlainJob.perform_bulk([["a"], ["b"]])


async def bulk_at(client):
    await client.push_bulk({"class": PlainJob, "args": [[1], [2], [3]], "at": [2000000001, 2000000002.5, 2000000003]})
    await PlainJob.perform_bulk([["p"], ["q"]], at=[2000000005, 2000000006])
    await client.push_bulk({"class": PlainJob, "args": [["x"], ["y"]], "at": 2000000009})


async def raw_item(client):
    await client.push({"class": "Other::Lang", "args": [1], "jid": "0123456789abcdef01234567"})
    given = {"queue": "q.with:odd-chars_1", "retry": 2, "tags": ["t"], "jid": "ABC", "created_at": 1700000000.5}
    await client.push({"class": "Other::Lang", "args": [2], **given})
    await client.push({"class": "Other::Lang", "args": [3], "at": 2000000000.5})


async def enqueue_shortcuts(client):
    await client.enqueue(PlainJob, 1)
    await client.enqueue_to("low", PlainJob, 2)
    await client.enqueue_in(600, PlainJob, 3)
    await client.enqueue_to_in("low", 600, PlainJob, 4)


PUSHES = [no_args, nested_args, unicode_args, big_ints, floats, options, perform_in, perform_at]
PUSHES += [bulk_immediate, bulk_at, raw_item, enqueue_shortcuts]


@pytest.mark.parametrize("push", PUSHES, ids=lambda push: push.__name__)
async def test_a_push_leaves_in_redis_what_rubys_push_left(redis_url, push):
    broker = open_broker(f"sidekiq+{redis_url}")
    client = Client(broker).install()
    try:
        await push(client)
        expected = VECTORS[f"push_{push.__name__}"]["keys"]
        assert sorted(expected) == sorted(key.decode() for key in await broker.client.call("KEYS", "*"))
        for key, value in expected.items():
            assert seen_by_anybody(value) == await stored(broker.client, key), key
    finally:
        install(None)
        await broker.close()


def seen_by_anybody(value):
    """A recorded key without what differs from run to run."""
    match value["type"]:
        case "list":
            return [comparable(item) for item in value["items"]]
        case "set":
            return sorted(value["members"])
        case "zset":
            (members,) = [items for items in value.values() if isinstance(items, list)]
            return by_args((comparable(member), rounded(score)) for member, score in members)


async def stored(redis, key):
    match (await redis.call("TYPE", key)).decode():
        case "list":
            return [comparable(item.decode()) for item in await redis.call("LRANGE", key, 0, -1)]
        case "set":
            return sorted(member.decode() for member in await redis.call("SMEMBERS", key))
        case "zset":
            flat = [item.decode() for item in await redis.call("ZRANGE", key, 0, -1, "WITHSCORES")]
            return by_args((comparable(m), rounded(float(s))) for m, s in zip(flat[::2], flat[1::2], strict=True))


def by_args(members):
    return sorted(members, key=lambda member: str(member[0]["args"]))


def rounded(score):
    """Moments of the future are exact; what was said from now on differs."""
    return score if score >= 2e9 else "from now"


def comparable(text):
    """A payload without jid and times, and the text of its arguments as it stands there."""
    job = json.loads(text)
    job["jid"] = job["jid"] if len(job["jid"]) != 24 or job["jid"].startswith("0123") else "24 hex digits"
    for name in ("created_at", "enqueued_at"):
        if isinstance(job.get(name), int):
            job[name] = "milliseconds"
    _, _, behind = text.partition('"args":')
    end = json.JSONDecoder().raw_decode(behind)[1]
    return {**job, "args": behind[:end]}


async def test_cancelling_an_iterable_job_says_when_it_was_first_cancelled(redis_url):
    broker = open_broker(f"sidekiq+{redis_url}")
    clock = ManualClock(1_800_000_000.5)
    client = Client(broker, clock=clock)
    try:
        assert 1_800_000_000 == await client.cancel("abc")
        await clock.advance(10)
        assert 1_800_000_000 == await client.cancel("abc")
        assert [b"cancelled", b"1800000000"] == await broker.client.call("HGETALL", "it-abc")
        assert 30 * 86_400 - 60 < await broker.client.call("TTL", "it-abc") <= 30 * 86_400
    finally:
        await broker.close()


async def test_old_readers_get_times_as_seconds(redis_url):
    broker = open_broker(f"sidekiq+{redis_url}", timestamps="float")
    client = Client(broker, clock=ManualClock(1_700_000_000.25))
    try:
        await client.push({"class": "A", "args": []})
        (job,) = await broker.client.call("LRANGE", "queue:default", 0, -1)
        assert b'"created_at":1700000000.25,"enqueued_at":1700000000.25}' in job
    finally:
        await broker.close()
