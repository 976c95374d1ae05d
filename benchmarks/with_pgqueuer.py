"""PgQueuer's side of ``benchmarks.sql``, run by a Python that has it: ``with_pgqueuer.py URL JOBS ROUNDS``."""

import asyncio
import json
import statistics
import sys
import time

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

PAYLOAD = b'{"order":1,"email":"somebody@example.org","subject":"Your order is on its way","amount":19.95}'


async def main(url: str, jobs: int, rounds: int) -> None:
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    published, consumed = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(jobs // 1000):
            await queries.enqueue(["noop"] * 1000, [PAYLOAD] * 1000, [0] * 1000)
        published.append(jobs / (time.perf_counter() - began))
        manager, done = QueueManager(queries), 0

        @manager.entrypoint("noop")
        async def noop(job) -> None:
            nonlocal done
            json.loads(job.payload)
            done += 1

        began = time.perf_counter()
        await manager.run(batch_size=1000, mode=QueueExecutionMode.drain)
        consumed.append(jobs / (time.perf_counter() - began))
        assert done == jobs
    print(json.dumps({"publish": statistics.median(published), "consume": statistics.median(consumed)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
