"""Penstock on Kafka beside the bare client doing the same work, in the same run: ``python -m benchmarks.kafka``.

1. Consuming: a worker whose handler does nothing, and a loop of the client library that decodes the same JSON, calls the
   same function and commits after each batch that it has worked off.
2. Publishing a thousand messages at a time, each batch acknowledged by all replicas before the next; the same headers.

Only the ratios say something: rates depend on the machine, and on whoever else is busy on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import uuid
from typing import Any

import msgspec
from confluent_kafka import Consumer as BareConsumer
from confluent_kafka import Producer as BareProducer

from benchmarks.core import Target
from penstock import Consumer, Message, Worker, open_broker
from penstock.broker import Outgoing
from penstock.cli import loop
from tests.servers.kafka_server import KafkaServer, obtain
from tests.servers.redis_server import ServerUnavailableError

BATCH = 1000
PATIENCE = 120.0
BODY = msgspec.json.encode({"to": "somebody@example.org", "subject": "x" * 60, "number": 1})

TARGETS = (
    Target("consuming, ratio to the bare client", "consume", least=0.5),
    Target("publishing in batches, ratio to the bare client", "publish", least=0.6),
)


def main() -> int:
    """Measure, print, and with ``--check`` fail if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kafka", description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=50_000, help="messages of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    try:
        server = obtain()
    except ServerUnavailableError as missing:
        print(f"left out: {missing}", file=sys.stderr)
        return int(options.check)
    try:
        found = measure(server, options.messages, options.rounds)
    finally:
        server.stop()
    print(json.dumps(found) if options.json else table(found))
    missed = any("MISSED" in target.judge(found[target.path]["ratio"]) for target in TARGETS)
    return int(missed and options.check)


def measure(server: KafkaServer, count: int, rounds: int) -> dict[str, Any]:
    """Messages per second, the median of the rounds, and the ratios."""
    loop.settle_memory()  # as a worker on the command line does
    rates: dict[str, dict[str, list[float]]] = {name: {"ours": [], "bare": []} for name in ("publish", "consume")}
    for _ in range(rounds):
        stream = f"bench-{uuid.uuid4().hex[:8]}"
        rates["publish"]["ours"].append(count / loop.run(publish(server.url, stream, count), uvloop=True))
        rates["publish"]["bare"].append(count / publish_bare(server.bootstrap, stream, count))
        rates["consume"]["ours"].append(2 * count / loop.run(consume(server.url, stream, 2 * count), uvloop=True))
        rates["consume"]["bare"].append(2 * count / consume_bare(server.bootstrap, stream, 2 * count))
    found: dict[str, Any] = {}
    for name, each in rates.items():
        ours, bare = (statistics.median(each[who]) for who in ("ours", "bare"))
        found[name] = {"ours": round(ours), "bare": round(bare), "ratio": round(ours / bare, 2)}
    return found


async def publish(url: str, stream: str, count: int) -> float:
    """Seconds for ``count`` messages."""
    broker = open_broker(url, partitions=1)
    message = Message(type="job", body=BODY)
    await broker.open()
    await broker.publish([Outgoing(destination=stream, message=message)])  # makes the topic
    began = time.perf_counter()
    for _ in range(count // BATCH):
        await broker.publish([Outgoing(destination=stream, message=message) for _ in range(BATCH)])
    seconds = time.perf_counter() - began
    await broker.close()
    return seconds


def publish_bare(bootstrap: str, stream: str, count: int) -> float:
    """The same by hand."""
    producer = BareProducer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1})
    failures: list[Any] = []

    def reported(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(error)

    began = time.perf_counter()
    for batch in range(count // BATCH):
        for number in range(BATCH):
            ident = b"%d-%d" % (batch, number)
            headers = [("id", ident), ("type", b"job"), ("enqueued_at", b"%.3f" % time.time())]
            producer.produce(stream, BODY, on_delivery=reported, headers=headers)
        producer.flush()
    assert not failures
    return time.perf_counter() - began


async def consume(url: str, stream: str, count: int) -> float:
    """Seconds from the first message handled to the last one committed."""
    broker, done, finished = open_broker(url, partitions=1), 0, asyncio.Event()
    began = 0.0

    async def handle(_: dict[str, Any]) -> None:
        nonlocal done, began
        began = began or time.perf_counter()
        done += 1
        if done >= count:
            finished.set()

    consumer = Consumer(broker, stream, dict[str, Any], handle, concurrency=10)
    worker = Worker(consumer)
    await worker.start()
    async with asyncio.timeout(PATIENCE):
        await finished.wait()
        await worker.stop()  # which waits for what is being committed
    seconds = time.perf_counter() - began
    await broker.close()
    return seconds


def consume_bare(bootstrap: str, stream: str, count: int) -> float:
    """The same by hand: decode, call, commit each batch when it is done."""
    consumer = BareConsumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bare-{stream}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([stream])
    decode, done, began = msgspec.json.decode, 0, 0.0

    def handle(_: dict[str, Any]) -> None:
        nonlocal done
        done += 1

    while done < count:
        for message in consumer.consume(BATCH, 0.1):
            began = began or time.perf_counter()
            dict(message.headers() or ())
            message.key()
            handle(decode(message.value() or b"null"))
        if began:
            consumer.commit(asynchronous=False)
    seconds = time.perf_counter() - began
    consumer.close()
    return seconds


def table(found: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{'':50} {'ours':>10} {'bare':>10} {'ratio':>6}"]
    for target in TARGETS:
        each = found[target.path]
        lines.append(
            f"{target.name:50} {each['ours']:>10,} {each['bare']:>10,} {each['ratio']:>6} {target.judge(each['ratio'])}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
