"""App and the jobs that carry their data, on brokers that are not alike: what is pushed, where, and what becomes of it."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import App, ConfigurationError, Job, LostLease, PublishError, Retry, WorkerOptions, open_broker
from penstock.broker import Outgoing, Subscription
from penstock.errors import ArgumentError, PayloadError
from penstock.intake import Prefetch
from penstock.job import JOBS
from penstock.job_terms import backoff_delay, priority_of
from penstock.message import Message
from tests.servers.redis_server import Server

PATIENCE = 10.0


class Ledger:
    """What jobs have noted, and when there are enough of them."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self._changed = asyncio.Event()

    def note(self, line: Any) -> None:
        self.lines.append(line)
        self._changed.set()

    async def reach(self, count: int) -> list[Any]:
        async def enough() -> None:
            while len(self.lines) < count:
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(enough(), PATIENCE)
        return self.lines


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


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


class Mail(Job, queue="emails"):
    """Defined once; registered where a test needs it."""

    to: str
    copies: int = 1

    async def handle(self) -> None: ...


async def test_a_pushed_job_runs_with_its_fields_on_the_queue_it_names(app: App, ledger: Ledger):
    class Welcome(Job, queue="emails"):
        user: str
        tags: list[str]

        async def handle(self) -> None:
            ledger.note((self.user, self.tags, self.jid, self.tries))

    pushed = await app.push(Welcome("u1", ["a"]))
    assert 1 == await app.size("emails")
    await app.start_worker(WorkerOptions(queues=["emails"]))
    assert [("u1", ["a"], pushed.jid, 1)] == await ledger.reach(1)


async def test_the_chain_says_where_a_job_goes_and_the_push_goes_before_the_job(app: App):
    JOBS.add(Mail, "Mail")
    await app.push(Mail("a").on_queue("here")).on_queue("there").with_priority("high")
    await app.push(Mail("b").with_priority(10)).on_queue("there")
    await app.push(Mail("c")).on_queue("there").with_priority(-1)
    assert (0, 3) == (await app.size("here"), await app.size("there"))
    popped = [await app.pop("there") for _ in range(4)]
    assert ["b", "a", "c", None] == [job and getattr(job, "to", None) for job in popped]


async def test_an_urgent_job_goes_before_all_that_waits(app: App, ledger: Ledger):
    class Step(Job):
        name: str

        async def handle(self) -> None:
            ledger.note(self.name)

    for number in range(3):
        await app.push(Step(f"low{number}")).with_priority("low")
        await app.push(Step(f"default{number}"))
        await app.push(Step(f"high{number}")).with_priority("high")
    await app.push(Step("critical")).with_priority("critical")
    await app.start_worker(WorkerOptions(concurrency=1, prefetch=Prefetch(most=1)))
    assert [
        "critical",
        *("high0", "high1", "high2"),
        *("default0", "default1", "default2"),
        *("low0", "low1", "low2"),
    ] == await ledger.reach(10)


async def test_a_failing_job_is_tried_again_after_its_backoff_then_told_and_dead(app: App, ledger: Ledger):
    class Fails(Job):
        name: str

        async def handle(self) -> None:
            ledger.note(("handle", self.tries))
            raise ValueError("no")

        async def failed(self, error: BaseException) -> None:
            ledger.note(("failed", self.name, str(error)))
            raise RuntimeError("and this costs nothing")

    told: list[Any] = []
    options = WorkerOptions(on_failed=lambda job, error: told.append((job.jid, str(error))))
    job = await app.push(Fails("x")).attempts(3).backoff(0.01, 1.5)
    await app.start_worker(options)
    lines = await ledger.reach(4)
    assert [("handle", 1), ("handle", 2), ("handle", 3), ("failed", "x", "no")] == lines
    failed = await _failed(app, 1)
    assert [("Fails", {"name": "x"}, 3, "maxAttempts(3)", "ValueError: no")] == [
        (each.name, each.data, each.attempts, each.reason, each.error) for each in failed
    ]
    assert 1 == len(told)
    assert "no" == told[0][1]
    assert job.jid


async def _failed(app: App, count: int, queue: str = "default") -> list[Any]:
    """The dead letters, once there are so many: what is settled takes a moment to show."""

    async def there() -> list[Any]:
        while len(found := await app.get_failed(queue)) < count:
            await asyncio.sleep(0.01)
        return found

    return await asyncio.wait_for(there(), PATIENCE)


async def test_a_job_says_its_attempts_before_its_class_and_that_before_the_worker(app: App, ledger: Ledger):
    class Fails(Job, max_attempts=2, backoff=0.0):
        name: str

        def handle(self) -> None:
            ledger.note(self.name)
            raise ValueError("no")

    class Plain(Job, backoff=0.0):
        async def handle(self) -> None:
            ledger.note("plain")
            raise ValueError("no")

    await app.push(Fails("class"))
    await app.push(Fails("job")).attempts(1)
    await app.push(Plain())
    await app.start_worker(WorkerOptions(max_attempts=3))
    assert 3 == len(await _failed(app, 3))
    assert {"class": 2, "job": 1, "plain": 3} == {name: ledger.lines.count(name) for name in set(ledger.lines)}


def test_the_first_wait_is_the_seconds_named_and_the_longest_an_hour():
    assert [5.0, 10.0, 20.0] == [backoff_delay((5.0, 2.0), failures) for failures in (1, 2, 3)]
    assert [1.0, 2.0] == [backoff_delay(None, failures) for failures in (1, 2)]
    assert [3600.0, 3600.0] == [backoff_delay((5.0, 2.0), failures) for failures in (40, 100_000)]


@pytest.mark.parametrize(
    ("given", "named"), [("low", "low"), (0, "default"), (1, "high"), (10, "critical"), (-5, "low")]
)
def test_numbers_are_priorities_too(given: Any, named: str):
    assert named == priority_of(given)


@pytest.mark.parametrize("wrong", ["urgent", 1.5, None, True])
def test_what_is_no_priority_is_refused(wrong: Any):
    with pytest.raises(ArgumentError, match="critical, high, default, low"):
        Mail("a").with_priority(wrong)


async def test_a_class_with_an_init_of_its_own_gets_its_attributes_back_and_its_init_is_not_called(
    app: App, ledger: Ledger
):
    class Old(Job):
        def __init__(self, user: str) -> None:
            self.user = user
            self.many = [user] * 2
            ledger.note("init")

        def handle(self) -> None:
            ledger.note((self.user, self.many))

    loop = asyncio.get_running_loop()
    note = ledger.note
    ledger.note = lambda line: loop.call_soon_threadsafe(note, line)  # type: ignore[method-assign]
    await app.push(Old("u"))
    await app.start_worker()
    assert ["init", ("u", ["u", "u"])] == await ledger.reach(2)


async def test_what_no_worker_could_read_is_refused_before_anything_is_sent(app: App):
    with pytest.raises(PayloadError, match="int"):
        await app.push(Mail("a", "two"))  # type: ignore[arg-type]
    with pytest.raises(PayloadError):
        await app.push_many([Mail("a"), Mail("b", object())])  # type: ignore[arg-type]
    assert 0 == await app.size("emails")


async def test_many_are_pushed_each_as_it_says_itself(app: App):
    JOBS.add(Mail, "Mail")
    jobs = await app.push_many([Mail("a").on_queue("x:y"), Mail("b").on_queue("x:y").delay(60), Mail("c").attempts(7)])
    assert 3 == len({job.jid for job in jobs} - {""})
    assert (1, 1) == (await app.size("x:y"), await app.size("emails"))
    assert [] == await app.push_many([])


async def test_a_queue_that_refuses_its_part_of_many_does_not_hide_the_fate_of_the_others():
    app = App({"default": "memory://", "closed": open_broker("redis://127.0.0.1:1")})
    with pytest.raises(PublishError, match="1 of 2") as caught:
        await app.push_many([Mail("a"), Mail("b").on_connection("closed")])
    assert [True, False] == [isinstance(fate, str) for fate in caught.value.results]
    assert 1 == await app.size("emails")


async def test_a_popped_job_is_held_until_it_is_completed_failed_or_released(app: App, url: str):
    JOBS.add(Mail, "Mail")
    await app.push_many([Mail("done"), Mail("failed"), Mail("back")])
    done, failed, back = [await app.pop("emails") for _ in range(3)]
    assert done
    assert failed
    assert back
    assert (None, 0) == (await app.pop("emails"), await app.size("emails"))
    await app.complete(done)
    await app.fail(failed, ValueError("no"))
    await app.release(back)
    again = await app.pop("emails")
    assert again
    assert ("back", 1) == (getattr(again, "to", None), again.tries)
    assert [("failed", "ValueError: no")] == [(each.reason, each.error) for each in await app.get_failed("emails")]
    with pytest.raises(ConfigurationError, match="not popped"):
        await app.complete(done)


async def test_of_a_group_one_job_is_popped_at_a_time(app: App):
    JOBS.add(Mail, "Mail")
    await app.push_many([Mail("first").in_group("g"), Mail("second").in_group("g"), Mail("free")])
    first, free = await app.pop("emails"), await app.pop("emails")
    assert first
    assert ["first", "free"] == [getattr(each, "to", None) for each in (first, free)]
    assert None is await app.pop("emails")
    await app.complete(first)
    assert "second" == getattr(await app.pop("emails"), "to", None)


async def test_nothing_is_popped_from_a_queue_that_is_paused(app: App):
    JOBS.add(Mail, "Mail")
    await app.push_many([Mail("a"), Mail("b").with_priority("high")])
    await app.pause("emails")
    assert None is await app.pop("emails")
    await app.resume("emails")
    assert "b" == getattr(await app.pop("emails"), "to", None)


async def test_a_job_that_kills_who_pops_it_is_dead_after_a_few(app: App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("penstock.queueing.holding.LEASE", 0.05)
    JOBS.add(Mail, "Mail")
    await app.push(Mail("deadly"))
    broker = app.broker()
    subscription = Subscription(source="emails", lease=0.05, keyed=broker.capabilities.keyed)
    await broker.fetch(subscription, 1, 0.0)
    for _ in range(2):
        await asyncio.sleep(0.06)
        assert await broker.reclaim(subscription, 1)  # type: ignore[attr-defined]
    await asyncio.sleep(0.06)
    assert None is await app.pop("emails")
    assert ["poison"] == [each.reason for each in await app.get_failed("emails")]


async def test_what_the_dead_have_left_is_popped_though_there_is_more(app: App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("penstock.queueing.holding.LEASE", 0.05)
    JOBS.add(Mail, "Mail")
    await app.push_many([Mail("left"), Mail("next")])
    broker = app.broker()
    subscription = Subscription(source="emails", lease=0.05, keyed=broker.capabilities.keyed)
    await broker.fetch(subscription, 1, 0.0)
    await asyncio.sleep(0.06)
    assert "left" == getattr(await app.pop("emails"), "to", None)


async def test_what_is_held_when_the_app_closes_is_given_back(url: str):
    JOBS.add(Mail, "Mail")
    async with App(url) as first:
        await first.push(Mail("a"))
        assert await first.pop("emails")
    async with App(url) as second:

        async def popped() -> Job:
            while (job := await second.pop("emails")) is None:
                await asyncio.sleep(0.01)
            return job

        assert "a" == getattr(await asyncio.wait_for(popped(), PATIENCE), "to", None)


async def test_a_job_that_somebody_else_has_by_now_cannot_be_completed(app: App, monkeypatch: pytest.MonkeyPatch):
    JOBS.add(Mail, "Mail")
    await app.push(Mail("a"))
    job = await app.pop("emails")
    assert job

    async def lost(settlements: Any) -> Any:
        return [each.delivery for each in settlements]

    monkeypatch.setattr(app.broker(), "settle", lost, raising=False)
    with pytest.raises(LostLease, match="another worker"):
        await app.complete(job)


async def test_what_cannot_be_popped_as_a_job_is_dead_and_holds_up_nothing(app: App):
    JOBS.add(Mail, "Mail")
    broker = app.broker()
    await broker.open()
    bodies = [("Gone", b"{}"), ("Mail", b"{no json"), ("Mail", b'{"to":5}')]
    await broker.publish([Outgoing(destination="emails", message=Message(type=t, body=b)) for t, b in bodies])
    await app.push(Mail("fine"))
    job = await app.pop("emails")
    assert "fine" == getattr(job, "to", None)
    failed = await app.get_failed("emails")
    assert [("Gone", "unknownType"), ("Mail", "undecodable"), ("Mail", "undecodable")] == sorted(
        (each.name, each.reason) for each in failed
    )
    assert {b"{}", b"{no json", b'{"to":5}'} == {each.body for each in failed}


async def test_dead_jobs_of_every_priority_are_shown_put_back_and_cleared(app: App):
    JOBS.add(Mail, "Mail")
    for name, priority in (("1", "low"), ("2", "critical"), ("3", "default")):
        await app.push(Mail(name)).with_priority(priority)  # type: ignore[arg-type]
        job = await app.pop("emails")
        assert job
        await app.fail(job, ValueError(name))
    assert 3 == len(await app.get_failed("emails"))
    assert 2 == len(await app.get_failed("emails", 0, 1))
    assert 1 == await app.retry_failed("emails")
    assert (1, 2) == (await app.size("emails"), len(await app.get_failed("emails")))
    assert 2 == await app.clear_failed("emails")
    assert [] == await app.get_failed("emails")
    assert 1 == await app.clear("emails")
    assert 0 == await app.size("emails")


async def test_connections_have_names(url: str):
    JOBS.add(Mail, "Mail")
    async with App({"main": "memory://", "other": url}, default="main") as app:
        await app.push(Mail("a")).on_connection("other")
        assert (0, 1) == (await app.size("emails"), await app.size("emails", connection="other"))
        assert ("main", "other") == app.connections
        with pytest.raises(ConfigurationError, match="no connection 'third'; there are main, other"):
            await app.push(Mail("a")).on_connection("third")
    with pytest.raises(ConfigurationError, match="no connection 'x'"):
        App({"main": "memory://"}, default="x")
    with pytest.raises(ConfigurationError, match="at least one"):
        App({})


async def test_the_embedded_worker_starts_and_stops_with_the_app(url: str, ledger: Ledger):
    class Note(Job):
        async def handle(self) -> None:
            ledger.note("ran")

    async with App(url, auto_start_worker=True) as app:
        await app.push(Note())
        await ledger.reach(1)
        with pytest.raises(ConfigurationError, match="already running"):
            await app.start_worker()
        assert await app.stop_worker()
        assert await app.stop_worker()
        await app.push(Note())
        assert 1 == await app.size()
    assert ["ran"] == ledger.lines


async def test_jobs_with_perform_and_functions_run_beside_those_with_handle(app: App, ledger: Ledger):
    @app.job(queue="default")
    async def add(a: int, b: int) -> None:
        ledger.note(a + b)

    class Note(Job):
        async def handle(self) -> None:
            ledger.note("note")

    await add.perform_async(1, 2)
    await app.push(Note())
    await app.start_worker()
    assert {3, "note"} == set(await ledger.reach(2))


async def test_a_job_that_runs_out_of_time_has_failed(app: App, ledger: Ledger):
    class Slow(Job):
        async def handle(self) -> None:
            await asyncio.Event().wait()

        async def failed(self, error: BaseException) -> None:
            ledger.note(type(error).__name__)

    await app.push(Slow()).attempts(1)
    await app.start_worker(WorkerOptions(timeout=0.05))
    assert ["HandlerTimeout"] == await ledger.reach(1)


async def test_a_job_may_ask_for_another_try_as_often_as_it_has(app: App, ledger: Ledger):
    class Waits(Job):
        async def handle(self) -> Retry:
            ledger.note(self.tries)
            return Retry(0.0)

    await app.push(Waits()).attempts(2)
    await app.start_worker()
    (dead,) = await _failed(app, 1)
    assert ([1, 2], "maxAttempts(2)") == (ledger.lines, dead.reason)


async def test_a_job_that_kills_its_workers_is_told_once_it_is_dead(ledger: Ledger):
    class Deadly(Job):
        async def handle(self) -> None:
            raise AssertionError("it must not run again")

        async def failed(self, error: BaseException) -> None:
            ledger.note((self.jid, str(error)))

    async with App("memory://") as app:
        job = await app.push(Deadly())
        broker, subscription = app.broker(), Subscription(source="default", lease=0.001)
        await broker.fetch(subscription, 1, 0.0)
        for _ in range(3):
            await asyncio.sleep(0.005)
            assert await broker.reclaim(subscription, 1)  # type: ignore[attr-defined]
        await app.start_worker()
        assert [(job.jid, "poison")] == await ledger.reach(1)


def test_a_push_that_nobody_awaits_is_told_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        App().push(Mail("a"))
        gc.collect()
    assert ["the push of Mail(to='a', copies=1) was never awaited: nothing was sent"] == [
        str(each.message) for each in caught if each.category is RuntimeWarning
    ]


async def test_what_is_no_job_is_refused():
    class Empty(Job): ...

    with pytest.raises(ConfigurationError, match="has no handle"):
        App().push(Empty())
    with pytest.raises(ConfigurationError, match="an instance of a subclass"):
        App().push("Mail")  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match="a subclass of"):
        App().register_job_classes([str])  # type: ignore[list-item]
    App().register_job_classes([Mail])
    assert Mail is JOBS.resolve("Mail")
    with pytest.raises(ConfigurationError, match="queues are names"):
        WorkerOptions(queues="default")


async def test_what_makes_no_sense_is_refused_where_it_is_said(app: App):
    for wrong in ({"queues": ("a", "a")}, {"queues": ("a", "a:high")}, {"on_failed": 3}):
        with pytest.raises(ConfigurationError):
            WorkerOptions(**wrong)
    for count in (0, -1, 1.5):
        with pytest.raises(ConfigurationError, match="count"):
            await app.retry_failed("emails", count=count)  # type: ignore[arg-type]


async def test_fields_that_cannot_be_written_are_refused_at_once():
    class Strange(Job):
        what: complex

        async def handle(self) -> None: ...

    with pytest.raises(PayloadError, match="Strange cannot be written as JSON"):
        await App().push(Strange(1j))
