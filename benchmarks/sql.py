"""PostgreSQL and MySQL, each as a ratio to its bare client doing the same work in the same run.

``python -m benchmarks.sql [--rounds N] [--jobs N] [--pgqueuer PYTHON] [postgres] [mysql]``. The servers are started here,
without fsync: it is the programs that are measured, not the disk. The bare loops work on the common ``jobs`` table with
its two indexes, so that they too could find what a crash left behind. They claim a batch in one statement, decode
every payload, await a handler that does nothing, and delete the batch in one statement; they publish with one statement
for each batch. ``--pgqueuer`` names a Python that has PgQueuer installed: then it drains as many jobs in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiomysql
import asyncpg

from penstock.cli.bench_bare import handle
from penstock.cli.bench_work import CHUNK, Job, Ours, job
from penstock.clients.sql_address import ServerAddress
from penstock.codecs import codec_for
from tests.servers.sql_server import OwnMariaDB, OwnPostgres, SqlServer

CODEC = codec_for(Job)
PEER = Path(__file__).with_name("with_pgqueuer.py")
TARGETS = {"consume": 0.5, "publish": 0.6}


class BarePostgres:
    """asyncpg on one connection."""

    def __init__(self, url: str, claim: int) -> None:
        self._url, self._claim = url, claim

    async def open(self) -> None:
        self._db: Any = await asyncpg.connect(self._url)
        await self._db.execute(
            "CREATE TABLE jobs (id bigserial PRIMARY KEY, queue varchar(255) NOT NULL, payload bytea NOT NULL,"
            " attempts int DEFAULT 0, reserved_at timestamp, available_at timestamp NOT NULL,"
            " created_at timestamp NOT NULL DEFAULT now())"
        )
        await self._db.execute("CREATE INDEX idx_jobs_queue_available ON jobs (queue, available_at)")
        await self._db.execute("CREATE INDEX idx_jobs_reserved ON jobs (reserved_at)")

    async def close(self) -> None:
        await self._db.execute("DROP TABLE jobs")
        await self._db.close()

    async def publish(self, count: int) -> float:
        began = time.perf_counter()
        for start in range(0, count, CHUNK):
            bodies = [CODEC.encode(job(n)) for n in range(start, min(start + CHUNK, count))]
            await self._db.execute(
                "INSERT INTO jobs (queue, available_at, payload) SELECT 'q', now(), b FROM unnest($1::bytea[]) AS b",
                bodies,
            )
        return time.perf_counter() - began

    async def consume(self, total: int) -> float:
        claim = (
            "UPDATE jobs SET reserved_at = now(), attempts = attempts + 1 WHERE id = ANY(ARRAY(SELECT id FROM jobs"
            " WHERE queue = 'q' AND reserved_at IS NULL AND available_at <= now() ORDER BY available_at LIMIT $1"
            " FOR UPDATE SKIP LOCKED)) RETURNING id, payload"
        )
        began, done = time.perf_counter(), 0
        while done < total:
            rows = await self._db.fetch(claim, self._claim)
            for row in rows:
                await handle(CODEC.decode(row[1]))
            await self._db.execute("DELETE FROM jobs WHERE id = ANY($1::bigint[])", [row[0] for row in rows])
            done += len(rows)
        return time.perf_counter() - began


class BareMySQL:
    """aiomysql on one connection, committing each statement by itself but the claim's two."""

    def __init__(self, url: str, claim: int) -> None:
        self._where, self._claim = ServerAddress.parse("mysql", url, {}), claim

    async def open(self) -> None:
        where = self._where
        self._db = await aiomysql.connect(
            host=where.host, port=where.port, user=where.user, db=where.database, autocommit=True, charset="utf8mb4"
        )
        self._cursor = await self._db.cursor()
        await self._cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await self._cursor.execute(
            "CREATE TABLE jobs (id bigint AUTO_INCREMENT PRIMARY KEY, queue varchar(255) NOT NULL, payload longblob NOT NULL,"
            " attempts int DEFAULT 0, reserved_at datetime(6), available_at datetime(6) NOT NULL,"
            " created_at datetime(6) NOT NULL DEFAULT now(6), KEY (queue, reserved_at, available_at), KEY (reserved_at))"
        )

    async def close(self) -> None:
        await self._cursor.execute("DROP TABLE jobs")
        self._db.close()

    async def publish(self, count: int) -> float:
        began = time.perf_counter()
        for start in range(0, count, CHUNK):
            rows = [("q", CODEC.encode(job(n))) for n in range(start, min(start + CHUNK, count))]
            await self._cursor.executemany(
                "INSERT INTO jobs (queue, available_at, payload) VALUES (%s, now(6), %s)", rows
            )
        return time.perf_counter() - began

    async def consume(self, total: int) -> float:
        began, done = time.perf_counter(), 0
        while done < total:
            await self._db.begin()
            await self._cursor.execute(
                "SELECT id, payload FROM jobs WHERE queue = 'q' AND reserved_at IS NULL AND available_at <= now(6)"
                " ORDER BY available_at LIMIT %s FOR UPDATE SKIP LOCKED",
                (self._claim,),
            )
            rows = await self._cursor.fetchall()
            ids = ",".join(str(row[0]) for row in rows)
            await self._cursor.execute(
                f"UPDATE jobs SET reserved_at = now(6), attempts = attempts + 1 WHERE id IN ({ids})"  # noqa: S608 - numbers
            )
            await self._db.commit()
            for row in rows:
                await handle(CODEC.decode(row[1]))
            await self._cursor.execute(f"DELETE FROM jobs WHERE id IN ({ids})")  # noqa: S608 - numbers
            done += len(rows)
        return time.perf_counter() - began


async def measure(server: SqlServer, kind: Any, jobs: int, rounds: int) -> dict[str, dict[str, float]]:
    """Rates per second and ratios, medians of the rounds; both sides take turns."""
    rates: dict[str, list[float]] = {name: [] for name in ("ours publish", "ours consume", "publish", "consume", "100")}
    ours = Ours(f"{server.url}?create=true", "bench")
    await ours.open()
    for _ in range(rounds):
        for claim in (1000, 100):
            bare = kind(server.url, claim)
            await bare.open()
            published, consumed = jobs / await bare.publish(jobs), jobs / await bare.consume(jobs)
            if claim == 1000:
                rates["publish"].append(published)
            rates["consume" if claim == 1000 else "100"].append(consumed)
            await bare.close()
        rates["ours publish"].append(jobs / await ours.batched(jobs))
        count, seconds = await ours.consume()
        rates["ours consume"].append(count / seconds)
    latencies = sorted(await ours.latencies(200))
    await ours.close()
    median = {name: statistics.median(found) for name, found in rates.items()}
    ratio = {
        what: statistics.median(ours / bare for ours, bare in zip(rates[f"ours {what}"], rates[what], strict=True))
        for what in TARGETS
    }
    hundreds = median["100"]
    return {
        "publish": {"ours": median["ours publish"], "bare": median["publish"], "ratio": ratio["publish"]},
        "consume": {"ours": median["ours consume"], "bare": median["consume"], "ratio": ratio["consume"]},
        "hundreds": {"bare": hundreds},
        "latency": {"p50_ms": latencies[100] * 1000, "p99_ms": latencies[197] * 1000},
    }


def peer(python: str, url: str, jobs: int, rounds: int) -> dict[str, float]:
    """What PgQueuer does with as many jobs."""
    done = subprocess.run([python, str(PEER), url, str(jobs), str(rounds)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", default=["postgres", "mysql"])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pgqueuer", metavar="PYTHON")
    given = parser.parse_args(arguments)
    for name in given.servers:
        own, kind = (OwnPostgres, BarePostgres) if name == "postgres" else (OwnMariaDB, BareMySQL)
        server = own().start()
        try:
            found = asyncio.run(measure(server, kind, given.jobs, given.rounds))
            for what, least in TARGETS.items():
                ours, bare = found[what]["ours"], found[what]["bare"]
                verdict = "ok" if ours / bare >= least else "MISSED"
                print(
                    f"{name} {what}: {ours:,.0f}/s, bare {bare:,.0f}/s, ratio {ours / bare:.2f} (≥ {least}) {verdict}"
                )
            print(f"{name}: bare claims of 100 {found['hundreds']['bare']:,.0f}/s, latency {found['latency']}")
            if name == "postgres" and given.pgqueuer:
                print(f"pgqueuer: {peer(given.pgqueuer, server.url, given.jobs, given.rounds)}")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
