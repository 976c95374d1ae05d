"""Events beside the bare client, in the same run: ``python -m benchmarks.events``.

1. ``BatchedEventPublisher``: events added one after the other and flushed, against pipelines of XADDs of as many ready
   texts. Ours validates nothing here, but makes the envelopes, with ids, times and hashes.
2. ``EventConsumer`` with a handler of body and header that does nothing, against a loop of XREADGROUP, a JSON parser,
   XACK and XDEL. Both handle the same entries, and each entry is an event that every consumer reads.

Only the ratios say something: rates depend on the machine, and on whoever else is busy on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from typing import Any

import msgspec
import redis.asyncio

from benchmarks.core import Target
from penstock import BatchedEventPublisher, EventBatch, EventConsumer, EventHeader, open_broker
from penstock.cli import loop
from tests.servers.redis_server import OwnServer, ServerUnavailableError, find_binary

STREAM, TYPE, READ, CHUNK = "user-events", "user.created", 200, 1000
DATA = (
    b'{"pattern":"user.created","data":{"header":{"id":"9e49e969-1c5a-411f-978c-6d2616eeb37e","type":"svc.user.created",'
    b'"origin":"svc","timestamp":"2026-11-21T00:11:13.417Z","hash":'
    b'"757b916b404e8768f3a0e205865f7dc0d9c6baa464b3ad40fcc67bfef81d76c5","version":"1.0.0"},"body":%b}}'
)

TARGETS = (
    Target("consume, ratio to the bare loop", "consume", least=0.5),
    Target("batched publish, ratio to a pipeline", "publish", least=0.7),
)


def body(number: int) -> dict[str, Any]:
    return {"userId": str(number), "name": "John Doe", "email": "john@example.com", "plan": "free", "visits": number}


def main() -> int:
    """Measure, print, and with ``--check`` fail if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=50_000, help="events of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    logging.getLogger("penstock").setLevel(logging.ERROR)
    try:
        server = OwnServer(find_binary("redis")).start()
    except ServerUnavailableError as missing:
        print(f"left out: {missing}", file=sys.stderr)
        return int(options.check)
    try:
        loop.settle_memory()  # as a worker on the command line does
        found = loop.run(measure(server, options.events, options.rounds), uvloop=True)
    finally:
        server.stop()
    print(json.dumps(found) if options.json else table(found, options.events))
    missed = any("MISSED" in target.judge(found[target.path]["ratio"]) for target in TARGETS)
    return int(missed and options.check)


async def measure(server: OwnServer, count: int, rounds: int) -> dict[str, Any]:
    """Events per second, the median of the rounds, and the medians of their ratios."""
    rates: dict[str, dict[str, list[float]]] = {name: {"ours": [], "bare": []} for name in ("publish", "consume")}
    for _ in range(rounds):
        server.flush()
        rates["publish"]["ours"].append(count / await publish(server.url, count))
        rates["consume"]["ours"].append(count / await consume(server.url, count))
        server.flush()
        rates["publish"]["bare"].append(count / await publish_bare(server.url, count))
        rates["consume"]["bare"].append(count / await consume_bare(server.url, count))
    return {
        name: {
            "ours_per_s": round(statistics.median(each["ours"])),
            "bare_per_s": round(statistics.median(each["bare"])),
            "ratio": statistics.median(a / b for a, b in zip(each["ours"], each["bare"], strict=True)),
        }
        for name, each in rates.items()
    }


async def publish(url: str, count: int) -> float:
    broker = open_broker(url)
    batch = EventBatch(max_size=CHUNK, max_wait=1)
    async with BatchedEventPublisher(broker, origin="svc", batch=batch) as publisher:
        await publisher.publish_many(TYPE, [body(0)])  # connected, as the bare client is
        began = time.perf_counter()
        for number in range(1, count):
            await publisher.add(TYPE, body(number))
        await publisher.flush()
        taken = time.perf_counter() - began
        assert not publisher.failed_messages()
    await broker.close()
    return taken


async def consume(url: str, count: int) -> float:
    broker, done, seen = open_broker(url), asyncio.Event(), 0
    consumer = EventConsumer(broker, stream=STREAM, group="bench")

    @consumer.on(TYPE)
    async def created(_body: Any, _header: EventHeader) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    began = time.perf_counter()
    async with consumer:
        await done.wait()
        for running in consumer.consumer.running:
            await running.ledger.idle.wait()
        taken = time.perf_counter() - began
    await broker.close()
    return taken


async def publish_bare(url: str, count: int) -> float:
    client: Any = redis.asyncio.Redis.from_url(url, protocol=2)
    await client.ping()
    began = time.perf_counter()
    for start in range(0, count, CHUNK):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + CHUNK, count)):
            pipe.xadd(STREAM, {b"data": DATA % msgspec.json.encode(body(number))})
        await pipe.execute()
    taken = time.perf_counter() - began
    await client.aclose()
    return taken


async def consume_bare(url: str, count: int) -> float:
    client: Any = redis.asyncio.Redis.from_url(url, protocol=2)
    await client.xgroup_create(STREAM, "bench", id="0", mkstream=True)
    done = 0
    began = time.perf_counter()
    while done < count:
        reply = await client.xreadgroup("bench", "bare", {STREAM: ">"}, count=READ, block=2000)
        ids: list[bytes] = []
        for ident, fields in reply[0][1]:
            event = msgspec.json.decode(fields[b"data"])["data"]
            await handle(event["body"], event["header"])
            ids.append(ident)
        pipe = client.pipeline(transaction=False)
        pipe.xack(STREAM, "bench", *ids)
        pipe.xdel(STREAM, *ids)
        await pipe.execute()
        done += len(ids)
    taken = time.perf_counter() - began
    await client.aclose()
    return taken


async def handle(_body: Any, _header: Any) -> None:
    """Nothing to do."""


def table(found: dict[str, Any], count: int) -> str:
    """The rates beside each other, then the targets."""
    lines = [f"{count:,} events a round", f"  {'per second':36}{'penstock':>10}{'bare':>10}{'ratio':>8}"]
    lines += [
        f"  {name:36}{each['ours_per_s']:>10,}{each['bare_per_s']:>10,}{each['ratio']:>8.2f}"
        for name, each in found.items()
    ]
    lines += [
        f"  {target.name:36}{found[target.path]['ratio']:>10.2f}  {target.judge(found[target.path]['ratio'])}"
        for target in TARGETS
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
