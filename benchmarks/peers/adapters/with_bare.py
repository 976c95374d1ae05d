"""The measure of all: redis-py's asyncio client with hiredis, a stream, reads of 200, acks and deletes in a pipeline."""

from __future__ import annotations

from typing import Any

import msgspec
import redis.asyncio
import uvloop
from probe import URL, ran

from penstock.cli.bench_bare import GROUP, HEADERS, NAME, READ
from penstock.cli.bench_work import Job

BLOCKING = False
STREAM = "peers-bare"
encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Job).decode
client: Any = redis.asyncio.Redis.from_url(URL, protocol=2)


async def connect() -> None:
    await client.ping()


async def disconnect() -> None:
    await client.aclose()


async def single(job: dict[str, Any]) -> None:
    await client.xadd(STREAM, {b"headers": HEADERS, b"payload": encode(job)})


async def bulk(jobs: list[dict[str, Any]]) -> None:
    pipe = client.pipeline(transaction=False)
    for job in jobs:
        pipe.xadd(STREAM, {b"headers": HEADERS, b"payload": encode(job)})
    await pipe.execute()


async def handle(_job: Job) -> None:
    ran()


async def _work() -> None:
    await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    while True:
        reply = await client.xreadgroup(GROUP, NAME, {STREAM: ">"}, count=READ, block=2000)
        if not reply:
            continue
        ids: list[bytes] = []
        for ident, fields in reply[0][1]:
            await handle(decode(fields[b"payload"]))
            ids.append(ident)
        pipe = client.pipeline(transaction=False)
        pipe.xack(STREAM, GROUP, *ids)
        pipe.xdel(STREAM, *ids)
        await pipe.execute()


def work() -> None:
    uvloop.run(_work())
