"""Runs one side of one peer, inside that peer's own environment: ``python run.py with_rq produce|work|latency …``.

Knows nothing of penstock: what it imports is the standard library and the adapter. An adapter is a module with

- ``BLOCKING``: whether the library's client is a synchronous one,
- ``connect()``, ``single(job)``, ``bulk(jobs)``, ``disconnect()``: coroutine functions, also where the library blocks,
- ``work()``: a plain function that runs one worker in this process, as the library does it, until a signal ends it.

Handlers call ``ran()`` and do nothing else, so that counting costs every peer the same.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Coroutine
from typing import Any

WARM = 50  # sends before the clock starts: connections, scripts, caches
CHUNK = 1000  # jobs of one bulk call
PATIENCE = 10.0  # seconds for one job of the latency measurement


def payload(number: int) -> dict[str, Any]:
    """About a hundred bytes as JSON."""
    return {"order": number, "email": "somebody@example.org", "subject": "Your order is on its way", "amount": 19.95}


def execute(peer: Any, program: Coroutine[Any, Any, Any]) -> Any:
    """Run it: on a loop (uvloop), or, where everything blocks, by simply stepping into it."""
    if not peer.BLOCKING:
        import uvloop

        return uvloop.run(program)
    try:
        program.send(None)
    except StopIteration as ended:
        return ended.value
    raise RuntimeError("a blocking peer waited for a loop")


async def produce(peer: Any, singles: int, bulk: int) -> dict[str, Any]:
    """Jobs per second: one call after the other, and in bulk."""
    await peer.connect()
    for number in range(WARM):
        await peer.single(payload(number))
    began = time.perf_counter()
    for number in range(singles):
        await peer.single(payload(number))
    halfway = time.perf_counter()
    for start in range(0, bulk, CHUNK):
        await peer.bulk([payload(number) for number in range(start, min(start + CHUNK, bulk))])
    ended = time.perf_counter()
    await peer.disconnect()
    return {
        "sent": WARM + singles + bulk,
        "single_per_s": singles / (halfway - began),
        "bulk_per_s": bulk / (ended - halfway),
    }


async def latency(peer: Any, count: int, seconds: float) -> dict[str, Any]:
    """Milliseconds from the call of send to the handler, one job at a time, until one of the limits is met."""
    from probe import Reader

    found: list[float] = []
    reader = Reader(os.environ["PEERS_COUNTER"])
    await peer.connect()
    deadline = time.monotonic() + seconds
    while len(found) <= count and (len(found) < 3 or time.monotonic() < deadline):
        await _pause(peer, 0.005)
        before = reader.read().count
        sent_at = time.perf_counter_ns()
        await peer.single(payload(len(found)))
        given_up = time.monotonic() + PATIENCE
        while (now := reader.read()).count == before:
            if time.monotonic() > given_up:
                raise RuntimeError(f"a job was not executed within {PATIENCE:g} s")
            await _pause(peer, 0.0005)
        found.append((now.last - sent_at) / 1e6)
    await peer.disconnect()
    return {"latencies_ms": found[1:]}  # the first one opens connections


async def _pause(peer: Any, seconds: float) -> None:
    if peer.BLOCKING:
        time.sleep(seconds)  # noqa: ASYNC251 -- there is no loop
    else:
        await asyncio.sleep(seconds)


def main() -> None:
    """The command: the adapter's name, what to do, and numbers."""
    name, what, *numbers = sys.argv[1:]
    peer = importlib.import_module(name)
    if what == "work":
        peer.work()
    elif what == "produce":
        print(json.dumps(execute(peer, produce(peer, int(numbers[0]), int(numbers[1])))))
    else:
        print(json.dumps(execute(peer, latency(peer, int(numbers[0]), float(numbers[1])))))


if __name__ == "__main__":
    main()
