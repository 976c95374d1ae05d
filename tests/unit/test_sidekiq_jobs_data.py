"""The Data API on jobs: queues, sets and what is done to their jobs, on data as Ruby's Sidekiq has written it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.brokers.sidekiq import SidekiqBroker, SidekiqOptions
from penstock.errors import BrokerError, DecodeError
from penstock.sidekiq import BlockingData, Data, DeadSet, JobRecord, JobSet, Queue, RetrySet, ScheduledSet

FOLDER = Path(__file__).parents[1] / "data"
VECTORS = {
    f"{name}-{each['scenario']}": each
    for name in ("sidekiq_8", "sidekiq_6_4")
    for each in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
}
NOW = 1795300000.25


class StoppedClock:
    def time(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return NOW

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@pytest.fixture
async def data(redis_url: str) -> AsyncIterator[Data]:
    async with Data.from_url(f"sidekiq+{redis_url}", clock=StoppedClock()) as data:
        yield data


def job(number: int = 1, **fields: Any) -> bytes:
    payload = {"class": "HardJob", "args": [number], "queue": "low", "jid": f"{number:024x}", "retry": True, **fields}
    return json.dumps(payload, separators=(",", ":")).encode()


async def put(data: Data, keys: dict[str, Any]) -> None:
    """Write keys as a vector records them."""
    for key, value in keys.items():
        if value["type"] == "list":
            await data.client.call("RPUSH", key, *value["items"])
        elif value["type"] == "zset":
            for member, score in value["members"]:
                await data.client.call("ZADD", key, repr(score), member)
        elif value["type"] == "set":
            await data.client.call("SADD", key, *value["members"])
        elif value["type"] == "hash":
            for name, field in value["fields"]:
                await data.client.call("HSET", key, name, _bytes(field))
        else:
            await data.client.call(
                "SET", key, bytes.fromhex(value["value_hex"]) if "value_hex" in value else value["value"]
            )


def _bytes(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


async def listed(data: Data, key: str) -> list[bytes]:
    return await data.client.call("LRANGE", key, 0, -1)


async def members(data: Data, key: str) -> list[tuple[bytes, float]]:
    found = await data.client.call("ZRANGE", key, 0, -1, "WITHSCORES")
    return [(raw, float(score)) for raw, score in zip(found[::2], found[1::2], strict=True)]


async def exists(data: Data, key: str) -> bool:
    return bool(await data.client.call("EXISTS", key))


def same_but_enqueued(expected: str, actual: bytes) -> None:
    """Byte for byte but for the time of the push, which is where Ruby has it."""
    stamp = json.dumps(json.loads(expected)["enqueued_at"])
    ours = json.dumps(json.loads(actual)["enqueued_at"])
    assert expected.replace(f'"enqueued_at":{stamp}', '"enqueued_at":?') == actual.decode().replace(
        f'"enqueued_at":{ours}', '"enqueued_at":?'
    )


# ------------------------------------------------------------------------------------------------------------ recorded


@pytest.mark.parametrize("scenario", VECTORS)
async def test_every_job_that_ruby_wrote_can_be_read(data: Data, scenario: str):
    vector = VECTORS[scenario]
    await put(data, vector["keys"])

    for key, value in vector["keys"].items():
        if key.startswith("queue:"):
            found = [record async for record in Queue(data, key.removeprefix("queue:"))]
            assert [each.encode() for each in value["items"]] == [record.value for record in found]
        elif key in {"retry", "schedule", "dead"}:
            found = [entry async for entry in JobSet(data, key)]
            expected = sorted(value["members"], key=lambda each: (each[1], each[0].encode()), reverse=True)
            assert [(raw.encode(), at) for raw, at in expected] == [(entry.value, entry.score) for entry in found]
        else:
            continue
        for record in found:
            if not record.valid:
                assert "invalid_json_to_dead" in scenario
                assert [record.value.decode()] == record.args
                continue
            item = json.loads(record.value)
            assert (item["class"], item["args"], item["jid"]) == (record.klass, record.args, record.jid)
            assert bool(item.get("created_at")) == (record.created_at is not None)
            assert record.created_at is None or 2023 <= record.created_at.year <= 2026
            assert bool(item.get("failed_at")) == (record.failed_at is not None)
            if record["error_backtrace"]:
                assert vector["decoded_backtraces"][record.klass] == record.error_backtrace


@pytest.mark.parametrize("version", ["sidekiq_8", "sidekiq_6_4"])
async def test_retry_add_to_queue_and_delete_leave_what_ruby_leaves(data: Data, version: str):
    vector = VECTORS[f"{version}-api_retry_entry_actions"]
    await put(data, vector["before"])
    retries = RetrySet(data)
    entries = {entry.args[0]: entry async for entry in retries}

    assert [True, True, True] == [
        await entries[2].retry(),
        await entries[1].add_to_queue(),
        await entries[3].delete(),
    ]
    for expected, actual in zip(vector["keys"]["queue:low"]["items"], await listed(data, "queue:low"), strict=True):
        same_but_enqueued(expected, actual)
    assert ["low"] == await data.members("queues")
    assert 0 == await retries.size()


@pytest.mark.parametrize("version", ["sidekiq_8", "sidekiq_6_4"])
async def test_kill_leaves_what_ruby_leaves(data: Data, version: str):
    vector = VECTORS[f"{version}-api_retry_entry_kill"]
    await put(data, vector["before"])
    entries = {entry.args[0]: entry async for entry in RetrySet(data)}

    assert await entries[2].kill()

    ((raw, _),) = vector["keys"]["dead"]["members"]
    assert [raw.encode()] == [member for member, _ in await members(data, "dead")]
    assert [(raw.encode(), at) for raw, at in vector["keys"]["retry"]["members"]] == await members(data, "retry")


@pytest.mark.parametrize("version", ["sidekiq_8", "sidekiq_6_4"])
async def test_reschedule_moves_the_very_member_to_the_very_time(data: Data, version: str):
    vector = VECTORS[f"{version}-api_retry_entry_reschedule"]
    await put(data, vector["before"])
    entries = {entry.args[0]: entry async for entry in RetrySet(data)}

    assert await entries[2].reschedule(2000009999.25)

    expected = [(raw.encode(), pytest.approx(at, abs=1e-6)) for raw, at in vector["keys"]["retry"]["members"]]
    assert expected == await members(data, "retry")
    assert 2000009999.25 == entries[2].score
    assert await entries[2].reschedule(datetime(2040, 1, 1, tzinfo=UTC))
    assert datetime(2040, 1, 1, tzinfo=UTC) == entries[2].at


@pytest.mark.parametrize("version", ["sidekiq_8", "sidekiq_6_4"])
async def test_the_acts_on_whole_sets_leave_what_ruby_leaves(data: Data, version: str):
    vector = VECTORS[f"{version}-api_set_actions"]
    await put(data, vector["before"])
    (dead,) = [entry async for entry in DeadSet(data)]
    (scheduled,) = [entry async for entry in ScheduledSet(data)]

    assert await dead.retry()
    assert await scheduled.add_to_queue()
    assert 3 == await RetrySet(data).kill_all()

    for queue in ("queue:low", "queue:other"):
        (expected,), (actual,) = vector["keys"][queue]["items"], await listed(data, queue)
        same_but_enqueued(expected, actual)
    assert sorted(raw.encode() for raw, _ in vector["keys"]["dead"]["members"]) == sorted(
        raw for raw, _ in await members(data, "dead")
    )
    assert ["low", "other"] == await data.members("queues")
    assert [False, False] == [await exists(data, name) for name in ("retry", "schedule")]


@pytest.mark.parametrize("version", ["sidekiq_8", "sidekiq_6_4"])
async def test_delete_and_clear_of_queues_leave_what_ruby_leaves(data: Data, version: str):
    vector = VECTORS[f"{version}-api_queue_delete_and_clear"]
    await put(data, vector["before"])

    (wanted,) = [record async for record in Queue(data, "low") if record.args == [2]]
    assert await wanted.delete()
    assert not await wanted.delete()
    assert 1 == await Queue(data).clear()

    assert [each.encode() for each in vector["keys"]["queue:low"]["items"]] == await listed(data, "queue:low")
    assert vector["keys"]["queues"]["members"] == await data.members("queues")
    assert not await exists(data, "queue:default")


# --------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("text", [b"{not json", b"2", b"[1]", b'"x"', b"null", b"\xff\xfe", b"", b"[" * 5000])
async def test_what_is_no_job_is_shown_as_its_own_argument(data: Data, text: bytes):
    await data.client.call("LPUSH", "queue:default", text)

    (record,) = [record async for record in Queue(data)]

    assert not record.valid
    assert {} == record.item
    assert [text.decode("utf-8", "replace")] == record.args == record.display_args
    assert (None, None, [], None, 0.0) == (record.jid, record.klass, record.tags, record.created_at, record.latency)
    assert await record.delete()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.0),
        ({"enqueued_at": int(NOW * 1000) - 2500}, 2.5),
        ({"enqueued_at": NOW - 2.5}, 2.5),
        ({"enqueued_at": int(NOW) - 2}, 2.25),
        ({"enqueued_at": str(NOW - 4)}, 4.0),
        ({"enqueued_at": datetime.fromtimestamp(NOW - 8, UTC).isoformat()}, 8.0),
        ({"enqueued_at": NOW - 2.5, "created_at": NOW - 9}, 2.5),
        ({"created_at": int(NOW * 1000) - 1500}, 1.5),
        ({"enqueued_at": "soon"}, 0.0),
        ({"enqueued_at": True}, 0.0),
    ],
)
def test_latency_is_told_from_every_way_to_write_a_time(fields: dict[str, Any], expected: float):
    record = JobRecord(Data.from_url("redis://localhost", clock=StoppedClock()), job(**fields))

    assert pytest.approx(expected, abs=1e-3) == record.latency


def _record(item: dict[str, Any]) -> JobRecord:
    return JobRecord(Data.from_url("redis://localhost"), item)


WRAPPER = "Sidekiq::ActiveJob::Wrapper"
OLD_WRAPPER = "ActiveJob::QueueAdapters::SidekiqAdapter::JobWrapper"


@pytest.mark.parametrize(
    ("item", "name", "args"),
    [
        ({"class": "A::B", "args": [1, "x"]}, "A::B", [1, "x"]),
        ({"class": "X", "display_class": "Y", "args": []}, "Y", []),
        ({"class": "X", "encrypt": True, "args": [1, "BAhJ"]}, "X", [1, "[encrypted data]"]),
        (
            {"class": WRAPPER, "wrapped": "MailJob", "args": [{"arguments": [1, {"k": 2, "_aj_symbol_keys": ["k"]}]}]},
            "MailJob",
            [1, {"k": 2}],
        ),
        (
            {"class": OLD_WRAPPER, "wrapped": "J", "args": [{"arguments": [{"_aj_globalid": "gid://app/User/1"}]}]},
            "J",
            ["gid://app/User/1"],
        ),
        (
            {
                "class": OLD_WRAPPER,
                "wrapped": "ActionMailer::DeliveryJob",
                "args": [{"arguments": ["UserMailer", "welcome", "deliver_now", 1, 2]}],
            },
            "UserMailer#welcome",
            [1, 2],
        ),
        (
            {
                "class": WRAPPER,
                "wrapped": "ActionMailer::MailDeliveryJob",
                "args": [
                    {
                        "arguments": [
                            "UserMailer",
                            "welcome",
                            "deliver_now",
                            {"params": {"user": 1}, "args": [2], "_aj_ruby2_keywords": ["params", "args"]},
                        ]
                    }
                ],
            },
            "UserMailer#welcome",
            [{"user": 1}, [2]],
        ),
        ({"class": OLD_WRAPPER, "args": ["Old"]}, "Old", []),
        ({"class": WRAPPER, "wrapped": "ActionMailer::MailDeliveryJob", "args": []}, "", [None, None]),
    ],
)
def test_wrapped_jobs_are_shown_as_what_they_wrap(item: dict[str, Any], name: str, args: list[Any]):
    record = _record(item)

    assert name == record.display_class
    assert args == record.display_args
    assert item["args"] == record.args


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (base64.b64encode(zlib.compress(b'["a:1","b:2"]')).decode(), ["a:1", "b:2"]),
        (base64.encodebytes(zlib.compress(json.dumps(["x" * 99] * 9).encode())).decode(), ["x" * 99] * 9),
        (["plain", "lines"], ["plain", "lines"]),
        ("not base64!", None),
        (base64.b64encode(b"not zlib").decode(), None),
        (None, None),
        (7, None),
    ],
)
def test_backtraces_of_every_release_are_read(kept: Any, expected: list[str] | None):
    assert expected == _record({"class": "X", "args": [], "error_backtrace": kept}).error_backtrace


def test_any_field_can_be_asked_for():
    record = _record({"class": "X", "args": [], "tags": ["a"], "bid": "b1", "mine": {"k": 1}})

    assert (["a"], "b1", {"k": 1}, None) == (record.tags, record.bid, record["mine"], record["absent"])


# --------------------------------------------------------------------------------------------------------------- queues


async def test_queues_are_listed_by_name_with_size_and_latency(data: Data):
    for queue in ("zebra", "alpha"):
        await data.client.call("SADD", "queues", queue)
        await data.client.call("LPUSH", f"queue:{queue}", job(1, enqueued_at=NOW - 5), job(2, enqueued_at=NOW - 1))

    assert ["alpha", "zebra"] == [queue.name for queue in await Queue.all(data)]
    assert 2 == await Queue(data, "zebra").size()
    assert pytest.approx(5.0) == await Queue(data, "zebra").latency()
    assert (0, 0.0) == (await Queue(data).size(), await Queue(data).latency())


async def test_a_queue_is_walked_once_while_jobs_come_and_go(data: Data):
    queue, count = Queue(data, "low"), 230
    await data.client.call("LPUSH", "queue:low", *(job(number) for number in range(count)))

    seen: list[int] = []
    async for record in queue:
        number = record.args[0]
        seen.append(number)
        if number % 3 == 0:
            assert await record.delete()
        if number % 7 == 0:
            await data.client.call("LPUSH", "queue:low", job(1000 + number))

    assert list(reversed(range(count))) == seen


async def test_a_queue_can_be_emptied_while_it_is_walked(data: Data):
    await data.client.call("LPUSH", "queue:low", *(job(number) for number in range(230)))

    assert all([await record.delete() async for record in Queue(data, "low")])
    assert 0 == await Queue(data, "low").size()


async def test_a_job_is_found_in_its_queue_by_its_id(data: Data):
    await data.client.call("LPUSH", "queue:low", *(job(number) for number in range(60)), "{not json")

    found = await Queue(data, "low").find_job(f"{7:024x}")

    assert found is not None
    assert [7] == found.args
    assert None is await Queue(data, "low").find_job("nobody")


async def test_a_queue_is_paused_in_the_set_that_ruby_shows(data: Data):
    queue = Queue(data, "low")

    assert [True, False] == [await queue.pause(), await queue.pause()]
    assert await queue.paused()
    assert ["low"] == await data.members("paused")
    assert [True, False] == [await queue.unpause(), await queue.unpause()]
    assert not await queue.paused()


# ----------------------------------------------------------------------------------------------------------------- sets


async def test_a_set_is_walked_from_the_highest_score_and_once_while_it_changes(data: Data):
    for number in range(230):
        await data.client.call("ZADD", "retry", number // 60, job(number))
    expected = [raw for raw, _ in reversed(await members(data, "retry"))]

    seen: list[bytes] = []
    async for entry in RetrySet(data):
        seen.append(entry.value)
        if len(seen) % 2:
            assert await entry.delete()
        await data.client.call("ZADD", "retry", 1000 + len(seen), job(1000 + len(seen)))

    assert expected == seen


async def test_a_set_of_neighbours_with_one_score_can_be_emptied_while_it_is_walked(data: Data):
    for number in range(130):
        await data.client.call("ZADD", "schedule", 5, job(number, é="ü"))

    assert all([await entry.delete() async for entry in ScheduledSet(data)])
    assert 0 == await ScheduledSet(data).size()


async def test_only_the_job_itself_is_moved_and_not_its_neighbours_with_the_same_score(data: Data):
    for number in (1, 2, 3):
        await data.client.call("ZADD", "schedule", 5, job(number))
    (entry,) = await ScheduledSet(data).fetch(5, f"{2:024x}")

    assert await entry.add_to_queue()

    assert [job(1), job(3)] == [raw for raw, _ in await members(data, "schedule")]
    assert [[2]] == [json.loads(raw)["args"] for raw in await listed(data, "queue:low")]


@pytest.mark.parametrize("act", ["delete", "retry", "add_to_queue", "kill"])
async def test_a_second_click_does_nothing(data: Data, act: str):
    await data.client.call("ZADD", "retry", 5, job(1, retry_count=2))
    (entry,) = [entry async for entry in RetrySet(data)]

    done = await asyncio.gather(*(getattr(entry, act)() for _ in range(5)))

    assert [False] * 4 + [True] == sorted(done)
    assert 1 - (act == "delete") == len(await listed(data, "queue:low")) + await DeadSet(data).size()


@pytest.mark.parametrize("act", ["retry", "add_to_queue", "kill"])
async def test_what_its_place_does_not_take_stays_where_it_was(data: Data, act: str):
    await data.client.call("ZADD", "schedule", "123.5", job())
    await data.client.call("MSET", "queue:low", "no list", "dead", "no set")
    entry = await ScheduledSet(data).find_job(f"{1:024x}")
    assert entry is not None
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await getattr(entry, act)()
    assert [job(), b"123.5"] == await data.client.call("ZRANGE", "schedule", 0, -1, "WITHSCORES")


async def test_a_job_that_is_gone_is_not_brought_back_by_rescheduling(data: Data):
    await data.client.call("ZADD", "retry", 5, job())
    (entry,) = [entry async for entry in RetrySet(data)]
    await data.client.call("ZREM", "retry", job())

    assert not await entry.reschedule(99)
    assert 5 == entry.score
    assert not await exists(data, "retry")


async def test_rescheduling_to_the_same_time_is_no_failure(data: Data):
    await data.client.call("ZADD", "retry", "5.25", job())
    (entry,) = [entry async for entry in RetrySet(data)]

    assert await entry.reschedule(5.25)


async def test_arguments_come_back_as_they_were_written(data: Data):
    args = '[1e-05,1.0E+2,12345678901234567890123, {}, [], "\\u00e9/"]'
    raw = f'{{"class":"X", "args":{args},"queue":"low","jid":"a","retry_count":3,"at":5}}'
    await data.client.call("ZADD", "dead", 5, raw)
    (entry,) = [entry async for entry in DeadSet(data)]

    assert await entry.retry()

    (text,) = await listed(data, "queue:low")
    assert f'"args":{args},' in text.decode()
    fields = json.loads(text)
    assert (2, int(NOW * 1000), False) == (fields["retry_count"], fields["enqueued_at"], "at" in fields)


async def test_times_are_written_as_the_options_say(data: Data):
    data.options = SidekiqOptions(timestamps="float")
    await data.client.call("ZADD", "schedule", 5, job())

    assert 1 == await ScheduledSet(data).add_all_to_queue()

    assert NOW == json.loads((await listed(data, "queue:low"))[0])["enqueued_at"]


@pytest.mark.parametrize(
    "raw", [b"{not json", b"2", b'{"class":"X"}', b'{"class":"X","args":[]}', b'{"class":"X","args":[],"queue":""}']
)
async def test_what_cannot_be_run_stays_where_it_is(data: Data, raw: bytes):
    await data.client.call("ZADD", "dead", 5, raw)
    (entry,) = [entry async for entry in DeadSet(data)]

    for act in (entry.retry, entry.add_to_queue):
        with pytest.raises(DecodeError, match="cannot be put into a queue"):
            await act()
    assert 0 == await DeadSet(data).retry_all()
    assert [(raw, 5.0)] == await members(data, "dead")
    assert await entry.delete()


async def test_all_are_retried_slice_by_slice_but_those_that_cannot_be(data: Data):
    for number in range(250):
        await data.client.call("ZADD", "retry", number, job(number, retry_count=1))
    await data.client.call("ZADD", "retry", 7, "{not json", 120, "2")

    assert 250 == await RetrySet(data).retry_all()

    jobs = [json.loads(raw) for raw in await listed(data, "queue:low")]
    assert list(reversed(range(250))) == [each["args"][0] for each in jobs]
    assert {0} == {each["retry_count"] for each in jobs}
    assert [b"{not json", b"2"] == [raw for raw, _ in await members(data, "retry")]


async def test_two_who_retry_all_at_once_push_each_job_once(data: Data, redis_url: str):
    for number in range(400):
        await data.client.call("ZADD", "dead", number, job(number))

    async with Data.from_url(redis_url) as other:
        moved = await asyncio.gather(DeadSet(data).retry_all(), DeadSet(other).retry_all())

    assert sorted(range(400)) == sorted(json.loads(raw)["args"][0] for raw in await listed(data, "queue:low"))
    assert 400 == sum(moved)


async def test_all_are_killed_and_the_dead_are_trimmed_once(data: Data):
    data.options = SidekiqOptions(dead_max_jobs=100)
    for number in range(250):
        await data.client.call("ZADD", "retry", number, job(number))

    assert 250 == await RetrySet(data).kill_all()

    kept = {json.loads(raw)["args"][0] for raw, _ in await members(data, "dead")}
    assert 99 == len(kept)  # one less than the limit, as Ruby
    assert not await exists(data, "retry")


async def test_the_dead_are_trimmed_by_age(data: Data):
    await data.client.call("ZADD", "dead", 1000, job(1))
    await DeadSet(data).kill(job(2))

    assert [job(2)] == [raw for raw, _ in await members(data, "dead")]


async def test_the_dead_are_trimmed_to_what_ruby_leaves(data: Data):
    vector = VECTORS["sidekiq_8-dead_set_trim"]
    await put(data, vector["before"])
    data.options = SidekiqOptions(dead_max_jobs=4, dead_timeout=time.time() - 1.6e9)  # recorded times stay young

    await DeadSet(data).kill(vector["keys"]["dead"]["members"][-1][0])

    assert [raw.encode() for raw, _ in vector["keys"]["dead"]["members"]] == [
        raw for raw, _ in await members(data, "dead")
    ]


async def test_killing_without_trimming_keeps_all(data: Data):
    await data.client.call("ZADD", "dead", 1000, job(1))
    await DeadSet(data).kill(job(2), trim=False)
    assert 2 == await DeadSet(data).size()

    await DeadSet(data).trim()
    assert 1 == await DeadSet(data).size()


async def test_death_handlers_hear_of_what_is_killed_and_cannot_spoil_it(data: Data, caplog: pytest.LogCaptureFixture):
    heard: list[tuple[Any, str]] = []

    def broken(payload: dict[str, Any], error: BaseException) -> None:
        raise RuntimeError("handler")

    async def hears(payload: dict[str, Any], error: BaseException) -> None:
        heard.append((payload.get("jid"), str(error)))

    data.death_handlers += [broken, hears]
    await DeadSet(data).kill(job(1))
    await DeadSet(data).kill(job(2), error=ValueError("mine"))
    await DeadSet(data).kill(job(3), notify_failure=False)
    await data.client.call("ZADD", "retry", 1, job(4), 2, job(5))
    (last, first) = [entry async for entry in RetrySet(data)]
    await first.kill()
    await last.kill(notify_failure=False)
    await data.client.call("ZADD", "retry", 1, job(6))
    await RetrySet(data).kill_all()
    await data.client.call("ZADD", "retry", 1, job(7))
    await RetrySet(data).kill_all(notify_failure=True)

    said = "Job killed by API"
    assert [(f"{n:024x}", text) for n, text in ((1, said), (2, "mine"), (4, said), (7, said))] == heard
    assert "death handler failed" in caplog.text


async def test_the_client_middleware_sees_what_is_pushed_again_and_may_drop_it(data: Data):
    async def repush(payload: dict[str, Any]) -> dict[str, Any] | None:
        return None if payload["args"] == [1] else {**payload, "seen": [1.5]}

    data.repush = repush
    await data.client.call("ZADD", "retry", 1, job(1), 2, job(2, retry_count=4))

    assert 2 == await RetrySet(data).retry_all()

    (text,) = await listed(data, "queue:low")
    fields = json.loads(text)
    assert ([2], [1.5], 3, int(NOW * 1000)) == tuple(fields[n] for n in ("args", "seen", "retry_count", "enqueued_at"))
    assert not await exists(data, "retry")


async def test_a_middleware_that_fails_loses_no_job(data: Data):
    async def repush(payload: dict[str, Any]) -> dict[str, Any] | None:
        if payload["args"][0] % 2:
            raise LookupError(payload["args"][0])
        return payload

    data.repush = repush
    for number in range(210):
        await data.client.call("ZADD", "retry", number, job(number))
    with pytest.raises(LookupError, match="1"):
        await RetrySet(data).retry_all()

    assert (105, 105) == (len(await listed(data, "queue:low")), await RetrySet(data).size())


async def test_a_set_is_searched_by_text_by_score_and_by_id(data: Data):
    for number in range(300):
        await data.client.call("ZADD", "dead", number, job(number, error_message=f"nr {number} of all"))
    dead = DeadSet(data)

    assert {[7][0], *range(70, 80)} == {e.args[0] async for e in dead.scan("nr 7") if e.args[0] < 100}
    assert [13] == [entry.args[0] async for entry in dead.scan('*"nr 13 of all"*')]
    assert [5] == [entry.args[0] for entry in await dead.fetch(5)]
    assert [] == await dead.fetch(5, "somebody")
    assert [5, 6, 7] == [entry.args[0] for entry in await dead.fetch((5, 7))]
    assert [6] == [entry.args[0] for entry in await dead.fetch((5, 7), f"{6:024x}")]
    found = await dead.find_job(f"{299:024x}")
    assert found is not None
    assert (f"299.0|{299:024x}", 299.0, "dead") == (found.id, found.score, found.set_name)
    assert None is await dead.find_job("*")


async def test_a_job_is_deleted_by_score_and_id_and_by_its_text(data: Data):
    await data.client.call("ZADD", "retry", 5, job(1), 5, job(2), 5, job(3))
    retries = RetrySet(data)

    assert not await retries.delete(4, f"{1:024x}")
    assert not await retries.delete(5, "nobody")
    assert await retries.delete(5, f"{1:024x}")
    assert await retries.delete_by_value(job(3))
    assert [job(2)] == [raw for raw, _ in await members(data, "retry")]
    assert (1, 0) == (await retries.clear(), await retries.clear())


async def test_a_job_is_put_into_a_set_and_taken_out_of_it(data: Data):
    scheduled = ScheduledSet(data)
    for number in (3, 1, 2):
        assert await scheduled.schedule(number + 0.5, JobRecord(data, job(number)))
    assert not await scheduled.schedule(9, JobRecord(data, job(3)))

    assert [(1.5, [1]), (2.5, [2]), (9.0, [3])] == [(entry.score, entry.args) async for entry in scheduled.pop_each()]
    assert not await exists(data, "schedule")


async def test_an_entry_says_whether_it_has_failed(data: Data):
    await data.client.call("ZADD", "retry", 1, job(1), 2, job(2, error_class="KeyError"))

    assert [True, False] == [entry.error async for entry in RetrySet(data)]


async def test_the_data_of_a_broker_are_where_the_broker_works(redis_url: str):
    broker = SidekiqBroker.from_url(f"sidekiq+{redis_url}", timestamps="float")
    try:
        data = Data.of(broker)
        assert (broker.client, "float") == (data.client, data.options.timestamps)
        assert 0 == await RetrySet(data).size()
    finally:
        await broker.close()


def test_code_without_a_loop_has_the_same_data(redis_url: str):
    broker = SidekiqBroker.from_url(f"sidekiq+{redis_url}", timestamps="float")
    data = BlockingData(broker)
    for number in (1, 2):
        entry = data.call(lambda own, n=number: RetrySet(own).schedule(n, JobRecord(own, job(n))))
        assert entry

    (last, first) = data.list(RetrySet)
    assert data.call(lambda _: first.delete())
    assert 1 == data.call(lambda own: RetrySet(own).retry_all())

    (pushed,) = data.list(lambda own: Queue(own, "low"))
    assert (last.jid, float) == (pushed.jid, type(pushed["enqueued_at"]))
