"""Recurring jobs: each due moment fires once, whoever looks and whoever dies; and cron expressions, zone by zone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from penstock import App, ConfigurationError, ConnectionFailed, Job, WorkerOptions
from penstock.brokers.memory import MemoryBroker
from penstock.job import JOBS
from penstock.queueing.cron import next_due
from penstock.queueing.recurring import TABLE, Recurring, Schedules
from penstock.stores.memory import MemoryStore
from penstock.stores.redis import RedisStore
from penstock.testing.clock import ManualClock
from tests.servers.redis_server import Server

START = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC).timestamp()


class World:
    """A store, a clock, and what was pushed; ``schedules`` are one worker's each."""

    def __init__(self, store: Any, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.pushed: list[tuple[str, str]] = []

    async def push(self, schedule: Recurring, jid: str) -> None:
        await asyncio.sleep(0)
        self.pushed.append((schedule.id, jid))

    def worker(self, push: Any = None, store: Any = None) -> Schedules:
        return Schedules(store or self.store, store or self.store, push or self.push, self.clock)

    async def row(self, ident: str = "report") -> bytes:
        return bytes((await self.store.rows(TABLE))[ident])


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    clock = ManualClock(start=START)
    if request.param == "memory":
        yield World(MemoryStore(clock), clock)
        return
    server: Server = request.getfixturevalue("redis_server")
    server.flush()
    monkeypatch.setattr("penstock.queueing.recurring.RESERVED", 0.2)  # it lapses by the server's clock
    store = RedisStore.from_url(server.url)
    yield World(store, clock)
    await store.close()


def a_schedule(ident: str = "report", cron: str = "*/5 * * * *", **more: Any) -> Recurring:
    said: dict[str, Any] = {
        "timezone": "UTC",
        "connection": "default",
        "queue": "reports",
        "name": "Report",
        "body": "{}",
        "headers": {},
    }
    return Recurring(id=ident, cron=cron, **(said | more))


async def test_nothing_fires_before_its_moment_and_then_once(world: World):
    worker = world.worker()
    saved = await worker.save(a_schedule())
    assert datetime(2026, 1, 1, 0, 5, tzinfo=UTC).timestamp() == saved.next_run
    assert 0 == await worker.tick()
    await world.clock.advance(270)
    assert [1, 0, 0] == [await worker.tick() for _ in range(3)]
    assert ["report"] == [ident for ident, _ in world.pushed]
    (after,) = await worker.list()
    assert (START + 270, START + 570) == (after.last_run, after.next_run)


async def test_many_workers_that_look_at_once_fire_each_moment_once(world: World):
    workers = [world.worker() for _ in range(8)]
    await workers[0].save(a_schedule())
    await workers[0].save(a_schedule("other", "*/10 * * * *"))
    for _ in range(4):
        await world.clock.advance(300)
        await asyncio.gather(*(worker.tick() for worker in workers * 2))
    assert {"report": 4, "other": 2} == {name: [i for i, _ in world.pushed].count(name) for name in ("report", "other")}
    assert 6 == len({jid for _, jid in world.pushed})


async def test_a_worker_that_dies_after_it_has_reserved_is_replaced(world: World):
    reserved = asyncio.Event()

    async def dies(*_: Any) -> None:
        reserved.set()
        await asyncio.Event().wait()

    await world.worker().save(a_schedule())
    await world.clock.advance(300)
    dying = asyncio.ensure_future(world.worker(dies).tick())
    await reserved.wait()
    assert 0 == await world.worker().tick()  # it may be about to push
    await _lapse(world)
    assert 1 == await world.worker().tick()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert ["report"] == [ident for ident, _ in world.pushed]


async def test_a_worker_that_dies_before_it_has_marked_the_moment_leaves_a_job_with_the_same_id(world: World):
    class Dies:
        """The store as a process sees it that ends after its push."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def complete(self, *_: Any) -> bool:
            await asyncio.Event().wait()
            return True

    await world.worker().save(a_schedule())
    await world.clock.advance(300)
    dying = asyncio.ensure_future(world.worker(store=Dies()).tick())
    while not world.pushed:
        await asyncio.sleep(0.001)
    await _lapse(world)
    assert [1, 0] == [await world.worker().tick() for _ in range(2)]
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert (2, 1) == (len(world.pushed), len({jid for _, jid in world.pushed}))


async def _lapse(world: World) -> None:
    await world.clock.advance(61)
    if isinstance(world.store, RedisStore):
        await asyncio.sleep(0.25)


async def test_an_answer_that_is_lost_after_the_push_costs_no_second_push(world: World):
    class Flaky:
        down = True

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def complete(self, *args: Any) -> bool:
            if self.down:
                raise ConnectionFailed("gone")
            return bool(await world.store.complete(*args))

    store = Flaky()
    worker = world.worker(store=store)
    await worker.save(a_schedule())
    await world.clock.advance(300)
    assert 0 == await worker.tick()
    store.down = False
    assert 1 == await worker.tick()
    assert 1 == len(world.pushed)


async def test_a_push_that_fails_is_tried_again_and_holds_up_no_other(world: World, caplog: pytest.LogCaptureFixture):
    refused = ["report"]

    async def push(schedule: Recurring, jid: str) -> None:
        if schedule.id in refused:
            raise ConnectionFailed("down")
        await world.push(schedule, jid)

    worker = world.worker(push)
    await worker.save(a_schedule())
    await worker.save(a_schedule("other"))
    await world.clock.advance(300)
    assert 1 == await worker.tick()
    assert "the schedule report did not fire: down" in caplog.text
    refused.clear()
    assert 1 == await world.worker().tick()
    assert {"report", "other"} == {ident for ident, _ in world.pushed}


async def test_moments_that_were_missed_come_together(world: World):
    worker = world.worker()
    await worker.save(a_schedule())
    await world.clock.advance(86_400)
    assert [1, 0] == [await worker.tick() for _ in range(2)]


async def test_registering_again_at_each_start_puts_nothing_off(world: World):
    await world.worker().save(a_schedule())
    await world.clock.advance(300)
    saved = await world.worker().save(a_schedule(body='{"new":1}'))
    assert START + 270 == saved.next_run
    assert 1 == await world.worker().tick()
    saved = await world.worker().save(a_schedule(cron="0 0 * * *"))
    assert (START + 86_370, START + 300) == (saved.next_run, saved.last_run)


async def test_registering_again_switches_nothing_on(world: World):
    worker = world.worker()
    await worker.save(a_schedule())
    assert await worker.enable("report", on=False)
    await world.clock.advance(3600)
    assert not (await worker.save(a_schedule())).enabled
    assert 0 == await worker.tick()
    assert (await worker.save(a_schedule(), enabled=True)).enabled
    assert 0 == await worker.tick()  # what was missed while it was off is not made up for
    await world.clock.advance(300)
    assert 1 == await worker.tick()


async def test_what_is_switched_off_or_removed_does_not_fire(world: World):
    worker = world.worker()
    await worker.save(a_schedule())
    await worker.save(a_schedule("other"))
    assert await worker.enable("report", on=False)
    assert await worker.remove("other")
    assert (False, False) == (await worker.remove("other"), await worker.enable("other"))
    await world.clock.advance(3600)
    assert 0 == await worker.tick()
    assert await worker.enable("report")
    assert 0 == await worker.tick()
    await world.clock.advance(300)
    assert 1 == await worker.tick()


async def test_a_schedule_runs_when_one_says_so(world: World):
    worker = world.worker()
    await worker.save(a_schedule())
    runs = [await worker.run_now("report") for _ in range(2)]
    assert [("report", jid) for jid in runs] == world.pushed
    assert 2 == len(set(runs))
    (after,) = await worker.list()
    assert START + 270 == after.next_run
    with pytest.raises(ConfigurationError, match="no schedule 'x'"):
        await worker.run_now("x")


async def test_what_was_changed_meanwhile_is_not_overwritten(world: World):
    async def push(schedule: Recurring, jid: str) -> None:
        await world.worker().save(a_schedule(cron="0 12 * * *"))
        await world.push(schedule, jid)

    await world.worker().save(a_schedule())
    await world.clock.advance(300)
    assert 1 == await world.worker(push).tick()
    (after,) = await world.worker().list()
    assert ("0 12 * * *", datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()) == (after.cron, after.next_run)


async def test_a_row_that_cannot_be_read_is_told_of_once_and_stays(world: World, caplog: pytest.LogCaptureFixture):
    worker = world.worker()
    await worker.save(a_schedule())
    await world.store.put(TABLE, "broken", b"{no json")
    await world.clock.advance(300)
    with caplog.at_level(logging.ERROR):
        assert [1, 0, 0] == [await worker.tick() for _ in range(3)]
    assert 1 == caplog.text.count("the schedule broken cannot be read")
    assert (["report"], False) == ([each.id for each in await worker.list()], await worker.enable("broken"))
    assert b"{no json" == await world.row("broken")
    assert (await worker.save(a_schedule("broken"))).enabled


async def test_a_row_with_a_bad_expression_pushes_nothing_ever(world: World, caplog: pytest.LogCaptureFixture):
    wrong = msgspec.structs.replace(a_schedule(cron="every day"), next_run=START)
    await world.store.put(TABLE, "report", msgspec.json.encode(wrong))
    worker = world.worker()
    assert [0, 0] == [await worker.tick() for _ in range(2)]
    assert [] == world.pushed
    assert "did not fire" in caplog.text


async def test_the_next_look_is_at_the_next_moment_or_soon(world: World):
    worker = world.worker()
    assert 5.0 == await worker.run_once()
    await worker.save(a_schedule(cron="*/2 * * * * *"))
    assert 2.0 == await worker.run_once()
    await world.clock.advance(1.5)
    assert 0.5 == pytest.approx(await worker.run_once())


@pytest.mark.parametrize("cron", ["", "* * * *", "every day", "61 * * * *", "* * * * * * * *", "@often"])
async def test_what_is_no_cron_expression_is_refused(cron: str):
    with pytest.raises(ConfigurationError, match="a cron expression has 5 fields"):
        next_due(cron, "UTC", START)


async def test_what_is_never_due_or_nowhere_is_refused(world: World):
    with pytest.raises(ConfigurationError, match="Bad day-of-month"):
        await world.worker().save(a_schedule(cron="0 0 30 2 *"))
    with pytest.raises(ConfigurationError, match="a time zone is a name such as 'Europe/Berlin'"):
        await world.worker().save(a_schedule(timezone="Mars/Base"))
    assert [] == await world.worker().list()


@pytest.mark.parametrize("word", ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"])
def test_words_stand_for_expressions(word: str):
    assert next_due(word, "UTC", START) is not None


def moments(cron: str, zone: str, start: datetime, count: int) -> list[str]:
    found: list[str] = []
    at = start.replace(tzinfo=ZoneInfo(zone)).timestamp()
    for _ in range(count):
        due = next_due(cron, zone, at)
        assert due is not None
        at = due
        found.append(datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat()[5:])
    return found


def test_an_hour_that_a_clock_leaves_out_is_made_up_for_right_after_it():
    """Berlin, 29 March 2026: 02:00 is 03:00."""
    due = moments("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 27, 12), 3)  # noqa: DTZ001 its zone is the parameter
    assert ["03-28T02:30:00+01:00", "03-29T03:00:00+02:00", "03-30T02:30:00+02:00"] == due


def test_an_hour_that_a_clock_goes_through_twice_is_due_once():
    """Berlin, 25 October 2026: 03:00 is 02:00."""
    due = moments("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12), 2)  # noqa: DTZ001
    assert ["10-25T02:30:00", "10-26T02:30:00"] == [each[:14] for each in due]


def test_zones_are_each_schedules_own():
    seoul, york = (next_due("0 9 * * *", zone, START) for zone in ("Asia/Seoul", "America/New_York"))
    assert seoul is not None
    assert york is not None
    assert (0, 14) == tuple(datetime.fromtimestamp(each, UTC).hour for each in (seoul, york))


def test_six_fields_are_seconds_first():
    assert START + 5 == next_due("*/5 * * * * *", "UTC", START)


# ------------------------------------------------------------------------------------------------------------- in an app


@pytest.fixture(params=["memory://", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param != "redis":
        return str(request.param)
    server: Server = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


async def test_workers_of_an_app_fire_what_is_due(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(JOBS, "_classes", {})
    ran: list[tuple[str, str]] = []
    enough = asyncio.Event()

    class Report(Job, queue="reports"):
        kind: str

        async def handle(self) -> None:
            ran.append((self.kind, self.jid))
            if len(ran) >= 2:
                enough.set()

    options = WorkerOptions(queues=["reports"])
    async with App(url, worker_options=options) as app, App(url if url != "memory://" else "memory://x") as other:
        schedule = await app.schedule("often", "* * * * * *", Report("daily").with_priority("high"))
        assert ("reports:high", "Report", '{"kind":"daily"}') == (schedule.queue, schedule.name, schedule.body)
        await app.start_worker()
        await other.start_worker(options)
        await asyncio.wait_for(enough.wait(), 10)
        assert await app.schedules.enable("often", on=False)
    assert {"daily"} == {kind for kind, _ in ran}
    assert len(ran) == len({jid for _, jid in ran})


async def test_a_second_push_of_the_same_moment_is_no_second_job(url: str):
    class Report(Job):
        async def handle(self) -> None: ...

    async with App(url) as app:
        schedule = await app.schedule("often", "* * * * *", Report())
        grouped = await app.schedule("grouped", "* * * * *", Report().in_group("g"))
        for _ in range(2):
            await app._recur(schedule, "the moment's")
            await app._recur(grouped, "the moment's")
        assert 3 == await app.size()


async def test_a_broker_without_a_store_beside_it_says_what_recurring_jobs_need():
    class Report(Job):
        async def handle(self) -> None: ...

    app = App(MemoryBroker())
    with pytest.raises(ConfigurationError, match="recurring jobs need a place that all workers share"):
        await app.schedule("x", "* * * * *", Report())
    assert app.worker() is not None  # it runs all the same
