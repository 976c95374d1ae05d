"""The batcher: group commit without one caller paying for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from penstock.batching import Batcher
from penstock.errors import ConnectionFailed, PublishError


class Sink:
    """A flush whose every call waits until the test lets it go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gates: list[asyncio.Future[Exception | None]] = []

    async def flush(self, items: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(items))
        gate: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        error = await gate
        if error is not None:
            raise error
        return [f"id-{item}" for item in items]

    async def called(self, times: int) -> None:
        while len(self.gates) < times:
            await asyncio.sleep(0)

    def let_go(self, error: Exception | None = None) -> None:
        next(gate for gate in self.gates if not gate.done()).set_result(error)


async def _submit(batcher: Batcher[str], *items: str) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_lone_caller_waits_for_nobody_and_those_who_come_meanwhile_share_the_next_trip() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush)
    tasks = await _submit(batcher, "a", "b", "c")
    assert sink.batches == [["a"]]
    sink.let_go()
    await sink.called(2)
    assert sink.batches == [["a"], ["b", "c"]]
    sink.let_go()
    assert await asyncio.gather(*tasks) == ["id-a", "id-b", "id-c"]


async def test_order_is_kept_and_no_batch_is_larger_than_the_limit() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush, limit=3)
    tasks = await _submit(batcher, *"abcdefgh")
    for trip in range(1, 5):
        await sink.called(trip)
        sink.let_go()
    assert await asyncio.gather(*tasks) == [f"id-{item}" for item in "abcdefgh"]
    assert sink.batches == [["a"], ["b", "c", "d"], ["e", "f", "g"], ["h"]]


async def test_cancelling_a_waiting_caller_takes_out_its_item_and_disturbs_nobody() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush)
    first, second, third = await _submit(batcher, "a", "b", "c")
    second.cancel()
    sink.let_go()
    await sink.called(2)
    sink.let_go()
    assert [await first, await third] == ["id-a", "id-c"]
    assert sink.batches == [["a"], ["c"]]
    assert second.cancelled()


async def test_cancelling_a_caller_whose_batch_is_under_way_disturbs_nobody() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush)
    first, second, third = await _submit(batcher, "a", "b", "c")
    sink.let_go()
    await sink.called(2)
    second.cancel()
    sink.let_go()
    assert [await first, await third] == ["id-a", "id-c"]


async def test_cancelling_the_caller_that_flushes_by_itself_lets_the_others_go_on() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush)
    first, second = await _submit(batcher, "a", "b")
    first.cancel()
    await sink.called(2)
    sink.let_go()
    assert await second == "id-b"
    assert first.cancelled()


async def test_each_caller_gets_the_fate_of_its_own_item() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush)
    first, second, third = await _submit(batcher, "a", "b", "c")
    sink.let_go(PublishError([ValueError("bad a")]))
    await sink.called(2)
    sink.let_go(PublishError(["id-b", ValueError("bad c")]))
    with pytest.raises(ValueError, match="bad a"):
        await first
    assert await second == "id-b"
    with pytest.raises(ValueError, match="bad c"):
        await third


async def test_a_lost_connection_fails_its_batch_and_the_next_one_is_tried_anew() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush)
    first, second, third = await _submit(batcher, "a", "b", "c")
    sink.let_go()
    await sink.called(2)
    sink.let_go(ConnectionFailed("gone"))
    results = await asyncio.gather(first, second, third, return_exceptions=True)
    assert [type(result) for result in results] == [str, ConnectionFailed, ConnectionFailed]
    (again,) = await _submit(batcher, "d")
    sink.let_go()
    assert await again == "id-d"


async def test_beyond_the_backlog_callers_wait_for_room() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush, backlog=2)
    tasks = await _submit(batcher, *"abcde")
    sink.let_go()
    await sink.called(2)
    assert sink.batches[1] == ["b", "c"]
    sink.let_go()
    await sink.called(3)
    sink.let_go()
    assert await asyncio.gather(*tasks) == [f"id-{item}" for item in "abcde"]
