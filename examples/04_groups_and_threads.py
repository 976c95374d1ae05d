"""Two groups on one stream, each of which gets every message; several consumers in one worker; plain functions in threads."""

import asyncio
import threading
import time

from penstock import Consumer, Producer, Worker, current, open_broker

broker = open_broker("sqlite:///images.db")
threads = set[str]()


def resize(job: dict) -> None:
    """A plain function: it may block, it does not disturb the others."""
    threads.add(threading.current_thread().name)
    time.sleep(0.05)
    context = current()
    assert context is not None
    print(f"{context.group}: {job['image']} resized")


async def index(job: dict) -> None:
    print(f"search: {job['image']} indexed")


async def audit(job: dict) -> None:
    print(f"audit: {job['line']}")


resizing = Consumer(broker, "images", dict, resize, group="resizing", concurrency=4)
search = Consumer(broker, "images", dict, index, group="search")
log = Consumer(broker, "audit", dict, audit)


async def main() -> None:
    async with Worker(resizing, search, log) as worker:
        while not worker.ready:  # a message goes to the groups that exist when it is sent
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await Producer(broker, "images", dict).send_many({"image": f"{number}.png"} for number in range(8))
        await Producer(broker, "audit", dict).send({"line": "eight images came in"})
        while (resizing.counters.acked, search.counters.acked, log.counters.acked) != (8, 8, 1):
            await asyncio.sleep(0.01)
        print(f"8 images of 50 ms each took {time.monotonic() - began:.2f} s in {len(threads)} threads")


asyncio.run(main())
