"""The virtual loop: waiting costs nothing, chance stays outside, and a deadlock is told at once."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from penstock.testing import Deadlock, VirtualClock, VirtualLoop, run_virtual
from penstock.testing.virtual import EPOCH


def test_an_hour_passes_at_once_and_exactly() -> None:
    async def program() -> float:
        clock = VirtualClock()
        began = clock.monotonic()
        await clock.sleep(3600)
        assert clock.time() == EPOCH + 3600
        return clock.monotonic() - began

    began = time.perf_counter()
    assert run_virtual(program()) == 3600
    assert time.perf_counter() - began < 5


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    async def program() -> list[int]:
        woken: list[int] = []

        async def sleeper(seconds: int) -> None:
            await asyncio.sleep(seconds)
            woken.append(seconds)

        await asyncio.gather(*map(sleeper, (30, 10, 20)))
        return woken

    assert run_virtual(program()) == [10, 20, 30]


def test_timeouts_are_virtual_too() -> None:
    async def program() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(500):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(program()) == pytest.approx(500)


def test_a_program_in_which_everybody_waits_fails_instead_of_hanging() -> None:
    async def program() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run_virtual(program())


async def _connect() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _use_a_thread() -> None:
    await asyncio.to_thread(time.perf_counter)


@pytest.mark.parametrize("program", [_connect, _use_a_thread])
def test_real_input_and_threads_are_refused(program: object) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        run_virtual(program())  # type: ignore[operator]


def test_a_call_from_another_thread_is_refused() -> None:
    async def program() -> list[Exception]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        errors: list[Exception] = []

        def call() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return errors

    assert "no threads" in str(run_virtual(program())[0])


def test_dice_make_sleepers_late_and_never_early() -> None:
    async def program() -> list[float]:
        clock = VirtualClock(dice=random.Random(1), lateness=0.5)
        found = []
        for _ in range(20):
            began = clock.monotonic()
            await clock.sleep(1.0)
            found.append(clock.monotonic() - began)
        return found

    found = run_virtual(program())
    assert all(1.0 <= seconds <= 1.5 for seconds in found)
    assert len(set(found)) == 20


def test_a_clock_may_be_wrong_about_the_time_of_day_only() -> None:
    async def program() -> tuple[float, float]:
        clock = VirtualClock(drift=-7.0)
        return clock.time() - EPOCH, clock.monotonic()

    assert run_virtual(program()) == (-7.0, 0.0)
