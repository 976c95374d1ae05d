"""Every fault of the original that was found, and the test that shows it is not here.

=====  ==============================================================================================================
fault  shown by
=====  ==============================================================================================================
G1     ``tests/end_to_end/test_crashes.py``; popped by hand: ``test_app.py::test_what_is_held_when_the_app_closes_is_given_back``
G2     here, with G3
G3     here, on SQLite; PostgreSQL and MySQL: ``tests/end_to_end/test_sql_servers.py``, workers that are killed
G4     here
G5     here
G6     here; popped by hand: ``test_app.py::test_what_cannot_be_popped_as_a_job_is_dead_and_holds_up_nothing``
G7     ``test_app.py::test_a_job_that_kills_its_workers_is_told_once_it_is_dead``
G8     ``penstock.testing.conformance.settling`` on every broker; ``tests/end_to_end/test_crashes.py``
G9     here; what the archive says: ``test_archive.py::test_what_is_released_retried_or_lost_has_no_row``
G10    here; a group whose head was lost: ``test_gravito_import.py::test_a_group_whose_head_was_lost_by_the_original_is_freed``
G11    ``test_rates.py::test_looking_into_an_empty_queue_costs_nothing``
G12    ``penstock.testing.conformance.stores``; ``test_rates.py::test_without_the_store_nothing_is_fetched``
G13    here
G14    ``test_gravito_import.py::test_jobs_of_the_json_serializer_which_the_original_could_not_run_run_here``
G15    here
G16    here
G17    ``penstock.testing.conformance.settling`` on every broker
G18    ``test_rabbitmq.py::test_a_retry_goes_back_to_its_own_queue_and_is_never_broadcast_again``
G19    ``test_kafka_mock.py``, whose cluster answers with errors
G20    here
G21    Redis: here; PostgreSQL and MySQL: ``test_sql_servers.py::test_g21_delays_and_leases_run_by_the_servers_clock_in_any_zone``
G22    here
G23    ``test_recurring.py::test_many_workers_that_look_at_once_fire_each_moment_once`` and its neighbours
G24    here; the archive's rows: ``test_archive.py::test_a_worker_deletes_what_the_retention_does_not_keep``
G25    ``test_archive.py::test_the_last_word_about_a_job_is_its_end_whatever_the_clocks_say`` and its neighbours
G26    here
G27    ``test_app.py::test_many_are_pushed_each_as_it_says_itself``
G28    ``tests/end_to_end/test_long_handlers.py``
G29    here: not met yet by workers of many queues, whose lanes are each asked for
G30    ``test_archive.py::test_jobs_are_recorded_by_their_jid_one_by_one_and_in_bulk``
=====  ==============================================================================================================
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import App, Job, WorkerOptions
from penstock.broker import Outgoing
from penstock.job import JOBS
from penstock.message import Message
from tests.servers.redis_server import Server

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _own_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JOBS, "_classes", {})


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "redis":
        server: Server = request.getfixturevalue("redis_server")
        server.flush()
        yield server.url
    else:
        yield {"memory": f"memory://{tmp_path.name}", "sqlite": f"sqlite:///{tmp_path / 'jobs.db'}"}[request.param]


@pytest.fixture
async def app(url: str) -> AsyncIterator[App]:
    async with App(url) as app:
        yield app


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = true()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)


class Named(Job, queue="emails"):
    """What most tests push."""

    name: str

    async def handle(self) -> None: ...


@pytest.mark.parametrize("delay", [0.0, 0.05])
async def test_g2_g3_each_job_runs_once_however_many_workers_look(url: str, delay: float):
    ran: Counter[int] = Counter()

    class Once(Job):
        number: int

        async def handle(self) -> None:
            ran[self.number] += 1

    apps = [App(url) for _ in range(4)]
    try:
        for each in apps:
            await each.start_worker()
        await apps[0].push_many([Once(n).delay(delay) for n in range(200)])
        await until(lambda: 200 == len(ran))
        await until(lambda: _empty(apps[0]))
    finally:
        for each in apps:
            await each.close()
    assert [] == [number for number, times in ran.items() if times > 1]


async def _empty(app: App) -> bool:
    return 0 == await app.size()


async def test_g4_jobs_that_are_pushed_together_are_whole(app: App):
    JOBS.add(Named, "Named")
    pushed = await app.push_many([Named("a").attempts(4).in_group("g"), Named("b")])
    for expected in pushed:
        job = await app.pop("emails")
        assert isinstance(job, Named)
        assert (expected.name, expected.jid) == (job.name, job.jid)
        await app.complete(job)


async def test_g5_jobs_that_are_pushed_together_are_delayed_each_by_itself(app: App):
    JOBS.add(Named, "Named")
    await app.push_many([Named("later").delay(60), Named("now")])
    job = await app.pop("emails")
    assert "now" == getattr(job, "name", None)
    assert await app.pop("emails") is None


async def test_g6_what_no_worker_can_read_is_a_dead_letter_with_all_its_bytes(app: App):
    ran: list[str] = []

    class Reads(Job):
        name: str

        async def handle(self) -> None:
            ran.append(self.name)

    await app.broker().open()
    bodies = [b"{no json", b'{"name":5}']
    await app.broker().publish(
        [Outgoing(destination="default", message=Message(type="Reads", body=body)) for body in bodies]
    )
    await app.push(Reads("neighbour"))
    await app.start_worker()
    await until(lambda: _dead(app, 2))
    assert {*bodies} == {each.body for each in await app.get_failed()}
    await until(lambda: ran == ["neighbour"])


async def _dead(app: App, count: int, queue: str = "default") -> bool:
    return count == len(await app.get_failed(queue))


async def test_g9_g10_followers_of_a_group_wait_for_a_failing_head(app: App):
    ran: list[str] = []

    class Step(Job, backoff=0.05):
        name: str

        async def handle(self) -> None:
            ran.append(self.name)
            if self.name == "fA" and self.tries < 3:
                raise ValueError("no")

    await app.push_many([Step(name).in_group("user-1") for name in ("fA", "B", "C")])
    await app.push(Step("other")).in_group("user-2")
    await app.start_worker()
    await until(lambda: 6 == len(ran))
    assert ["fA", "fA", "fA", "B", "C"] == [name for name in ran if name != "other"]
    assert ran.index("other") < ran.index("B")


async def test_g10_clearing_a_queue_frees_and_harms_no_other(app: App):
    JOBS.add(Named, "Named")
    await app.push(Named("a")).on_queue("cleared").in_group("g")
    await app.push_many([Named(name).in_group("g") for name in ("b", "c")])
    assert 1 == await app.clear("cleared")
    names = []
    for _ in range(2):
        job = await app.pop("emails")
        assert isinstance(job, Named)
        names.append(job.name)
        await app.complete(job)
    assert ["b", "c"] == names


async def test_g13_a_pause_holds_for_every_priority_and_for_what_is_delayed(app: App):
    ran: list[str] = []

    class Runs(Job):
        name: str

        async def handle(self) -> None:
            ran.append(self.name)

    assert await app.pause()
    assert not await app.pause()
    jobs = Runs("a"), Runs("b").with_priority("high"), Runs("c").delay(0.01), Runs("other").on_queue("free")
    for job in jobs:
        await app.push(job)
    await app.start_worker(WorkerOptions(queues=["default", "free"]))
    await until(lambda: ran)
    await asyncio.sleep(0.2)
    assert ["other"] == ran
    assert await app.resume()
    await until(lambda: {"a", "b", "c", "other"} == {*ran})


async def test_messages_of_two_lanes_may_have_the_same_id(redis_server: Server):
    """Redis numbers each stream by milliseconds: jobs pushed at once with two priorities may share an id."""
    redis_server.flush()
    ran: list[str] = []

    class Runs(Job):
        async def handle(self) -> None:
            ran.append(self.jid)
            await asyncio.sleep(0.1)

    async with App(redis_server.url) as app:
        await app.push(Runs())
        redis_server.call("COPY", "default", "default:high")
        await app.start_worker()
        async with asyncio.timeout(5):
            while len(ran) < 2 or not await _empty(app):
                await asyncio.sleep(0.01)


async def test_g15_jobs_run_side_by_side_and_a_stop_has_a_limit(app: App):
    running: list[int] = []

    class Long(Job):
        number: int

        async def handle(self) -> None:
            running.append(self.number)
            await asyncio.Event().wait()

    await app.push_many([Long(n) for n in range(3)])
    await app.start_worker()
    await until(lambda: 3 == len(running))
    async with asyncio.timeout(10):
        assert not await app.stop_worker(timeout=0.05)
    await until(lambda: _waits(app, 3))


async def _waits(app: App, count: int) -> bool:
    return count == await app.size()


async def test_g16_a_job_whose_time_is_over_has_ended_before_it_runs_again(app: App):
    alive, most, ended = 0, 0, 0

    class Slow(Job, backoff=0.0, max_attempts=2):
        async def handle(self) -> None:
            nonlocal alive, most, ended
            alive += 1
            most = max(most, alive)
            try:
                await asyncio.Event().wait()
            finally:
                alive, ended = alive - 1, ended + 1

    await app.push(Slow())
    await app.start_worker(WorkerOptions(timeout=0.05))
    await until(lambda: 2 == ended)
    assert 1 == most


async def test_g20_no_dead_letter_is_dropped_and_none_is_an_ordinary_job(app: App):
    class Fails(Job, max_attempts=1):
        async def handle(self) -> None:
            raise ValueError("no")

    await app.push_many([Fails() for _ in range(1100)])
    await app.push(Fails()).delay(0.01)
    await app.start_worker()
    await until(lambda: _dead(app, 1101))
    await app.stop_worker()
    assert await app.pop("failed:default") is None
    assert 1101 == await app.retry_failed(count=2000)
    assert 1101 == await app.size()  # nothing of an old delay is left


async def test_g21_a_delay_runs_by_the_servers_clock(redis_server: Server, monkeypatch: pytest.MonkeyPatch):
    redis_server.flush()
    JOBS.add(Named, "Named")
    async with App(redis_server.url) as app:
        monkeypatch.setattr("penstock.clock.time.time", lambda: 4_000_000_000.0)  # this machine's is years ahead
        await app.push(Named("a").delay(60))
        assert await app.pop("emails") is None
        await app.push(Named("b").delay(0.05))
        found: list[Any] = []

        async def popped() -> bool:
            found.append(await app.pop("emails"))
            return found[-1] is not None

        await until(popped)
        assert "b" == found[-1].name


async def test_g22_equal_jobs_are_as_many_as_were_pushed(app: App):
    JOBS.add(Named, "Named")
    await app.push_many([Named("same").delay(0.05) for _ in range(5)])
    jids: set[str] = set()

    async def all_popped() -> bool:
        while (job := await app.pop("emails")) is not None:
            jids.add(job.jid)
        return 5 == len(jids)

    await until(all_popped)


async def test_g24_groups_that_are_done_leave_nothing_behind(redis_server: Server):
    redis_server.flush()

    class Quick(Job):
        async def handle(self) -> None: ...

    async with App(redis_server.url) as app:
        await app.push_many([Quick().in_group(f"group-{n}") for n in range(50)])
        await app.start_worker()
        await until(lambda: _empty(app))
    left = {key.decode() for key in redis_server.call("KEYS", "*")}
    assert set() == {key for key in left if "group-" in key}
    assert [] == [key for key in left if key == "default" and redis_server.call("XLEN", key)]


async def test_g26_ids_do_not_collide(app: App):
    pushed = await app.push_many([Named("a") for _ in range(20_000)])
    assert 20_000 == len({job.jid for job in pushed})
    assert {24} == {len(job.jid) for job in pushed}


async def test_g29_workers_that_find_nothing_ask_seldom(redis_server: Server):
    """The original: 2,400 commands a second for 4 consumers of 5 queues. Here those within scripts are counted as well."""
    redis_server.flush()
    options = WorkerOptions(queues=["a", "b", "c", "d", "e"])
    apps = [App(redis_server.url) for _ in range(4)]
    try:
        for each in apps:
            await each.start_worker(options)
        await asyncio.sleep(1.5)  # all of them are waiting by now
        before, began = _commands(redis_server), time.monotonic()
        await asyncio.sleep(2.0)
        a_second = (_commands(redis_server) - before) / (time.monotonic() - began)
    finally:
        for each in apps:
            await each.close()
    assert a_second < 1200


def _commands(server: Server) -> int:
    found: dict[str, Any] = server.call("INFO", "stats")
    return int(found["total_commands_processed"])
