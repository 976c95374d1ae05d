"""Penstock on SQS beside bare aiobotocore, in the same run on the same server: ``python -m benchmarks.sqs``.

Both sides send tens in as many calls at once, receive tens likewise, and delete each batch once it is done: the bare side
is what a good engineer would write on the client alone, without leases that are renewed, retries or dead letters. The
server is ElasticMQ, started for it. Only the ratios say something: the server takes most of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock import Consumer, Producer, Worker, open_broker
from penstock.cli import loop
from tests.servers.redis_server import ServerUnavailableError
from tests.servers.sqs_server import ElasticMQ

PARALLEL, TEN, CHUNK = 8, 10, 1000
TARGETS = {"consume": 0.5, "publish": 0.6}
HEADERS = {"type": {"DataType": "String", "StringValue": "msg"}}


class Job(msgspec.Struct):
    n: int
    text: str = "x" * 100


def main() -> int:
    """Measure, print, and with ``--check`` fail if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sqs", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=6_000, help="jobs of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    try:
        server = ElasticMQ()
    except ServerUnavailableError as missing:
        print(f"left out: {missing}", file=sys.stderr)
        return int(options.check)
    try:
        server.start()
        rounds = [loop.run(one_round(server, options.jobs), uvloop=True) for _ in range(options.rounds + 1)][1:]
    finally:
        server.stop()
    missed = False
    for name, least in TARGETS.items():
        ours, bare = ([each[side, name] for each in rounds] for side in ("ours", "bare"))
        ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
        missed |= ratio < least
        print(
            f"{name}: {ratio:.2f} of bare aiobotocore (at least {least}); {statistics.median(ours):,.0f}/s beside"
            f" {statistics.median(bare):,.0f}/s"
        )
    return int(options.check and missed)


async def one_round(server: ElasticMQ, count: int) -> dict[tuple[str, str], float]:
    """Messages per second of both sides, each on a queue of its own."""
    found: dict[tuple[str, str], float] = {}
    found["bare", "publish"], found["bare", "consume"] = await bare(server, count)
    found["ours", "publish"], found["ours", "consume"] = await ours(server, count)
    return found


async def ours(server: ElasticMQ, count: int) -> tuple[float, float]:
    queue, first = f"ours-{uuid.uuid4().hex[:8]}", asyncio.Event()
    broker = open_broker(server.url)
    await broker.open()
    producer = Producer(broker, queue, Job)
    await producer.send_many([Job(0)])
    began = time.perf_counter()
    for start in range(1, count, CHUNK):
        await producer.send_many([Job(n) for n in range(start, min(start + CHUNK, count))])
    published = time.perf_counter() - began

    async def handle(_job: Job) -> None:
        first.set()

    consumer = Consumer(broker, queue, Job, handle)
    worker = Worker(consumer)
    await worker.start()
    await first.wait()  # as the bare side, whose client is there when its clock starts
    began = time.perf_counter()
    while consumer.counters.acked < count:  # noqa: ASYNC110
        await asyncio.sleep(0.005)  # the counter is the worker's own, and rings no bell
    consumed = time.perf_counter() - began
    await worker.stop()
    await broker.close()
    return count / published, count / consumed


async def bare(server: ElasticMQ, count: int) -> tuple[float, float]:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    config = AioConfig(max_pool_connections=PARALLEL * 2)
    async with get_session().create_client("sqs", config=config, **server.client_options) as client:
        made = await client.create_queue(QueueName=f"bare-{uuid.uuid4().hex[:8]}")
        url = made["QueueUrl"]
        bodies = [json.dumps({"n": n, "text": "x" * 100}) for n in range(count)]
        tens = [bodies[start : start + TEN] for start in range(0, count, TEN)]
        began = time.perf_counter()
        await asyncio.gather(*(send(client, url, tens[lane::PARALLEL]) for lane in range(PARALLEL)))
        published = time.perf_counter() - began
        began = time.perf_counter()
        taken = await asyncio.gather(*(consume(client, url) for _ in range(PARALLEL)))
        consumed = time.perf_counter() - began
        assert count == sum(taken)
    return count / published, count / consumed


async def send(client: Any, url: str, tens: Sequence[Sequence[str]]) -> None:
    for ten in tens:
        entries = [{"Id": str(n), "MessageBody": body, "MessageAttributes": HEADERS} for n, body in enumerate(ten)]
        answer = await client.send_message_batch(QueueUrl=url, Entries=entries)
        assert len(answer["Successful"]) == len(ten)


async def consume(client: Any, url: str) -> int:
    taken = empty = 0
    while empty < 2:
        answer = await client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=TEN,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages = answer.get("Messages") or ()
        empty = 0 if messages else empty + 1
        if messages:
            for each in messages:
                json.loads(each["Body"])
            entries = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(messages)]
            await client.delete_message_batch(QueueUrl=url, Entries=entries)
            taken += len(messages)
    return taken


if __name__ == "__main__":
    sys.exit(main())
