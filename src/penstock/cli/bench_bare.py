"""The same work without penstock: what a good engineer would write on the bare client, as the measure of ours.

It promises less: no lease, no retry, no dead letter, no recovery. Methods are those of ``bench_work.Ours``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..errors import MissingExtra
from .bench_work import CHUNK, Job, job

READ = 200  # entries of one XREADGROUP
CLAIM = 100  # rows of one claim
HEADERS = b'{"type":"msg","attempt":0,"enqueuedAt":1735689600000}'  # so that both sides write the same entries
GROUP, NAME, QUEUE = "bench", "bare", "bench"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Job).decode


class Bare(Protocol):
    """The other side of a comparison."""

    async def open(self) -> None:
        """Connect, make what is needed."""
        ...

    async def close(self) -> None:
        """Disconnect, leave nothing behind."""
        ...

    async def awaited(self, count: int) -> float:
        """One message after the other; the seconds."""
        ...

    async def batched(self, count: int) -> float:
        """As the client does batches; the seconds."""
        ...

    async def consume(self) -> tuple[int, float]:
        """All that was published; how many, and the seconds."""
        ...


async def handle(_job: Job) -> None:
    """The handler: nothing to do."""


class RedisBare:
    """redis-py, its asyncio client with hiredis; streams read in batches, acked and deleted in pipelines.

    ``leftovers``: keys of the other side, deleted with its own when it closes.
    """

    def __init__(self, url: str, stream: str, leftovers: Sequence[str] = ()) -> None:
        try:
            import redis.asyncio
        except ImportError as missing:  # with glide:// alone
            raise MissingExtra("redis", "redis") from missing
        scheme, _, rest = url.partition("://")
        scheme = scheme.replace("valkey", "redis").replace("glide", "redis")
        client: Any = redis.asyncio.Redis
        self._redis = client.from_url(f"{scheme}://{rest}", protocol=2)
        self._stream, self._backlog = stream, 0
        self._leftovers = (stream, *leftovers)

    async def open(self) -> None:
        await self._redis.xgroup_create(self._stream, GROUP, id="0", mkstream=True)

    async def close(self) -> None:
        await self._redis.delete(*self._leftovers)
        await self._redis.aclose()

    async def awaited(self, count: int) -> float:
        xadd, stream, self._backlog = self._redis.xadd, self._stream, self._backlog + count
        began = time.perf_counter()
        for number in range(count):
            await xadd(stream, {b"headers": HEADERS, b"payload": _encode(job(number))})
        return time.perf_counter() - began

    async def batched(self, count: int) -> float:
        stream, self._backlog = self._stream, self._backlog + count
        began = time.perf_counter()
        for start in range(0, count, CHUNK):
            pipe = self._redis.pipeline(transaction=False)
            for number in range(start, min(start + CHUNK, count)):
                pipe.xadd(stream, {b"headers": HEADERS, b"payload": _encode(job(number))})
            await pipe.execute()
        return time.perf_counter() - began

    async def consume(self) -> tuple[int, float]:
        total, self._backlog, done = self._backlog, 0, 0
        client, stream = self._redis, self._stream
        began = time.perf_counter()
        while done < total:
            reply = await client.xreadgroup(GROUP, NAME, {stream: ">"}, count=READ, block=2000)
            ids: list[bytes] = []
            for ident, fields in reply[0][1]:
                await handle(_decode(fields[b"payload"]))
                ids.append(ident)
            pipe = client.pipeline(transaction=False)
            pipe.xack(stream, GROUP, *ids)
            pipe.xdel(stream, *ids)
            await pipe.execute()
            done += len(ids)
        return total, time.perf_counter() - began


class SqliteBare:
    """sqlite3 on this very thread: a table of queues, a claim of many due rows in one statement, and their deletion.

    ``leftovers``: files of the other side, deleted with its own when it closes.
    """

    def __init__(self, path: Path, *leftovers: Path) -> None:
        import sqlite3

        self._leftovers, self._backlog = (path, *leftovers), 0
        self._connect, self._db = sqlite3.connect, sqlite3.connect(":memory:")

    async def open(self) -> None:
        self._db = self._connect(self._leftovers[0], isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            """CREATE TABLE jobs (
                id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, due REAL NOT NULL,
                payload BLOB NOT NULL, owner INTEGER
            )""",
            "CREATE INDEX waiting ON jobs (queue, due, id) WHERE owner IS NULL",
        ):
            self._db.execute(statement)

    async def close(self) -> None:
        self._db.close()
        for path in self._leftovers:
            _remove(path)

    async def awaited(self, count: int) -> float:
        began = time.perf_counter()
        for number in range(count):
            self._insert([number])
        return time.perf_counter() - began

    async def batched(self, count: int) -> float:
        began = time.perf_counter()
        for start in range(0, count, CHUNK):
            self._insert(range(start, min(start + CHUNK, count)))
        return time.perf_counter() - began

    async def consume(self) -> tuple[int, float]:
        total, self._backlog, done = self._backlog, 0, 0
        run = self._db.execute
        claim = (
            "UPDATE jobs SET owner = 1 WHERE id IN (SELECT id FROM jobs WHERE queue = ? AND owner IS NULL AND due <= ?"
            " ORDER BY due, id LIMIT ?) RETURNING id, payload"
        )
        began = time.perf_counter()
        while done < total:
            rows = run(claim, (QUEUE, time.time(), CLAIM)).fetchall()
            for _, payload in rows:
                await handle(_decode(payload))
            marks = ",".join("?" * len(rows))
            run(f"DELETE FROM jobs WHERE id IN ({marks})", [ident for ident, _ in rows])  # noqa: S608 -- marks only
            done += len(rows)
        return total, time.perf_counter() - began

    def _insert(self, numbers: Sequence[int]) -> None:
        now = time.time()
        rows = [(QUEUE, now, _encode(job(number))) for number in numbers]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO jobs (queue, due, payload) VALUES (?, ?, ?)", rows)
        self._db.execute("COMMIT")
        self._backlog += len(rows)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
