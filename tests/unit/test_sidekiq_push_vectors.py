"""What Ruby's clients wrote (``tests/data/sidekiq_*.json``): ours writes the same, but for ids and times."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from penstock.app import open_broker
from penstock.brokers.sidekiq.ruby_json import dumps
from penstock.errors import ArgumentError
from penstock.job import Job
from penstock.job_route import install
from penstock.sidekiq import Client
from penstock.testing import ManualClock

DATA = Path(__file__).parent.parent / "data"
VECTORS = {
    version: {item["scenario"]: item for item in json.loads((DATA / f"sidekiq_{version}.json").read_text("utf-8"))}
    for version in ("8", "6_4")
}
TIMES = {"8": "ms", "6_4": "float"}


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
    await PlainJob.perform_async(*VECTORS["8"]["push_unicode_args"]["args_given"])


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
    if client.broker.options.timestamps == "ms":  # 6.4 had no such thing
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
@pytest.mark.parametrize("version", VECTORS)
async def test_a_push_leaves_in_redis_what_rubys_push_left(redis_url, push, version):
    broker = open_broker(f"sidekiq+{redis_url}", timestamps=TIMES[version])
    client = Client(broker).install()
    try:
        await push(client)
        expected = VECTORS[version][f"push_{push.__name__}"]["keys"]
        assert sorted(expected) == sorted(key.decode() for key in await broker.client.call("KEYS", "*"))
        for key, value in expected.items():
            assert recorded(value, version) == await stored(broker.client, key, version), key
    finally:
        install(None)
        await broker.close()


def recorded(value, version):
    """A recorded key without what differs from run to run."""
    match value["type"]:
        case "list":
            return [comparable(item, version) for item in value["items"]]
        case "set":
            return sorted(value["members"])
        case "zset":
            (members,) = [items for items in value.values() if isinstance(items, list)]
            return by_args((comparable(member, version), rounded(score)) for member, score in members)


async def stored(redis, key, version):
    match (await redis.call("TYPE", key)).decode():
        case "list":
            return [comparable(item.decode(), version) for item in await redis.call("LRANGE", key, 0, -1)]
        case "set":
            return sorted(member.decode() for member in await redis.call("SMEMBERS", key))
        case "zset":
            flat = [item.decode() for item in await redis.call("ZRANGE", key, 0, -1, "WITHSCORES")]
            pairs = zip(flat[::2], flat[1::2], strict=True)
            return by_args((comparable(member, version), rounded(float(score))) for member, score in pairs)


def by_args(members):
    return sorted(members, key=lambda member: str(member[0]["args"]))


def rounded(score):
    """Moments of the future are exact; what was said from now on differs."""
    return score if score >= 2e9 else "from now"


def comparable(text, version):
    """A payload without jid and times, and the text of its arguments as it stands there."""
    job = json.loads(text)
    job["jid"] = job["jid"] if len(job["jid"]) != 24 or job["jid"].startswith("0123") else "24 hex digits"
    for name in {"created_at", "enqueued_at"} & job.keys():
        if job[name] != 1700000000.5:  # given by the caller
            job[name] = type(job[name])
    if version == "6_4":  # its json wrote floats as Ruby does; it kept fractions of a second here
        return {**job, "retry_for": int(job.get("retry_for", 0))}
    text = text.replace(f'"jid":"{json.loads(text)["jid"]}"', f'"jid":"{job["jid"]}"')
    return {"args": str(job["args"]), "text": re.sub(r'("(?:created|enqueued)_at":)\d{13}(?=[,}])', r"\1now", text)}


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
        await broker.client.call("EXPIRE", "it-abc", 100)
        await client.cancel("abc")
        assert await broker.client.call("TTL", "it-abc") <= 100  # it runs from the first time on
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


async def test_middleware_is_asked_again_when_a_job_is_due(redis_url):
    broker = open_broker(f"sidekiq+{redis_url}")
    client = Client(broker).install()

    class Mark:
        async def call(self, job_class, payload, queue, broker, call_next):
            payload["seen"] = [*payload.get("seen", []), (job_class, queue)]
            return None if payload["args"] == ["no"] else await call_next()

    try:
        await PlainJob.set(queue="low").perform_in(0.01, "yes")
        await PlainJob.perform_in(0.01, "no")
        client.middleware.add(Mark)
        broker.repush = client.repush
        while (await broker.promote_due("low", 10)).next_due is not None or not await broker.client.call(
            "LLEN", "queue:low"
        ):
            await asyncio.sleep(0.01)
        (job,) = await broker.client.call("LRANGE", "queue:low", 0, -1)
        assert [["PlainJob", "low"]] == json.loads(job)["seen"]
        assert 0 == await broker.client.call("EXISTS", "queue:default", "schedule", "dead")
    finally:
        install(None)
        await broker.close()


@pytest.mark.parametrize("version", ["8", "6_4"])
async def test_a_job_that_is_due_has_the_text_that_rubys_poller_gives_it(redis_url, version):
    (after,) = VECTORS[version]["scheduled_promotion"]["keys"]["queue:elsewhere"]["items"]
    fields = json.loads(after)
    now = fields.pop("enqueued_at")
    broker = open_broker(f"sidekiq+{redis_url}", timestamps=TIMES[version])
    broker._clock = ManualClock(now / 1000 + 0.0001 if version == "8" else now)
    try:
        await broker.client.call("ZADD", "schedule", 1, dumps(fields))
        await broker.promote_due("elsewhere", 10)
        assert [after.encode()] == await broker.client.call("LRANGE", "queue:elsewhere", 0, -1)
        assert [b"elsewhere"] == await broker.client.call("SMEMBERS", "queues")
        assert 0 == await broker.client.call("EXISTS", "schedule")
    finally:
        await broker.close()


@pytest.mark.parametrize("scenario", ["push_active_job", "push_current_attributes"])
async def test_what_adapters_of_ruby_wrote_is_pushed_again_byte_for_byte(redis_url, scenario):
    for name, key in VECTORS["8"][scenario]["keys"].items():
        for text in key.get("items", []) if name.startswith("queue:") else []:
            item = json.loads(text)
            now = item.pop("enqueued_at")
            broker = open_broker(f"sidekiq+{redis_url}")
            try:
                await Client(broker, clock=ManualClock(now / 1000 + 0.0001)).push(item)
                assert text.encode() == await broker.client.call("LINDEX", name, 0)
            finally:
                await broker.close()


async def test_a_field_that_is_no_json_is_refused_before_anything_is_sent(redis_url):
    broker = open_broker(f"sidekiq+{redis_url}")
    try:
        for wrong in (float("nan"), object(), "\ud800"):
            with pytest.raises(ArgumentError, match="a field of the job A cannot be written"):
                await Client(broker).push({"class": "A", "args": [], "extra": wrong})
        assert 0 == await broker.client.call("DBSIZE")
    finally:
        await broker.close()
