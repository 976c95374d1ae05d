"""Moving off @gravito/stream: what the original wrote (``tests/data/gravito.json``, recorded from it) goes on as jobs of ours."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock import App, ConfigurationError, Job, PublishError, open_broker
from penstock.broker import Outgoing
from penstock.contrib.gravito import Mover, Report, UnreadableError, gravito_source, serialized
from penstock.contrib.gravito.serialized import named
from penstock.errors import InvalidURL
from penstock.inspector import Inspector
from penstock.job import JOBS
from penstock.job_terms import lanes
from penstock.message import Message
from tests.servers.redis_server import Server

VECTORS: dict[str, dict[str, Any]] = {
    each["scenario"]: each
    for each in json.loads((Path(__file__).parents[1] / "data" / "gravito.json").read_text(encoding="utf-8"))
}
LONG_AGO = 1_767_225_600.123  # most of the recordings' clock


@pytest.fixture(autouse=True)
def _own_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JOBS, "_classes", {})


@pytest.fixture
def server(redis_server: Server) -> Server:
    redis_server.flush()
    return redis_server


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the mover's clock."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr("penstock.contrib.gravito.moving.time.time", lambda: seconds)

    set_to(LONG_AGO)
    return set_to


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with App("memory://") as app:
        yield app


def load(server: Server, keys: Mapping[str, Any]) -> None:
    """Put recorded keys where they were recorded."""
    for key, value in keys.items():
        match value["type"]:
            case "list":
                server.call("RPUSH", key, *value["entries"])
            case "zset":
                for member, score in value["members"]:
                    server.call("ZADD", key, score, member)
            case "set":
                server.call("SADD", key, *value["members"])
            case "hash":
                server.call("HSET", key, *(part for field in value["value"] for part in field))
            case _:
                server.call("SET", key, value["value"])


async def move(server: Server, app: App, *, prefix: str = "queue:", **options: Any) -> Report:
    source = gravito_source(server.url, prefix=prefix)
    try:
        return await Mover(source, app, **options).run()
    finally:
        await source.close()


async def waiting(app: App, queue: str) -> list[Message]:
    """What waits now, in its order."""
    async with _inspector(app) as inspector:
        return [*await inspector.peek(queue, 100)]


def _inspector(app: App) -> Inspector:
    return Inspector(app.broker().fork())


def ids(messages: list[Message]) -> list[Any]:
    return [message.headers.get("jid") for message in messages]


async def later(app: App, queue: str) -> list[tuple[Any, float]]:
    """What is delayed, on the memory broker, and the seconds it is delayed for."""
    system: Any = app.broker()._system  # type: ignore[attr-defined]
    found = [
        (entry.message.headers["jid"], due - system.clock.time()) for due, _, _, entry in system.streams[queue].delayed
    ]
    return sorted((ident, round(left)) for ident, left in found)


def left_over(server: Server, prefix: str = "queue:") -> set[str]:
    return {key.decode() for key in server.call("KEYS", f"{prefix}*")}


# -------------------------------------------------------------------------------------------------------- the recordings


@pytest.mark.usefixtures("at")
async def test_waiting_jobs_keep_their_order_and_their_fields(server: Server, app: App):
    load(server, VECTORS["push_plain"]["keys"])
    report = await move(server, app)
    assert ({"default": 1, "emails": 3}, []) == (report.moved, report.left)
    found = await waiting(app, "emails")
    assert ["job-1", "job-2", "job-3"] == ids(found)
    assert [b'{"to":"a@x","n":1}', b'{"to":"a@x","n":2}'] == [message.body for message in found[:2]]
    assert {("SendMail", 0, LONG_AGO)} == {(each.type, each.attempt, each.enqueued_at) for each in found}
    assert {"app:emails"} == left_over(server, "*")
    assert {"emails": 1} == (await move(server, app, prefix="app:")).moved


@pytest.mark.usefixtures("at")
async def test_properties_go_over_byte_for_byte(server: Server, app: App):
    load(server, VECTORS["push_rich_properties"]["keys"])
    await move(server, app)
    (message,) = await waiting(app, "emails")
    original = json.loads(VECTORS["push_rich_properties"]["keys"]["queue:emails"]["entries"][0])["data"]
    _, _, inside = original.partition('"queueName":"emails",')
    assert "{" + inside.removesuffix("}") == message.body.decode()


@pytest.mark.usefixtures("at")
async def test_attempts_and_backoff_that_travel_only_inside_data_are_found(server: Server, app: App):
    load(server, VECTORS["push_all_metadata"]["keys"])
    await move(server, app)
    (message,) = await waiting(app, "emails")
    assert {"jid": "m-1", "maxAttempts": 7, "retryAfterSeconds": 5, "retryMultiplier": 3} == message.headers
    assert (0, '{"to":"é","n":1.5}') == (message.attempt, message.body.decode())


@pytest.mark.usefixtures("at")
async def test_delays_run_on(server: Server, app: App):
    load(server, VECTORS["push_delay"]["keys"])
    report = await move(server, app)
    assert (4, 3) == (report.moved.total(), report.delayed)
    assert ["d-0"] == ids(await waiting(app, "emails"))
    assert [("d-1.5", 2), ("d-60", 60)] == await later(app, "emails")
    assert [("pd-1", 60)] == await later(app, "emails:high")


async def test_a_delay_that_is_over_is_none(server: Server, app: App, at: Callable[[float], None]):
    at(LONG_AGO + 3600)
    load(server, VECTORS["push_delay"]["keys"])
    assert 0 == (await move(server, app)).delayed


@pytest.mark.usefixtures("at")
async def test_every_priority_has_a_lane_those_too_that_the_original_never_read(server: Server, app: App):
    load(server, VECTORS["push_each_priority"]["keys"])
    report = await move(server, app)
    assert {"q:critical": 1, "q:high": 3, "q": 4, "q:low": 2} == report.moved
    assert ["p-high", "o-1", "p-5"] == sorted(ids(await waiting(app, "q:high")), key=["p-high", "o-1", "p-5"].index)
    assert {"p-undefined", "p-0", "p-default", "p-normal"} == {*ids(await waiting(app, "q"))}
    assert ["p-low", "o-2"] == ids(await waiting(app, "q:low"))


@pytest.mark.usefixtures("at")
async def test_a_group_keeps_its_order_though_its_jobs_lie_in_two_places(server: Server, app: App):
    load(server, VECTORS["group_active_and_pending"]["keys"])
    report = await move(server, app)
    found = await waiting(app, "emails")
    assert ["g-1", "n-1", "g-2", "g-3"] == ids(found)
    assert ["user-1", "user-9", "user-1", "user-1"] == [message.key for message in found]
    assert [("h-1", 60)] == await later(app, "emails")  # the original did not heed the delay of a job with a group
    high = await waiting(app, "emails:high")
    assert (["k-1", "k-2"], ["user-3", "user-3"]) == (ids(high), [message.key for message in high])
    assert 7 == report.moved.total()


@pytest.mark.usefixtures("at")
async def test_a_group_whose_head_was_lost_by_the_original_is_freed(server: Server, app: App):
    keys = VECTORS["group_after_complete"]["keys"]
    load(server, {name: value for name, value in keys.items() if name != "queue:emails"})
    await move(server, app)
    assert ["g-3"] == ids(await waiting(app, "emails"))


@pytest.mark.usefixtures("at")
async def test_what_push_many_wrote_gets_the_delay_that_the_original_forgot(server: Server, app: App):
    load(server, VECTORS["push_many"]["keys"])
    await move(server, app)
    found = await waiting(app, "emails")
    assert (["b-1", "b-3"], [("b-2", 60)]) == (ids(found), await later(app, "emails"))
    assert 5 == found[1].headers["maxAttempts"]
    assert ["a-2", "a-3", "a-4"] == ids(await waiting(app, "q"))
    assert ["a-1"] == ids(await waiting(app, "q:high"))
    assert ["c-1"] == ids(await waiting(app, "default"))


@pytest.mark.usefixtures("at")
async def test_jobs_of_the_json_serializer_which_the_original_could_not_run_run_here(server: Server, app: App):
    load(server, VECTORS["json_serializer_push"]["keys"])
    await move(server, app)
    (high,) = await waiting(app, "q:high")
    assert ("SendMail", b'{"to":"c","n":3}', 5) == (high.type, high.body, high.headers["retryAfterSeconds"])
    assert [(1, "g"), (1.5, None)] == [
        (json.loads(m.body)["n"] // 4 or 1.5, m.key if m.key == "g" else None)
        for m in reversed(await waiting(app, "q"))
    ]
    assert 1 == len(await later(app, "q"))

    class SendMail(Job):
        to: str
        n: float

        async def handle(self) -> None: ...

    job = await app.pop("q")
    assert isinstance(job, SendMail)
    assert ("c", 3) == (job.to, job.n)


@pytest.mark.parametrize("serializer", ["class", "json"])
@pytest.mark.parametrize("which", ["full", "bare", "rich"])
def test_both_serializers_are_read(serializer: str, which: str):
    raw = VECTORS["serializers_direct"]["serialized"][serializer][which].encode()
    job = serialized(raw)
    assert ("Rich" if which == "rich" else "SendMail", json.loads(raw)["id"]) == (job.name, job.id)
    if which == "full":
        assert (1, 60, "high", "q") == (job.failures, job.after, job.priority, job.queue)
        assert ("g", 5, (5, 3)) == (job.terms.group, job.terms.max_attempts, job.terms.backoff)
        assert b'{"to":"a","n":1}' == job.body


@pytest.mark.usefixtures("at")
async def test_failed_jobs_stay_unless_they_shall_be_tried_afresh(server: Server, app: App):
    load(server, VECTORS["failed_list"]["keys"])
    report = await move(server, app)
    assert (3, 0) == (report.failed, report.moved.total())
    assert {"queue:emails:failed"} == left_over(server)
    report = await move(server, app, failed="retry")
    assert {"emails": 1, "emails:high": 1, "emails:low": 1} == report.moved
    (first,) = await waiting(app, "emails:high")
    assert ("f-1", 0, 1) == (first.headers["jid"], first.attempt, first.headers["maxAttempts"])
    (second,) = await waiting(app, "emails:low")
    assert ("f-2", "g") == (second.headers["jid"], second.key)
    assert set() == left_over(server)


@pytest.mark.usefixtures("at")
async def test_what_the_original_put_back_is_moved_and_what_it_did_not_stays(server: Server, app: App):
    load(server, VECTORS["retry_failed"]["keys"])
    report = await move(server, app)
    assert ({"emails": 2, "emails:high": 1}, 1, 1) == (report.moved, report.delayed, report.failed)


async def test_a_job_that_waits_for_its_next_attempt_keeps_its_turn_and_its_count(
    server: Server, app: App, at: Callable[[float], None]
):
    keys = VECTORS["retry_waiting"]["keys"]
    ((_, due),) = keys["queue:emails:delayed"]["members"]
    at(due / 1000 - 150)
    load(server, keys)
    await move(server, app)
    assert [("w-1", 150)] == await later(app, "emails")
    (entry,) = app.broker()._system.streams["emails"].delayed  # type: ignore[attr-defined]
    assert (1, 3, 100) == (
        entry[3].message.attempt,
        entry[3].message.headers["maxAttempts"],
        entry[3].message.headers["retryAfterSeconds"],
    )


@pytest.mark.usefixtures("at")
async def test_counters_logs_and_heartbeats_are_no_jobs(server: Server, app: App):
    for name in ("rate_limit_counter", "heartbeat"):
        load(server, VECTORS[name]["keys"])
    before = left_over(server, "")
    report = await move(server, app)
    assert (0, []) == (report.moved.total(), report.left)
    load(server, VECTORS["logs"]["keys"])
    report = await move(server, app)
    assert ({"emails": 1}, 1) == (report.moved, report.failed)
    report = await move(server, app, prefix="flux_console:")
    assert (0, []) == (report.moved.total(), report.left)
    assert before <= left_over(server, "")


@pytest.mark.usefixtures("at")
async def test_recurring_jobs_are_registered_and_what_they_have_pushed_is_moved(server: Server, app: App):
    load(server, VECTORS["schedules"]["keys"])
    report = await move(server, app, timezone="Europe/Berlin")
    assert (["daily", "five"], {"reports": 2}, []) == (report.schedules, report.moved, report.left)
    daily, five = await app.schedules.list()
    assert ("daily", "0 0 * * *", "Europe/Berlin", "reports", "SendMail", '{"to":"r@x","n":1}', True) == (
        *(daily.id, daily.cron, daily.timezone, daily.queue, daily.name, daily.body, daily.enabled),
    )
    assert "*/5 * * * *" == five.cron
    assert {"queue:lock:schedule:five:1767225600"} == left_over(server)


@pytest.mark.usefixtures("at")
async def test_a_schedule_that_is_off_stays_off_and_one_that_the_app_has_otherwise_stays_there(
    server: Server, app: App
):
    class Report(Job):
        async def handle(self) -> None: ...

    load(server, VECTORS["schedules"]["keys"])
    server.call("HSET", "queue:schedule:five", "enabled", "false")
    await app.schedule("daily", "0 6 * * *", Report())
    report = await move(server, app)
    assert (["five"], ["the schedule daily"]) == (report.schedules, [each.place for each in report.left])
    assert [("daily", True), ("five", False)] == [(each.id, each.enabled) for each in await app.schedules.list()]
    assert server.call("EXISTS", "queue:schedule:daily")


# ------------------------------------------------------------------------------------------------------ the jobs table


def table(path: Path, rows: list[list[Any]], name: str = "jobs") -> str:
    with sqlite3.connect(path) as database:
        database.execute(
            f"CREATE TABLE {name} (id INTEGER PRIMARY KEY AUTOINCREMENT, queue VARCHAR(255) NOT NULL, payload TEXT"
            " NOT NULL, attempts INT DEFAULT 0, reserved_at TIMESTAMP, available_at TIMESTAMP NOT NULL, created_at"
            " TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )
        for row in rows:
            fields = dict(row)
            names = ", ".join(fields)
            database.execute(
                f"INSERT INTO {name} ({names}) VALUES ({', '.join('?' * len(fields))})", [*fields.values()]
            )
    database.close()
    return f"sqlite:///{path}"


def count(path: Path, name: str = "jobs") -> int:
    database = sqlite3.connect(path)
    found = database.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
    database.close()
    return int(found)


async def move_table(url: str, app: App, name: str = "jobs", **options: Any) -> Report:
    source = gravito_source(url, table=name)
    try:
        return await Mover(source, app, **options).run()
    finally:
        await source.close()


@pytest.mark.usefixtures("at")
async def test_rows_of_every_kind_are_read(tmp_path: Path, app: App):
    url = table(tmp_path / "old.db", VECTORS["database_rows"]["rows"]["jobs"])
    report = await move_table(url, app)
    assert ([], 1) == (report.left, report.failed)
    first, *_ = await waiting(app, "emails")
    assert ("s-1", {"maxAttempts": 5, "retryAfterSeconds": 5, "retryMultiplier": 3}) == (
        first.headers["jid"],
        {name: value for name, value in first.headers.items() if name != "jid"},
    )
    assert [("s-2", 60)] == await later(app, "emails")
    (high,) = await waiting(app, "emails:high")
    assert "s-3" == high.headers["jid"]
    (many,) = await waiting(app, "many")  # pushMany wrote nothing but the inner text
    assert ("m-1", "SendMail", b'{"to":"a","n":1}') == (many.headers["jid"], many.type, many.body)
    assert [("m-2", 60)] == await later(app, "many")
    (reserved,) = await waiting(app, "popped")
    assert "p-1" == reserved.headers["jid"]
    (again,) = [ident for ident, _ in await later(app, "again")]
    assert "9" == again  # the original calls a popped job by its row, also when it pushes it again
    assert 1 == count(tmp_path / "old.db")
    assert {"bad": 1} == (await move_table(url, app, failed="retry")).moved
    assert 0 == count(tmp_path / "old.db")


@pytest.mark.usefixtures("at")
async def test_the_archive_beside_the_queue_is_left_alone(server: Server, app: App):
    load(server, VECTORS["archive_rows"]["keys"])
    report = await move(server, app)
    assert (1, 0) == (report.failed, report.moved.total())


@pytest.mark.usefixtures("at")
async def test_a_row_of_nothing_stays_and_its_neighbours_go(tmp_path: Path, app: App):
    good = VECTORS["database_rows"]["rows"]["jobs"][0]
    wrong = [["queue", "emails"], ["payload", "{no json"], ["available_at", "2026-01-01 00:00:00"]]
    rows = [[field for field in good if field[0] != "id"], wrong] * 700  # more than a page
    url = table(tmp_path / "old.db", rows, "work")
    report = await move_table(url, app, "work")
    assert ({"emails": 700}, 700) == (report.moved, len(report.left))
    assert 700 == count(tmp_path / "old.db", "work")
    assert "work, row 2" == report.left[0].place


async def test_a_table_that_is_not_the_originals_is_named(tmp_path: Path, app: App):
    url = table(tmp_path / "old.db", [])
    with pytest.raises(ConfigurationError, match="no table 'tasks' of the original"):
        await move_table(url, app, "tasks")
    with pytest.raises(InvalidURL, match="an address such as"):
        gravito_source("mongodb://x")


# ------------------------------------------------------------------------------------------------------- nothing is lost

JUNK = [
    b"{no json",
    b"[]",
    b'"text"',
    b'{"id":"x"}',
    b'{"id":"x","data":5}',
    b'{"id":"x","data":"{}"}',
    b'{"id":"x","data":"{\\"properties\\":{}}"}',
    b'{"id":"x","data":"{\\"class\\":\\"A\\",\\"properties\\":[]}"}',
    b"\xff\xfe",
    b"",
    b'{"className":"A","payload":{}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("raw", JUNK, ids=range(len(JUNK)))
def test_what_is_no_job_is_said_to_be_none(raw: bytes):
    with pytest.raises(UnreadableError, match="it "):
        serialized(raw)


async def test_what_cannot_be_read_is_reported_and_stays_where_it_is(server: Server, app: App):
    good = [json.dumps(_job(n)).encode() for n in range(1200)]
    for n, raw in enumerate(good):
        server.call("LPUSH", "queue:emails", raw)
        if n % 100 == 0:
            server.call("LPUSH", "queue:emails", JUNK[n // 100])
    server.call("ZADD", "queue:emails:delayed", 1, b"junk")
    server.call("RPUSH", "queue:pending:g", b"junk")
    report = await move(server, app)
    assert ({"emails": 1200}, 14) == (report.moved, len(report.left))
    assert [f"j-{n}" for n in range(100)] == ids(await waiting(app, "emails"))
    assert JUNK == [bytes(raw) for raw in reversed(server.call("LRANGE", "queue:emails", 0, -1))]
    assert 0 == (await move(server, app)).moved.total()


def _job(n: int, **more: Any) -> dict[str, Any]:
    data = json.dumps({"class": "SendMail", "properties": {"to": "a", "n": n}})
    return {
        "id": f"j-{n}",
        "type": "class",
        "className": "SendMail",
        "data": data,
        "createdAt": 1,
        "attempts": 0,
    } | more


@pytest.mark.usefixtures("at")
async def test_equal_jobs_stay_as_many_as_they_are(server: Server, app: App):
    """The original's scheduler pushes the same id and text each time."""
    raw = json.dumps(_job(1))
    server.call("LPUSH", "queue:emails", raw, raw, raw)
    assert {"emails": 3} == (await move(server, app)).moved
    assert 3 == await app.size("emails")


@pytest.mark.usefixtures("at")
async def test_a_dry_run_says_all_and_changes_nothing(server: Server, app: App):
    for name in ("push_delay", "push_each_priority", "group_active_and_pending", "schedules"):
        load(server, VECTORS[name]["keys"])
    server.call("LPUSH", "queue:emails", b"junk")
    before = {key: server.call("DUMP", key) for key in left_over(server)}
    report = await move(server, app, dry_run=True)
    assert (23, ["daily", "five"], 1) == (report.moved.total(), report.schedules, len(report.left))
    assert before == {key: server.call("DUMP", key) for key in left_over(server)}
    assert (0, []) == (await app.size("q"), await app.schedules.list())
    assert report.moved == (await move(server, app)).moved


async def test_what_was_claimed_by_a_run_that_died_is_moved_by_the_next_and_nothing_twice(server: Server, app: App):
    for n in range(10):
        server.call("LPUSH", "queue:emails", json.dumps(_job(n)))
    broker: Any = app.broker()
    publish = broker.publish

    async def dies(messages: list[Outgoing]) -> Any:
        await publish(messages[:4])
        raise asyncio.CancelledError

    broker.publish = dies
    with pytest.raises(asyncio.CancelledError):
        await move(server, app)
    assert 4 == await app.size("emails")
    assert 1 == len(left_over(server))
    broker.publish = publish
    await move(server, app)
    assert [f"j-{n}" for n in range(10)] == ids(await waiting(app, "emails"))
    assert set() == left_over(server)


async def test_what_the_broker_refuses_is_kept_and_moved_by_the_next_run(server: Server, app: App):
    for n in range(4):
        server.call("LPUSH", "queue:emails", json.dumps(_job(n)))
    broker: Any = app.broker()
    publish = broker.publish

    async def refuses(messages: list[Outgoing]) -> Any:
        (two,) = await publish(messages[2:3])
        raise PublishError([ValueError("no"), ValueError("no"), two, ValueError("no")])

    broker.publish = refuses
    report = await move(server, app)
    assert ({"emails": 1}, 3) == (report.moved, len(report.left))
    broker.publish = publish
    assert {"emails": 3} == (await move(server, app)).moved
    assert ["j-2", "j-0", "j-1", "j-3"] == ids(await waiting(app, "emails"))


async def test_what_a_worker_of_the_original_takes_meanwhile_is_its_own(server: Server, app: App):
    for n in range(3):
        server.call("LPUSH", "queue:emails", json.dumps(_job(n)))
    source = gravito_source(server.url)
    claim = source.claim

    async def late(entries: Any) -> Any:
        server.call("RPOP", "queue:emails")
        return await claim(entries)

    source.claim = late  # type: ignore[method-assign]
    report = await Mover(source, app).run()
    await source.close()
    assert ({"emails": 2}, 1) == (report.moved, report.taken)
    assert ["j-1", "j-2"] == ids(await waiting(app, "emails"))


@pytest.fixture(params=["redis", "sqlite"])
def target(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> str:
    return server.url if request.param == "redis" else f"sqlite:///{tmp_path / 'new.db'}"


async def test_attempts_travel_on_every_broker(server: Server, target: str):
    """The redis target shares the server with the original: the keys are not the same."""
    for n in range(3):
        server.call("LPUSH", "queue:emails", json.dumps(_job(n, attempts=3, maxAttempts=7)))

    class SendMail(Job):
        to: str
        n: int

        async def handle(self) -> None: ...

    async with App(target) as app:
        assert {"emails": 3} == (await move(server, app)).moved
        job = await app.pop("emails")
        assert isinstance(job, SendMail)
        assert ("j-0", 3, 0) == (job.jid, job.tries, job.n)


@pytest.mark.parametrize("kind", ["redis", "jobs table"])
async def test_a_mover_killed_in_the_middle_loses_nothing_and_the_next_moves_nothing_twice(
    server: Server, target: str, tmp_path: Path, kind: str
):
    total = 6000
    path = tmp_path / "old.db"
    if kind == "redis":
        server.call("LPUSH", "queue:emails", *(json.dumps(_job(n)) for n in range(total)))
        source = server.url
    else:
        rows = [
            [["queue", "emails"], ["payload", json.dumps(_job(n))], ["available_at", "2026-01-01T00:00:00.123Z"]]
            for n in range(total)
        ]
        source = table(path, rows)
    async with App(target) as app:
        await app.size("emails")
        for _ in range(3):
            before = await app.size("emails")
            process = _run(source, target)
            while await app.size("emails") <= before and process.poll() is None:
                await asyncio.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        assert 0 < await app.size("emails") <= total
        process = _run(source, target)
        assert 0 == await asyncio.to_thread(process.wait, 60)
        assert total == await app.size("emails")
        async with _inspector(app) as inspector:
            assert [f"j-{n}" for n in range(total)] == ids([*await inspector.peek("emails", total)])
    assert (set() if kind == "redis" else 0) == (left_over(server) if kind == "redis" else count(path))


def _run(source: str, target: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", "import-gravito", source, "--to", target],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def test_what_the_broker_cannot_do_stays(server: Server, app: App, monkeypatch: pytest.MonkeyPatch):
    server.call("LPUSH", "queue:emails", json.dumps(_job(1)))
    server.call("ZADD", "queue:emails:delayed", 9_999_999_999_999, json.dumps(_job(2)))
    broker: Any = app.broker()
    limited = type(broker).capabilities
    import msgspec

    monkeypatch.setattr(type(broker), "capabilities", msgspec.structs.replace(limited, max_delay=900.0))
    report = await move(server, app)
    assert ({"emails": 1}, ["queue:emails:delayed"]) == (report.moved, [each.place for each in report.left])
    assert "cannot delay for" in report.left[0].reason
    assert 1 == server.call("ZCARD", "queue:emails:delayed")


async def test_paused_queues_are_told_of_and_strange_prefixes_are_no_patterns(server: Server, app: App):
    server.call("LPUSH", "a[b]*:emails", json.dumps(_job(1)))
    server.call("LPUSH", "ab:emails", json.dumps(_job(2)))
    server.call("SET", "a[b]*:emails:paused", "1")
    report = await move(server, app, prefix="a[b]*:")
    assert ({"emails": 1}, ["emails"]) == (report.moved, report.paused)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("high", "high"),
        ("default", "default"),
        ("normal", "default"),
        (5, "high"),
        ("5", "high"),
        ("-3", "low"),
        (0, "default"),
        (10.0, "critical"),
        (None, "default"),
        (True, "default"),
        (1.5, "default"),
        ([], "default"),
    ],
)
def test_priorities_of_the_original_are_ours(given: object, name: str):
    assert name == named(given)


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    from penstock.cli.root import run

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["import-gravito", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_the_command_says_what_it_would_do_and_does_it(
    server: Server, target: str, cli: Callable[..., tuple[int, str, str]]
):
    load(server, VECTORS["group_active_and_pending"]["keys"])
    load(server, VECTORS["failed_list"]["keys"])
    code, out, _ = cli(server.url, "--to", target, "--dry-run")
    assert 0 == code
    assert "7 jobs would be moved" in out
    code, out, _ = cli(server.url, "--to", target, "--json")
    assert (0, {"emails": 5, "emails:high": 2}, 3) == (code, json.loads(out)["moved"], json.loads(out)["failed"])
    code, out, _ = cli(server.url, "--to", target)
    assert "3 failed jobs stay" in out


def test_the_command_fails_if_something_cannot_be_moved(
    server: Server, target: str, cli: Callable[..., tuple[int, str, str]]
):
    server.call("RPUSH", "queue:emails", *([b"junk\x1b[2J"] * 30))
    code, _, err = cli(server.url, "--to", target)
    assert 1 == code
    assert "not moved: queue:emails: it is no SerializedJob" in err
    assert "10 more" in err


async def test_a_copy_on_another_connection_of_the_app(server: Server):
    server.call("LPUSH", "queue:emails", json.dumps(_job(1)))
    async with App({"main": "memory://", "other": open_broker("memory://")}, default="main") as app:
        await move(server, app, connection="other")
        assert (0, 1) == (await app.size("emails"), await app.size("emails", "other"))
        assert "emails" in lanes("emails")
