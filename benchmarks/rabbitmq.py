"""penstock beside bare aio-pika on one RabbitMQ: ``python -m benchmarks.rabbitmq``.

Both use the same quorum queue arguments, persistent messages, publisher confirms, acks after the work. The bare consumer
is the usual one: a prefetch window, a callback for each message, an ack for each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import aio_pika

from penstock import Consumer, Producer, Worker, open_broker
from tests.servers.rabbitmq_server import OwnRabbitmq, obtain_rabbitmq

BATCH = 1000
PREFETCH = 1000


async def bare_publish(url: str, count: int) -> float:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue("bare", durable=True, arguments={"x-queue-type": "quorum"})
        began = time.perf_counter()
        for start in range(0, count, BATCH):
            messages = [
                aio_pika.Message(
                    json.dumps({"n": n}).encode(), type="msg", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
                )
                for n in range(start, min(start + BATCH, count))
            ]
            await asyncio.gather(*(channel.default_exchange.publish(m, "bare", mandatory=True) for m in messages))
        return time.perf_counter() - began


async def bare_consume(url: str, count: int) -> float:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue("bare")
        done, left = asyncio.Event(), count

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal left
            json.loads(message.body)
            await message.ack()
            left -= 1
            if not left:
                done.set()

        began = time.perf_counter()
        await queue.consume(handle)
        await done.wait()
        return time.perf_counter() - began


async def our_publish(url: str, count: int) -> float:
    broker = open_broker(url)
    producer: Producer[Any] = Producer(broker, "ours", dict)
    await producer.send({"n": 0})
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        await producer.send_many([{"n": n} for n in range(start, min(start + BATCH, count))])
    seconds = time.perf_counter() - began
    await broker.close()
    return seconds


async def our_consume(url: str, count: int) -> float:
    broker, done, left = open_broker(url), asyncio.Event(), count + 1

    async def handle(_: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    consumer = Consumer(broker, "ours", dict, handle, group="bench")
    await broker.open()
    await consumer.join()
    await asyncio.sleep(0)
    worker = Worker(consumer)
    began = time.perf_counter()
    async with worker:
        await done.wait()
        seconds = time.perf_counter() - began
    await broker.close()
    return seconds


async def measure(url: str, count: int) -> dict[str, float]:
    # The group exists, so that nothing goes by way of the backlog
    broker = open_broker(url)
    await Consumer(broker, "ours", dict, _nothing, group="bench").join()
    await broker.close()
    return {
        "publish bare": count / await bare_publish(url, count),
        "publish ours": count / await our_publish(url, count),
        "consume bare": count / await bare_consume(url, count),
        "consume ours": count / await our_consume(url, count),
    }


async def _nothing(_: dict[str, Any]) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rabbitmq", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    server = obtain_rabbitmq()
    try:
        for _ in range(options.rounds):
            url = server.vhost()
            rates = asyncio.run(measure(url, options.jobs))
            server.drop(url)
            for verb, least in (("publish", 0.6), ("consume", 0.5)):
                ours, bare = rates[f"{verb} ours"], rates[f"{verb} bare"]
                print(f"{verb}: {ours:8.0f}/s, bare aio-pika {bare:8.0f}/s, ratio {ours / bare:.2f} (target ≥ {least})")
    finally:
        if isinstance(server, OwnRabbitmq):
            server.stop()


if __name__ == "__main__":
    main()
