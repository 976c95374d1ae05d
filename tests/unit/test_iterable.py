"""Jobs that go through many things one by one."""

from __future__ import annotations

import asyncio
import csv
import io
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.context import Context as Running
from penstock.context import enter
from penstock.enumerators import (
    array_enumerator,
    batch_enumerator,
    record_batch_enumerator,
    record_enumerator,
    row_enumerator,
)
from penstock.errors import ArgumentError, ConfigurationError, LostLease
from penstock.iterable import FLUSH_INTERVAL, Interrupted, IterableJob, Iterations, IterationState, MemoryIterations
from penstock.testing.jobs import Testing


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


class Counts(IterableJob, wire_name="Counts"):
    """Goes through a list, and notes everything that is called."""

    log: list[Any]
    at: dict[Any, Any]

    def build_enumerator(self, *args: Any, cursor: Any) -> Any:
        return array_enumerator(args[0], cursor)

    def each_iteration(self, item: Any, *args: Any) -> None:
        self.log.append(item)
        action = self.at.get(item)
        if action is not None:
            action()

    def on_start(self) -> None:
        self.log.append("start")

    def on_resume(self) -> None:
        self.log.append("resume")

    def on_stop(self) -> None:
        self.log.append("stop")

    def on_cancel(self) -> None:
        self.log.append("cancel")

    def on_complete(self) -> None:
        self.log.append("complete")


class CountsAsync(Counts, wire_name="CountsAsync"):
    async def each_iteration(self, item: Any, *args: Any) -> None:
        Counts.each_iteration(self, item, *args)


KINDS = pytest.mark.parametrize("kind", [Counts, CountsAsync])


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def around(clock: Hands) -> Iterations:
    return Iterations(store=MemoryIterations(), clock=clock, max_runtime=100.0)


@pytest.fixture
def running() -> Iterator[Running]:
    context = Running(
        id="j", type="C", stream="q", group="g", worker="w", attempt=0, max_attempts=None, key=None, headers={},
        enqueued_at=None,
    )  # fmt: skip
    enter(context)
    yield context
    enter(None)  # type: ignore[arg-type]


def made(kind: type[Counts], around: Iterations, **at: Any) -> Counts:
    job = kind()
    job.jid, job.iterations, job.log = "j1", around, []
    job.at = {int(name[1:]): action for name, action in at.items()}
    return job


def raising(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


@KINDS
async def test_it_goes_through_all_items_and_forgets_its_state(kind: Any, around: Iterations) -> None:
    job = made(kind, around)
    await job.perform([10, 11, 12], "more")
    assert ["start", 10, 11, 12, "stop", "complete"] == job.log
    assert ([10, 11, 12], "more") == job.arguments
    assert IterationState() == await around.store.load("j1")


async def test_plain_items_are_worked_on_in_a_thread_and_others_on_the_loop(around: Iterations) -> None:
    threads: list[Any] = []
    for kind in (Counts, CountsAsync):
        job = made(kind, around, _1=lambda: threads.append(threading.current_thread() is threading.main_thread()))
        await job.perform([1])
    assert [False, True] == threads


@KINDS
async def test_a_stop_keeps_the_item_that_was_to_come_and_the_next_execution_begins_with_it(
    kind: Any, around: Iterations, running: Running
) -> None:
    job = made(kind, around, _11=lambda: setattr(running, "stopping", True))
    with pytest.raises(Interrupted):
        await job.perform([10, 11, 12, 13])
    assert ["start", 10, 11, "stop"] == job.log
    assert IterationState(executions=1, cursor=2) == await around.store.load("j1")
    running.stopping = False
    job = made(kind, around)
    await job.perform([10, 11, 12, 13])
    assert ["resume", 12, 13, "stop", "complete"] == job.log


@KINDS
async def test_an_error_keeps_the_item_that_failed(kind: Any, around: Iterations) -> None:
    job = made(kind, around, _11=raising(OSError("x")))
    with pytest.raises(OSError, match="x"):
        await job.perform([10, 11, 12])
    assert ["start", 10, 11] == job.log
    assert 1 == (await around.store.load("j1")).cursor


async def test_an_error_is_not_hidden_by_a_store_that_fails_as_well(
    around: Iterations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(around.store, "save", broken)
    with pytest.raises(OSError, match="x"):
        await made(Counts, around, _1=raising(OSError("x"))).perform([1])
    assert "could not be saved" in caplog.text


@KINDS
async def test_it_goes_back_to_its_queue_after_its_longest_run(kind: Any, around: Iterations, clock: Hands) -> None:
    job = made(kind, around, _11=lambda: setattr(clock, "now", clock.now + 101))
    with pytest.raises(Interrupted):
        await job.perform([10, 11, 12])
    state = await around.store.load("j1")
    assert (2, 101.0) == (state.cursor, state.runtime)


async def test_each_execution_gets_on_however_long_it_takes_to_begin(around: Iterations, clock: Hands) -> None:
    class Late(Counts):
        def build_enumerator(self, *args: Any, cursor: Any) -> Any:
            clock.now += 1000
            return array_enumerator(args[0], cursor)

    for item in (1, 2):
        job = made(Late, around)
        with pytest.raises(Interrupted):
            await job.perform([1, 2, 3])
        assert item == job.log[1]


@KINDS
async def test_the_state_is_saved_every_few_seconds(kind: Any, around: Iterations, clock: Hands) -> None:
    saved: list[Any] = []
    store: Any = around.store
    save = store.save

    async def noted(jid: str, state: IterationState) -> Any:
        saved.append(state.cursor)
        return await save(jid, state)

    store.save = noted

    def later() -> None:
        clock.now += FLUSH_INTERVAL / 2

    await made(kind, around, **{f"_{n}": later for n in range(7)}).perform(list(range(7)))
    assert [2, 4, 6] == saved


@KINDS
async def test_a_job_that_was_cancelled_before_works_on_nothing(kind: Any, around: Iterations) -> None:
    assert 5.0 == await around.store.cancel("j1", 5.0)
    assert 5.0 == await around.store.cancel("j1", 9.0)
    job = made(kind, around)
    await job.perform([1, 2])
    assert ["start", "cancel", "stop", "complete"] == job.log
    assert job.cancelled


@KINDS
async def test_a_job_that_is_cancelled_by_others_ends_when_its_state_is_saved(
    kind: Any, around: Iterations, clock: Hands
) -> None:
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        clock.now += FLUSH_INTERVAL
        if kind is Counts:
            asyncio.run_coroutine_threadsafe(around.store.cancel("j1", 7.0), loop).result(5)
        else:
            around.store._states["j1"] = IterationState(cancelled=7.0)  # type: ignore[attr-defined]

    job = made(kind, around, _2=cancel)
    await job.perform([1, 2, 3])
    assert ["start", 1, 2, "cancel", "stop", "complete"] == job.log


@KINDS
async def test_a_job_may_cancel_or_abort_itself(kind: Any, around: Iterations) -> None:
    job = made(kind, around)
    job.at = {2: job.cancel}
    await job.perform([1, 2, 3])
    assert ["start", 1, 2, "cancel", "stop", "complete"] == job.log
    job = made(kind, around)
    job.at = {2: job.abort}
    await job.perform([1, 2, 3])
    assert ["start", 1, 2, "stop", "complete"] == job.log


async def test_a_lost_lease_ends_it_without_touching_the_state_that_is_anothers(
    around: Iterations, running: Running
) -> None:
    await around.store.save("j1", IterationState(executions=4, cursor=0))
    job = made(Counts, around, _2=lambda: setattr(running, "lease_lost", True))
    with pytest.raises(LostLease):
        await job.perform([1, 2, 3])
    assert IterationState(executions=4, cursor=0) == await around.store.load("j1")


@KINDS
async def test_the_present_object_and_its_cursor_can_be_looked_at(kind: Any, around: Iterations) -> None:
    job, seen = made(kind, around), list[Any]()
    job.at = {12: lambda: seen.append((job.current_object, job.cursor))}
    assert (None, False) == (job.cursor, job.cancelled)
    await job.perform([10, 11, 12])
    assert [(12, 2)] == seen


async def test_something_may_be_put_around_each_item(around: Iterations) -> None:
    class Around(Counts):
        @contextmanager
        def around_iteration(self) -> Generator[None]:
            self.log.append("(")
            yield
            self.log.append(")")

    class AroundAsync(CountsAsync):
        def around_iteration(self) -> Any:
            return self._around()

        @asynccontextmanager
        async def _around(self) -> AsyncIterator[None]:
            self.log.append("(")
            yield
            self.log.append(")")

    class AroundBoth(Around):
        async def each_iteration(self, item: Any, *args: Any) -> None:
            self.log.append(item)

    for kind in (Around, AroundAsync, AroundBoth):
        job = made(kind, around)
        await job.perform([1, 2])
        assert ["start", "(", 1, ")", "(", 2, ")", "stop", "complete"] == job.log


async def test_the_items_may_come_from_an_asynchronous_generator(around: Iterations) -> None:
    class Streams(CountsAsync):
        async def build_enumerator(self, *args: Any, cursor: Any) -> Any:
            for n in range(cursor or 0, args[0]):
                yield n, n

    class StreamsPlain(Counts):
        async def build_enumerator(self, *args: Any, cursor: Any) -> Any:
            for n in range(cursor or 0, args[0]):
                yield n, n

    class Awaited(CountsAsync):
        async def build_enumerator(self, *args: Any, cursor: Any) -> Any:
            return array_enumerator(range(args[0]), cursor)

    for kind in (Streams, StreamsPlain, Awaited):
        job = made(kind, around)
        await job.perform(3)
        assert ["start", 0, 1, 2, "stop", "complete"] == job.log


async def test_no_enumerator_means_nothing_to_do(around: Iterations, caplog: pytest.LogCaptureFixture) -> None:
    class Nothing(Counts):
        def build_enumerator(self, *args: Any, cursor: Any) -> None:
            return None

    caplog.set_level("INFO", logger="penstock.job")
    job = made(Nothing, around)
    await job.perform()
    assert [] == job.log
    assert "returned None" in caplog.text


async def test_what_is_no_iterator_is_an_error_that_says_so(around: Iterations) -> None:
    class Wrong(Counts):
        def build_enumerator(self, *args: Any, cursor: Any) -> Any:
            return [1, 2]

    with pytest.raises(TypeError, match=r"must return an iterator of .*got list"):
        await made(Wrong, around).perform()


async def test_methods_that_are_missing_are_named(around: Iterations) -> None:
    class NoItems(IterableJob):
        def each_iteration(self, item: Any) -> None: ...

    class NoWork(IterableJob):
        def build_enumerator(self, *, cursor: Any) -> Any:
            return array_enumerator([1], cursor)

    with pytest.raises(ConfigurationError, match="NoItems must define build_enumerator"):
        await NoItems().perform()
    with pytest.raises(ConfigurationError, match="NoWork must define each_iteration"):
        await NoWork().perform()


def test_perform_is_not_yours_to_define() -> None:
    with pytest.raises(ConfigurationError, match="is iterable: define build_enumerator"):

        class Both(IterableJob):
            async def perform(self, *args: Any) -> None: ...


async def test_it_is_pushed_with_the_arguments_of_its_enumerator_and_runs_inline_as_well() -> None:
    done: list[Any] = []

    class Import(IterableJob, queue="imports"):
        def build_enumerator(self, path: str, start: int = 0, *, cursor: Any) -> Any:
            return array_enumerator([path, start], cursor)

        def each_iteration(self, item: Any, path: str, start: int = 0) -> None:
            done.append((item, self.jid))

    with Testing.mode("fake"):
        await Import.perform_async("a", start=7)
        (payload,) = Testing.jobs(Import)
        assert (["a", 7], "imports", "Import") == (payload["args"], payload["queue"], payload["class"])
        for wrong in ((), ("a", 1, 2)):
            with pytest.raises(ArgumentError):
                await Import.perform_async(*wrong)
        assert 1 == await Testing.drain(Import)
    assert [("a", payload["jid"]), (7, payload["jid"])] == done


async def test_a_stop_iteration_of_the_job_is_an_error(around: Iterations) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await made(Counts, around, _1=raising(StopIteration())).perform([1, 2])


async def test_an_item_that_takes_longer_than_a_stop_is_warned_of(
    around: Iterations, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    await made(Counts, around, _1=lambda: setattr(clock, "now", clock.now + 26)).perform([1])
    assert "one iteration took 26.0 s" in caplog.text


async def test_a_cursor_is_what_json_makes_of_it(around: Iterations) -> None:
    await around.store.save("j1", IterationState(cursor=("a", 1)))
    assert ["a", 1] == (await around.store.load("j1")).cursor


# ---------------------------------------------------------------------------------------------------------- enumerators


def test_a_list_is_gone_through_from_its_cursor_on() -> None:
    assert [("a", 0), ("b", 1)] == list(array_enumerator(["a", "b"], None))
    assert [("b", 1)] == list(array_enumerator(["a", "b"], 1))
    assert [] == list(array_enumerator(["a", "b"], 2))
    with pytest.raises(ConfigurationError, match="takes a list, got str"):
        array_enumerator("ab", None)


def test_rows_are_counted() -> None:
    rows = "a,1\nb,2\nc,3\n"
    assert [(["b", "2"], 1), (["c", "3"], 2)] == list(row_enumerator(csv.reader(io.StringIO(rows)), 1))
    assert [([1, 2], 0), ([3, 4], 1), ([5], 2)] == list(batch_enumerator([1, 2, 3, 4, 5], None, size=2))
    assert [([5], 2)] == list(batch_enumerator([1, 2, 3, 4, 5], 2, size=2))
    with pytest.raises(ConfigurationError, match="size is a whole number and at least 1, got 0"):
        list(batch_enumerator([1], None, size=0))


@pytest.mark.parametrize("cursor", [None, 1, 4, 9, 10, 11])
def test_records_are_gone_through_from_the_one_that_the_cursor_names(cursor: int | None) -> None:
    table = [SimpleNamespace(id=n) for n in range(1, 11)]

    def page(start: int | None, limit: int) -> list[SimpleNamespace]:
        return [record for record in table if start is None or record.id >= start][:limit]

    expected = list(range(cursor or 1, 11))
    pairs: Iterator[Any] = record_enumerator(page, cursor, size=3)
    assert [(n, n) for n in expected] == [(record.id, at) for record, at in pairs]
    batches = [([r.id for r in batch], at) for batch, at in record_batch_enumerator(page, cursor, size=3)]
    assert [(expected[i : i + 3], expected[i]) for i in range(0, len(expected), 3)] == batches
