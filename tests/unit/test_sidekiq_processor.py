"""What runs a job and what becomes of it: the processor within a consumer and a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest

from penstock import Worker
from penstock.broker import Outgoing, Settlement
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.context import current
from penstock.job import DISCARD, KILL, Job
from penstock.job_registry import Jobs
from penstock.message import Message
from penstock.outcome import DISCARDED, Ack, DeadLetter, Release, Retry
from penstock.sidekiq.chain import Chain
from penstock.sidekiq.context import Context
from penstock.sidekiq.handlers import Handlers
from penstock.sidekiq.job_logger import JobLogger
from penstock.sidekiq.job_retry import Shutdown, Skip
from penstock.sidekiq.metrics import Tracker
from penstock.sidekiq.processor import Processor, ProcessorOptions

JID = "1590f30ec0eb3b7fd7d9247c"


class Told:
    """Handlers that remember."""

    def __init__(self) -> None:
        self.errors: list[tuple[BaseException, dict[str, Any]]] = []
        self.deaths: list[tuple[dict[str, Any], BaseException]] = []
        self.handlers = Handlers(
            errors=[lambda error, context: self.errors.append((error, dict(context)))],
            deaths=[lambda payload, error: self.deaths.append((payload, error))],
        )


class Watched(MemoryBroker):
    """A broker that remembers outcomes."""

    def __init__(self, system: MemorySystem | None = None) -> None:
        super().__init__(system)
        self.settled: list[Settlement[Any]] = []
        self.changed = asyncio.Event()

    async def settle(self, settlements: Any) -> Any:
        lost = await super().settle(settlements)
        self.settled += settlements
        self.changed.set()
        return lost


@pytest.fixture
def told() -> Told:
    return Told()


class Shop:
    """A worker of one queue, with classes of its own."""

    def __init__(self, told: Told, **options: Any) -> None:
        self.jobs: Jobs[Any] = Jobs()
        self.broker = Watched()
        self.told = told
        self.processor = Processor(self.jobs, ProcessorOptions(handlers=told.handlers, dice=Random(1), **options))
        self.consumer = self.processor.consumer(self.broker, "low", concurrency=4)

    def knows(self, cls: type[Any], name: str | None = None) -> None:
        self.jobs.add(cls, name or cls.__name__)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Worker]:
        async with Worker(self.consumer) as worker:
            yield worker
        self.processor.close()

    async def push(self, cls: type[Any] | str, *args: Any, attempt: int = 0, **headers: Any) -> None:
        name = cls if isinstance(cls, str) else cls.__name__
        if not isinstance(cls, str):
            self.knows(cls)
        message = Message(
            type=name,
            body=msgspec.json.encode(args),
            attempt=attempt,
            headers={"jid": JID, "created_at": 1795227213269} | headers,
        )
        await self.broker.open()
        await self.broker.publish([Outgoing(destination="low", message=message)])

    async def outcomes(self, count: int = 1) -> list[Any]:
        async with asyncio.timeout(5):
            while len(self.broker.settled) < count:
                self.broker.changed.clear()
                await self.broker.changed.wait()
        return [each.outcome for each in self.broker.settled]

    async def outcome(self, cls: type[Any] | str, *args: Any, **more: Any) -> Any:
        """Of one job, pushed and run."""
        await self.push(cls, *args, **more)
        async with self.open():
            return (await self.outcomes())[0]


@pytest.fixture
def shop(told: Told) -> Shop:
    return Shop(told)


def failing(error: BaseException | type[BaseException], **more: Any) -> type[Any]:
    """A class of jobs that raise."""

    class FailJob(Job, **more):
        async def perform(self, *_: Any) -> None:
            raise error

    return FailJob


# ------------------------------------------------------------------------------------------------------------ execution


async def test_a_coroutine_runs_on_the_loop_and_a_plain_function_in_a_thread_each_with_its_job_id(shop: Shop) -> None:
    seen: dict[str, Any] = {}

    class Async(Job):
        async def perform(self, n: int) -> None:
            seen["async"] = (n, self.jid, threading.current_thread() is threading.main_thread())

    class Plain(Job):
        def perform(self, n: int) -> None:
            inside = current()
            seen["plain"] = (n, self.jid, threading.current_thread() is threading.main_thread())
            seen["context"] = inside is not None and inside.type

    await shop.push(Async, 1)
    await shop.push(Plain, 2)
    async with shop.open():
        assert [Ack(), Ack()] == await shop.outcomes(2)
    assert {"async": (1, JID, True), "plain": (2, JID, False), "context": "Plain"} == seen
    assert shop.told.errors == []


async def test_each_execution_has_an_instance_of_its_own(shop: Shop) -> None:
    found: list[Any] = []

    class Keeps(Job):
        async def perform(self) -> None:
            found.append(self)

    await shop.push(Keeps)
    await shop.push(Keeps)
    async with shop.open():
        await shop.outcomes(2)
    assert found[0] is not found[1]


async def test_a_plain_wrapper_of_a_coroutine_function_is_awaited(shop: Shop) -> None:
    ran: list[int] = []

    class Wrapped(Job):
        def perform(self) -> Any:
            async def work() -> None:
                ran.append(1)

            return work()

    assert Ack() == await shop.outcome(Wrapped)
    assert [1] == ran


async def test_what_a_job_returns_is_not_looked_at(shop: Shop) -> None:
    class Chatty(Job):
        async def perform(self) -> Any:
            return Retry(1.0)

    assert Ack() == await shop.outcome(Chatty)


async def test_whole_numbers_of_any_size_arrive_as_they_were_sent(shop: Shop) -> None:
    found: list[Any] = []

    class Big(Job):
        async def perform(self, *args: Any) -> None:
            found.extend(args)

    shop.knows(Big)
    await shop.broker.open()
    body = b"[9007199254740993,18446744073709551616,10000000000000000000000000000000000000000,[],{}]"
    message = Message(type="Big", body=body)
    await shop.broker.publish([Outgoing(destination="low", message=message)])
    async with shop.open():
        await shop.outcomes()
    assert [2**53 + 1, 2**64, 10**40, [], {}] == found


# ------------------------------------------------------------------------------------------------------------- outcomes


async def test_a_failure_is_tried_again_and_reported_with_the_job_as_it_was(shop: Shop) -> None:
    error = OSError("boom")
    outcome = await shop.outcome(failing(error), "fail", 1, retry=5)
    assert isinstance(outcome, Retry)
    assert outcome.error is error
    assert outcome.counts
    assert 15 <= outcome.delay < 25  # type: ignore[operator]
    ((reported, context),) = shop.told.errors
    assert error is reported
    assert ("Job raised exception", "low", ["fail", 1], JID) == (
        context["context"],
        context["queue"],
        context["job"]["args"],
        context["job"]["jid"],
    )
    assert "error_class" not in context["job"]
    assert [] == shop.told.deaths


async def test_a_class_that_nobody_knows_is_tried_again(shop: Shop) -> None:
    outcome = await shop.outcome("NoSuch::Job", 1)
    assert isinstance(outcome, Retry)
    assert isinstance(outcome.error, NameError)
    assert "NoSuch::Job" in str(outcome.error)
    assert [] == shop.told.deaths


async def test_a_job_that_has_had_its_retries_is_dead_and_its_death_is_told(shop: Shop) -> None:
    error = OSError("last")
    outcome = await shop.outcome(failing(error), 1, retry=1, attempt=1)
    assert DeadLetter("", error) == outcome
    ((payload, told),) = shop.told.deaths
    assert error is told
    assert (1, "last", "OSError", JID) == tuple(
        payload[name] for name in ("retry_count", "error_message", "error_class", "jid")
    )


@pytest.mark.parametrize(
    ("headers", "kept"),
    [({"retry": 0}, True), ({"retry": 0, "dead": False}, False), ({"retry": False}, False)],
)
async def test_what_becomes_of_jobs_that_are_never_tried_again(
    shop: Shop, headers: dict[str, Any], *, kept: bool
) -> None:
    outcome = await shop.outcome(failing(OSError("x")), **headers)
    assert kept == isinstance(outcome, DeadLetter)
    assert kept or outcome is DISCARDED
    ((payload, _),) = shop.told.deaths
    assert (headers == {"retry": 0, "dead": False}) == ("discarded_at" in payload)
    assert ("retry_count" in payload) == (headers["retry"] is not False)
    assert 1 == len(shop.told.errors)


async def test_the_class_says_what_the_job_does_not(shop: Shop) -> None:
    assert DISCARDED is await shop.outcome(failing(OSError(), retry=False), retry=None)


async def test_the_configuration_says_how_often_jobs_are_tried_that_do_not_say(told: Told) -> None:
    shop = Shop(told, max_retries=3)
    assert isinstance(await shop.outcome(failing(OSError()), attempt=3), DeadLetter)


@pytest.mark.parametrize(("attempt", "dead"), [(0, False), (90, True)])
async def test_retry_for_counts_from_the_making_of_a_job_where_nothing_says_when_it_first_failed(
    shop: Shop, attempt: int, *, dead: bool
) -> None:
    made = int((shop.processor.options.clock.time() - 4000) * 1000)
    outcome = await shop.outcome(failing(OSError()), retry_for=3600, attempt=attempt, created_at=made)
    assert dead == isinstance(outcome, DeadLetter)
    if not dead:
        shop.broker.settled.clear()
        fresh = made + 3_999_000
        assert isinstance(await shop.outcome(failing(OSError()), retry_for=3600, attempt=90, created_at=fresh), Retry)


async def test_retry_in_names_the_wait_and_sees_count_error_and_payload(shop: Shop) -> None:
    seen: list[Any] = []
    error = OSError("later")
    cls = failing(error)

    @cls.retry_in
    def wait(count: int, raised: BaseException, payload: dict[str, Any]) -> int:
        seen.append((count, raised, payload["error_message"], payload["retry_count"]))
        return 3600

    outcome = await shop.outcome(cls, attempt=2)
    assert 3600 <= outcome.delay < 3630
    assert [(2, error, "later", 2)] == seen


async def test_retry_in_may_be_a_coroutine_function(shop: Shop) -> None:
    cls = failing(OSError())

    @cls.retry_in
    async def wait(_count: int) -> int:
        return 100

    assert 100 <= (await shop.outcome(cls)).delay < 110


@pytest.mark.parametrize(("answer", "dead"), [(KILL, True), (DISCARD, False)])
async def test_retry_in_may_send_the_job_elsewhere(shop: Shop, answer: str, *, dead: bool) -> None:
    cls = failing(OSError())
    cls.retry_in(lambda _count: answer)
    asked: list[str] = []
    cls.retries_exhausted(lambda payload: asked.append(payload["jid"]))
    outcome = await shop.outcome(cls)
    assert dead == isinstance(outcome, DeadLetter)
    assert dead or outcome is DISCARDED
    assert 1 == len(shop.told.deaths)
    assert ([JID] if dead else []) == asked


async def test_a_hook_that_fails_is_reported_and_the_default_holds(shop: Shop) -> None:
    broken = ValueError("the hook")
    cls = failing(OSError())

    def hook(*_: Any) -> None:
        raise broken

    cls.retry_in(hook)
    outcome = await shop.outcome(cls)
    assert 15 <= outcome.delay < 25
    assert broken is shop.told.errors[0][0]
    assert "retry_in" in shop.told.errors[0][1]["context"]


async def test_retries_exhausted_is_asked_at_the_end_and_not_before(shop: Shop) -> None:
    asked: list[Any] = []
    cls = failing(OSError("x"))
    cls.retries_exhausted(lambda payload, error: asked.append((payload["retry_count"], type(error))))
    await shop.push(cls, retry=2, attempt=1)
    await shop.push(cls, retry=2, attempt=2)
    async with shop.open():
        outcomes = await shop.outcomes(2)
    assert {Retry, DeadLetter} == {type(outcome) for outcome in outcomes}
    assert [(2, OSError)] == asked


async def test_retries_exhausted_may_keep_the_job_out_of_the_dead_set(shop: Shop) -> None:
    cls = failing(OSError())
    cls.retries_exhausted(lambda _payload, _error: DISCARD)
    assert DISCARDED is await shop.outcome(cls, retry=0)
    assert "discarded_at" in shop.told.deaths[0][0]


async def test_retries_exhausted_that_fails_does_not_keep_the_job_from_the_dead(shop: Shop) -> None:
    cls = failing(OSError())

    def hook(*_: Any) -> None:
        raise ValueError

    cls.retries_exhausted(hook)
    assert isinstance(await shop.outcome(cls, retry=0), DeadLetter)
    assert ["ValueError", "OSError"] == [type(error).__name__ for error, _ in shop.told.errors]


async def test_of_a_wrapped_job_the_hooks_of_what_is_wrapped_are_asked(shop: Shop) -> None:
    class Inner(Job):
        async def perform(self) -> None: ...

    Inner.retry_in(lambda _count: 500)
    outer = failing(OSError())
    outer.retry_in(lambda _count: 900)
    shop.knows(Inner, "Inner")
    assert 500 <= (await shop.outcome(outer, wrapped="Inner")).delay < 510


async def test_a_death_handler_that_fails_keeps_no_other_from_being_told(shop: Shop) -> None:
    def broken(*_: Any) -> None:
        raise ValueError

    shop.told.handlers.deaths.insert(0, broken)
    assert isinstance(await shop.outcome(failing(OSError()), retry=0), DeadLetter)
    assert 1 == len(shop.told.deaths)
    assert "Error calling death handler" == shop.told.errors[0][1]["context"]


async def test_an_error_handler_that_fails_is_logged_and_keeps_no_other_from_being_told(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError

    shop.told.handlers.errors.insert(0, broken)
    assert isinstance(await shop.outcome(failing(OSError())), Retry)
    assert 1 == len(shop.told.errors)
    assert "an error handler failed" in caplog.text


async def test_errors_that_nobody_handles_are_logged_with_their_traceback(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.told.handlers.errors.clear()
    caplog.set_level("INFO", logger="penstock.sidekiq")
    await shop.outcome(failing(OSError("boom")))
    (record,) = [record for record in caplog.records if record.name == "penstock.sidekiq"]
    assert "Job raised exception: OSError: boom" == record.message
    assert record.exc_info is not None
    assert JID == record.context["job"]["jid"]  # type: ignore[attr-defined]


async def test_skip_ends_a_job_in_silence(shop: Shop) -> None:
    assert Ack() == await shop.outcome(failing(Skip))
    assert [] == shop.told.errors


async def test_a_shutdown_gives_the_job_back_whatever_it_has_led_to(shop: Shop) -> None:
    class Chained(Job):
        async def perform(self) -> None:
            try:
                raise Shutdown
            except Shutdown as error:
                raise OSError("the connection went") from error

    await shop.push(Chained)
    async with shop.open():
        outcome = (await shop.outcomes())[0]
    assert Release() == outcome
    assert [] == shop.told.errors


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), StopIteration()])
async def test_whatever_is_raised_is_a_failure(shop: Shop, error: BaseException) -> None:
    class Plain(Job):
        def perform(self) -> None:
            raise error

    assert isinstance(await shop.outcome(Plain), Retry)


async def test_an_error_that_cannot_be_shown_is_recorded_by_its_name(shop: Shop) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    outcome = await shop.outcome(failing(Mute()))
    assert ("Mute", "!!! ERROR MESSAGE THREW AN ERROR !!!") == (type(outcome.error).__name__, str(outcome.error))


async def test_a_registry_that_breaks_down_costs_no_job(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.push(failing(OSError("x")))

    def broken(_: str) -> None:
        raise LookupError("down")

    monkeypatch.setattr(shop.jobs, "resolve", broken)
    monkeypatch.setattr(shop.processor, "_resolve", broken)
    async with shop.open():
        (outcome,) = await shop.outcomes()
    assert isinstance(outcome, Retry)
    assert ["LookupError"] == [type(error).__name__ for error, _ in shop.told.errors]


async def test_an_error_while_a_failure_is_handled_costs_no_job(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise LookupError("down")

    monkeypatch.setattr("penstock.sidekiq.job_retry.failed", broken)
    outcome = await shop.outcome(failing(OSError("x")))
    assert isinstance(outcome, Retry)
    assert ["Internal exception!", "Job raised exception"] == [context["context"] for _, context in shop.told.errors]


async def test_a_job_at_work_when_the_worker_stops_is_given_back(shop: Shop) -> None:
    started = asyncio.Event()

    class Slow(Job):
        async def perform(self) -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise OSError("lost the connection")  # noqa: B904 the implicit chain says why

    await shop.push(Slow)
    worker = Worker(shop.consumer)
    await worker.start()
    async with asyncio.timeout(5):
        await started.wait()
        await worker.stop(timeout=0.0)
    assert [Release()] == await shop.outcomes()
    assert [] == shop.told.errors


async def test_a_job_over_its_timeout_fails_like_any_other(shop: Shop) -> None:
    class Slow(Job):
        async def perform(self) -> None:
            await asyncio.sleep(60)

    await shop.push(Slow, timeout=0.02, retry=0)
    async with shop.open():
        (outcome,) = await shop.outcomes()
    assert isinstance(outcome, DeadLetter)
    assert "HandlerTimeout" == type(outcome.error).__name__


async def test_a_plain_job_over_its_timeout_is_waited_for(shop: Shop) -> None:
    class Slow(Job):
        def perform(self) -> None:
            context = current()
            assert context is not None
            while not context.timed_out:
                threading.Event().wait(0.005)

    assert Ack() == await shop.outcome(Slow, timeout=0.02)


async def test_what_is_no_job_is_told_to_the_error_handlers(told: Told) -> None:
    shop = Shop(told)
    await shop.broker.open()
    message = Message(type="HardJob", body=b'{"a":1}')
    await shop.broker.publish([Outgoing(destination="low", message=message)])
    async with shop.open():
        ((outcome),) = await shop.outcomes()
    assert isinstance(outcome, DeadLetter)
    shop.processor.refused(shop.broker.settled[0].delivery, outcome)
    async with asyncio.timeout(5):
        while not told.errors:
            await asyncio.sleep(0)
    assert ("Invalid JSON for job", '{"a":1}', "low") == tuple(
        told.errors[0][1][name] for name in ("context", "jobstr", "queue")
    )


# -------------------------------------------------------------------------------------------------- what stands around it


class Noting:
    """Server middleware that notes what it sees."""

    seen: list[Any] = []  # noqa: RUF012 cleared by each test

    async def call(self, job: Any, payload: dict[str, Any], queue: str, call_next: Callable[[], Any]) -> Any:
        self.seen.append((type(job).__name__, payload["args"], payload["class"], queue, job.jid))
        payload["args"].append("changed")
        return await call_next()


class Stopping:
    async def call(self, *_: Any) -> None:
        return None


class Raising:
    async def call(self, *_: Any) -> None:
        raise OSError("middleware")


async def test_middleware_sees_the_job_and_may_change_its_arguments(told: Told) -> None:
    chain, found = Chain(), list[Any]()
    chain.add(Noting)
    Noting.seen = []
    shop = Shop(told, chain=chain)

    class Seen(Job):
        def perform(self, *args: Any) -> None:
            found.append(args)

    assert Ack() == await shop.outcome(Seen, 1)
    assert ("Seen", "Seen", "low", JID) == (Noting.seen[0][0], *Noting.seen[0][2:])
    assert [(1, "changed")] == found


async def test_middleware_that_does_not_go_on_ends_the_job_and_one_that_raises_fails_it(told: Told) -> None:
    for kind, expected in ((Stopping, Ack), (Raising, Retry)):
        chain = Chain()
        chain.add(kind)
        shop, ran = Shop(told, chain=chain), list[int]()

        class Never(Job):
            async def perform(self) -> None:
                ran.append(1)  # noqa: B023 each round has its own class

        assert expected is type(await shop.outcome(Never))
        assert [] == ran


async def test_a_failure_within_middleware_sees_the_arguments_as_they_were(told: Told) -> None:
    chain = Chain()
    chain.add(Noting)
    Noting.seen = []
    shop = Shop(told, chain=chain)
    await shop.push(failing(OSError("x")), 1)
    async with shop.open():
        (outcome,) = await shop.outcomes()
    assert isinstance(outcome, Retry)
    assert [1] == told.errors[0][1]["job"]["args"]
    assert b"[1]" == shop.broker.settled[0].delivery.message.body


async def test_the_log_tells_of_start_and_end_in_the_context_of_the_job(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []
    caplog.set_level("INFO", logger="penstock.job")
    shop = Shop(told, job_logger=JobLogger(attributes=("tags", "shop")))

    class Fine(Job):
        async def perform(self) -> None:
            lines.append(("within", dict(Context.current())))
            self.logger.info("hello")

    await shop.outcome(Fine, tags=["a"], shop=7, other=1)
    assert ["start", "hello", "done"] == [r.message for r in caplog.records if r.name == "penstock.job"]
    assert {"jid": JID, "class": "Fine", "tags": ["a"], "shop": 7} == lines[0][1]


async def test_a_job_that_fails_is_logged_as_such(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="penstock.job")
    shop = Shop(told, job_logger=JobLogger())
    contexts: list[Any] = []
    told.handlers.errors.append(lambda *_: contexts.append(dict(Context.current())))
    await shop.outcome(failing(OSError("x")))
    assert ["start", "fail"] == [r.message for r in caplog.records if r.name == "penstock.job"]
    assert JID == contexts[0]["jid"]


async def test_a_job_may_ask_for_a_log_level_of_its_own(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR", logger="penstock.job")
    caplog.handler.setLevel(0)
    shop = Shop(told, job_logger=JobLogger())

    class Talks(Job):
        async def perform(self) -> None:
            self.logger.debug("hello")

    await shop.push(Talks)
    await shop.push(Talks, log_level="debug")
    async with shop.open():
        await shop.outcomes(2)
    assert ["start", "hello", "done"] == [r.message for r in caplog.records if r.name == "penstock.job"]


async def test_a_log_level_that_there_is_not_is_no_failure(told: Told) -> None:
    class Fine(Job):
        async def perform(self) -> None: ...

    shop = Shop(told, job_logger=JobLogger())
    await shop.push(Fine, log_level="silly")
    async with shop.open():
        assert [Ack()] == await shop.outcomes()


async def test_a_job_logger_that_fails_does_not_give_a_job_retries_without_end(told: Told) -> None:
    class Broken(JobLogger):
        def prepare(self, payload: Any) -> Any:
            raise LookupError("no log")

        def enabled(self) -> bool:
            return True

    shop = Shop(told, job_logger=Broken())
    outcome = await shop.outcome(failing(OSError()), retry=0)
    assert isinstance(outcome, DeadLetter)
    assert ["no log"] == [str(error.args[0]) for error, _ in told.errors]


async def test_a_job_logger_without_lines_still_sets_the_context(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="penstock.job")
    shop, found = Shop(told, job_logger=JobLogger(lines=False)), list[Any]()

    class Fine(Job):
        async def perform(self) -> None:
            found.append(Context.current()["jid"])

    await shop.outcome(Fine)
    assert [JID] == found
    assert [] == [r for r in caplog.records if r.name == "penstock.job"]


async def test_executions_and_failures_are_tracked_by_what_people_call_the_job(told: Told) -> None:
    tracker = Tracker()
    shop = Shop(told, tracker=tracker)

    class Fine(Job):
        async def perform(self) -> None: ...

    await shop.push(Fine)
    await shop.push(Fine, wrapped="Real")
    await shop.push(failing(OSError()))
    async with shop.open():
        await shop.outcomes(3)
    found = {name: (runs, failures) for name, (runs, failures, *_) in tracker._runs.items()}
    assert {"Fine": (1, 0), "Real": (1, 0), "FailJob": (1, 1)} == found


async def test_what_ends_early_is_tracked_as_a_run(told: Told) -> None:
    tracker = Tracker()
    await Shop(told, tracker=tracker).outcome(failing(Skip))
    assert {"FailJob": [1, 0]} == {name: numbers[:2] for name, numbers in tracker._runs.items()}


async def test_a_failure_in_middleware_is_tracked(told: Told) -> None:
    chain, tracker = Chain(), Tracker()
    chain.add(Raising)
    await Shop(told, tracker=tracker, chain=chain).outcome(failing(OSError()))
    assert {"FailJob": [1, 1]} == {name: numbers[:2] for name, numbers in tracker._runs.items()}
