"""A FastAPI application under uvicorn, as a process: told to stop while jobs run, it turns red first and loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.stage import Stage

PATIENCE = 30.0
JOBS, SLOTS, SECONDS = 12, 4, 1.0
ENDS = (0, -signal.SIGTERM)  # after a clean end uvicorn lets the signal have its way
APPLICATION = """
import asyncio, os
from fastapi import FastAPI
from penstock import Claim, Consumer, Producer, Worker, open_broker
from penstock.contrib.starlette import health_router, lifespan

broker = open_broker(os.environ["BROKER"])
stream, record, seconds = os.environ["STREAM"], os.environ["RECORD"], float(os.environ["SECONDS"])

def note(*words):
    with open(record, "a") as file:
        print(*words, file=file)

async def handle(job: dict, context) -> None:
    note("start", job["n"], context.attempt, context.headers["traceparent"])
    await asyncio.sleep(seconds)
    note("end", job["n"])

worker = Worker(Consumer(broker, stream, dict, handle, concurrency=int(os.environ["SLOTS"])), drain=10.0)
app = FastAPI(lifespan=lifespan(worker))
app.mount("/ops", health_router(worker))
jobs = Producer(broker, stream, dict)

@app.post("/jobs/{number}")
async def enqueue(number: int, traceparent: str):
    return {"id": await jobs.send({"n": number}, headers={"traceparent": traceparent})}
"""


def trace_of(number: int) -> str:
    return f"00-{number + 1:032x}-{number + 1:016x}-01"


class Served:
    """One uvicorn with the application."""

    def __init__(self, folder: Path, url: str, stream: str) -> None:
        (folder / "served.py").write_text(APPLICATION)
        self.record, self._log = folder / "record", folder / "output"
        self.record.touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {"BROKER": url, "STREAM": stream, "RECORD": str(self.record)}
        with self._log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "served:app", "--port", str(self.port)],
                cwd=folder,
                env={**os.environ, **environment, "SLOTS": str(SLOTS), "SECONDS": str(SECONDS)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def noted(self, word: str) -> list[list[str]]:
        lines = [line.split() for line in self.record.read_text().splitlines()]
        return [rest for first, *rest in lines if first == word]

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/ops/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self._log.read_text()
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.01)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str, str], Served]]:
    made: list[Served] = []

    def start(url: str, stream: str) -> Served:
        made.append(Served(tmp_path, url, stream))
        made[-1].until(made[-1].ready)
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait(PATIENCE)


async def test_sigterm_while_jobs_run_turns_readiness_red_first_and_loses_nothing(
    main_url: str, serve: Callable[[str, str], Served]
) -> None:
    stage = Stage(main_url)
    first = serve(main_url, stage.stream)
    with httpx.Client(base_url=f"http://127.0.0.1:{first.port}") as client:
        for number in range(JOBS):
            client.post(f"/jobs/{number}", params={"traceparent": trace_of(number)}).raise_for_status()
    first.until(lambda: len(first.noted("start")) - len(first.noted("end")) == SLOTS)
    before = {number for (number,) in first.noted("end")}
    first.process.send_signal(signal.SIGTERM)
    first.until(lambda: not first.ready())
    running = {number for number, *_ in first.noted("start")} - {number for (number,) in first.noted("end")}
    assert running, "it should have turned red before what ran has ended"
    while first.process.poll() is None:
        assert not first.ready()
    assert first.process.returncode in ENDS
    assert running <= {number for (number,) in first.noted("end")} - before  # what ran has ended in peace

    second = serve(main_url, stage.stream)
    second.until(lambda: len(second.noted("end")) >= JOBS)
    assert second.stop() in ENDS
    starts = second.noted("start")
    assert {str(number): 1 for number in range(JOBS)} == Counter(number for number, *_ in starts)
    assert {"0"} == {attempt for _, attempt, _ in starts}
    assert {str(n): trace_of(n) for n in range(JOBS)} == {number: trace for number, _, trace in starts}
    stats = await stage.stats()
    assert (0, 0, 0) == (stats.size, stats.delayed, stats.dead)
    await stage.close()
