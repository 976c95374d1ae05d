"""Stopping several things: in order, each within its limit, all of them whatever happens, and nothing hushed up."""

from __future__ import annotations

import asyncio
import logging
import signal

import pytest

from penstock import ConfigurationError, Consumer, Producer, Worker, open_broker, stopping


class Part:
    """Notes what is done to it."""

    def __init__(self, name: str, notes: list[str], *, error: Exception | None = None) -> None:
        self.name, self.notes, self.error = name, notes, error

    async def close(self) -> None:
        self.notes.append(self.name)
        if self.error is not None:
            raise self.error


class Quietable(Part):
    async def quiet(self) -> None:
        self.notes.append(f"quiet {self.name}")


class Plain:
    """Closes without a coroutine."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def close(self) -> None:
        self.notes.append("plain")


class Endless(Part):
    async def close(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.notes.append(f"{self.name} cancelled")


class Deaf(Part):
    async def close(self) -> None:
        while True:
            try:
                await asyncio.sleep(60.0)
            except asyncio.CancelledError:
                self.notes.append("ignored")
                await asyncio.sleep(0.05)
                raise RuntimeError("too late for anybody") from None


async def test_everything_is_quieted_at_once_and_then_closed_in_the_order_given() -> None:
    notes: list[str] = []
    async with stopping(Part("publisher", notes), Plain(notes), Quietable("consumer", notes)):
        notes.append("running")
    assert ["running", "quiet consumer", "publisher", "plain", "consumer"] == notes


async def test_all_are_closed_even_if_some_fail_and_all_that_went_wrong_is_raised() -> None:
    notes: list[str] = []
    errors = [ValueError("one"), OSError("two")]
    first, second = Part("a", notes, error=errors[0]), Part("b", notes, error=errors[1])
    with pytest.raises(ExceptionGroup) as caught:
        async with stopping(first, second, Part("c", notes)):
            pass
    assert (["a", "b", "c"], errors) == (notes, list(caught.value.exceptions))


async def test_what_does_not_end_within_its_limit_is_left_behind_and_named() -> None:
    notes: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        async with stopping(Endless("a", notes), Part("b", notes), limit=0.05):
            pass
    (error,) = caught.value.exceptions
    assert (["a cancelled", "b"], TimeoutError) == (notes, type(error))
    assert "Endless.close() has not ended within 0.05 s and was left behind" == str(error)


async def test_what_ignores_its_cancellation_keeps_nobody_else_from_being_closed() -> None:
    notes: list[str] = []
    with pytest.raises(ExceptionGroup):
        async with stopping(Deaf("a", notes), Part("b", notes), limit=0.05):
            pass
    assert ["ignored", "b"] == notes


async def test_the_error_of_the_block_is_raised_and_that_of_a_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    with caplog.at_level(logging.ERROR, "penstock"), pytest.raises(KeyError, match="the block's"):
        async with stopping(Part("a", notes, error=ValueError("the part's")), Part("b", notes)):
            raise KeyError("the block's")
    assert (["a", "b"], ["while stopping: the part's"]) == (notes, [record.message for record in caplog.records])


async def test_a_cancellation_while_stopping_ends_one_wait_and_closes_the_rest() -> None:
    notes: list[str] = []

    async def run() -> None:
        async with stopping(Endless("a", notes), Part("b", notes)):
            pass

    task = asyncio.create_task(run())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["a cancelled", "b"] == notes


async def test_what_cannot_be_closed_is_refused_at_the_beginning() -> None:
    with pytest.raises(ConfigurationError, match=r"expected something with stop\(\) or close\(\), got 5"):
        async with stopping(5):
            raise AssertionError("the block must not begin")


async def test_a_publisher_that_is_closed_after_the_worker_serves_its_running_handlers_to_the_end() -> None:
    notes: list[str] = []
    began, broker = asyncio.Event(), open_broker("memory://")
    publisher = Part("publisher", notes)

    async def handle(job: dict[str, int]) -> None:
        began.set()
        await asyncio.sleep(0.05)
        notes.append("handled")

    await Producer(broker, "s", dict).send({})
    worker = Worker(Consumer(broker, "s", dict, handle))
    async with stopping(worker, publisher):
        await worker.start()
        await began.wait()
    assert ["handled", "publisher"] == notes


async def test_a_worker_as_a_context_manager_leaves_the_programs_signals_alone() -> None:
    async def handle(job: dict[str, int]) -> None: ...

    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGUSR1, signal.SIGHUP)
    before = [signal.getsignal(each) for each in watched]
    async with Worker(Consumer(open_broker("memory://"), "s", dict, handle)):
        assert before == [signal.getsignal(each) for each in watched]
    assert before == [signal.getsignal(each) for each in watched]
