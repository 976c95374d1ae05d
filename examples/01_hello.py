"""The smallest program: send three jobs, run them, end. Nothing is installed or started; the jobs are in memory."""

import asyncio

from penstock import Consumer, Producer, Worker, open_broker

broker = open_broker("memory://")


async def greet(job: dict) -> None:
    print(f"hello, {job['name']}")


async def main() -> None:
    await Producer(broker, "greetings", dict).send_many([{"name": "Ada"}, {"name": "Grace"}, {"name": "Radia"}])
    consumer = Consumer(broker, "greetings", dict, greet)
    async with Worker(consumer):
        while consumer.counters.acked < 3:
            await asyncio.sleep(0.01)


asyncio.run(main())
