"""``penstock sidekiq`` as a process: flags, files, signals, systemd, and what it says when it cannot run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.redis_server import Server

PATIENCE = 30.0
JOBS = """
import asyncio, os, sys, time
from penstock.job import Job
from penstock.sidekiq import configure_client, configure_server

@configure_server
def server(config):
    config.labels = ["from code"]

@configure_client
def client(config):
    raise AssertionError("this process runs jobs")

class Quick(Job):
    async def perform(self, *args):
        print("quick", *args, flush=True)

class Slow(Job):
    async def perform(self, seconds):
        print("slow began", flush=True)
        await asyncio.sleep(seconds)
        print("slow ended", flush=True)

class Blocked(Job):
    def perform(self, seconds):
        print("blocked began", flush=True)
        time.sleep(seconds)
        print("blocked ended", flush=True)
"""


class Process:
    """One ``penstock sidekiq``, its output in a file."""

    def __init__(self, folder: Path, server: Server, *options: str, **environment: str) -> None:
        self._log = folder / "output"
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "penstock", "sidekiq", *options],
                cwd=folder,
                env={**os.environ, "REDIS_URL": server.url, "DYNO": "web.1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def logged(self, text: str) -> None:
        self.until(lambda: text in self.log)

    def exited(self) -> int:
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, redis_server: Server) -> Iterator[Start]:
    redis_server.flush()
    (tmp_path / "jobs.py").write_text(JOBS)
    made: list[Process] = []

    def make(*options: str, **environment: str) -> Process:
        made.append(Process(tmp_path, redis_server, *options, **environment))
        return made[-1]

    yield make
    for each in made:
        each.close()


def push(server: Server, queue: str, name: str, *args: Any) -> None:
    job = {"class": name, "args": list(args), "jid": os.urandom(12).hex(), "queue": queue, "retry": True}
    server.call("LPUSH", f"queue:{queue}", json.dumps(job, separators=(",", ":")))


def info(server: Server) -> dict[str, Any]:
    (identity,) = server.call("SMEMBERS", "processes")
    found: dict[str, Any] = json.loads(server.call("HGET", identity, "info"))
    return found


def test_flags_stand_above_the_section_and_the_section_above_the_file(
    start: Start, redis_server: Server, tmp_path: Path
):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "sidekiq.yml").write_text(
        "concurrency: 2\ntag: file\ntimeout: 9\nqueues: [low]\nstaging:\n  tag: section\n  concurrency: 7\n"
    )
    process = start(
        "-e", "staging", "-c", "3", "-q", "critical,2", "-q", "default", "-r", "jobs", RAILS_MAX_THREADS="50"
    )
    process.until(lambda: redis_server.call("SCARD", "processes"))
    facts = info(redis_server)
    assert ("section", 3, ["from code"]) == (facts["tag"], facts["concurrency"], facts["labels"])
    assert {"critical": 2, "default": 0} == facts["capsules"]["default"]["weights"]
    process.signal(signal.SIGTERM)
    assert 0 == process.exited()


def test_tstp_takes_no_more_and_term_waits_for_what_runs(start: Start, redis_server: Server):
    process = start("-r", "./jobs.py", "-c", "1")
    push(redis_server, "default", "Quick", 1)
    process.logged("quick 1")
    push(redis_server, "default", "Slow", 2.0)
    process.logged("slow began")
    process.signal(signal.SIGTSTP)
    process.until(lambda: b"true" in redis_server.call("HVALS", redis_server.call("SMEMBERS", "processes").pop()))
    push(redis_server, "default", "Quick", 2)
    process.signal(signal.SIGTTIN)
    process.logged("runs Slow")
    process.signal(signal.SIGTERM)
    assert 0 == process.exited()
    assert "slow ended" in process.log
    assert ("quick 2" in process.log, 1) == (False, redis_server.call("LLEN", "queue:default"))
    assert b"2" == redis_server.call("GET", "stat:processed")


def test_tstp_while_it_starts_is_not_forgotten(start: Start, redis_server: Server, tmp_path: Path):
    waits = "async def wait():\n    print('starting', flush=True)\n    await asyncio.sleep(0.5)\n"
    (tmp_path / "slow.py").write_text(f"{JOBS}\n{waits}configure_server(lambda config: config.on('startup', wait))\n")
    push(redis_server, "default", "Quick", 1)
    process = start("-r", "slow")
    process.logged("starting")
    process.signal(signal.SIGTSTP)
    process.until(lambda: b"true" in _facts(redis_server))
    process.signal(signal.SIGTERM)
    assert (0, 1) == (process.exited(), redis_server.call("LLEN", "queue:default"))
    assert "quick" not in process.log


def _facts(server: Server) -> list[bytes]:
    return [fact for name in server.call("SMEMBERS", "processes") for fact in server.call("HVALS", name)]


def test_what_does_not_end_in_time_goes_back_to_its_queue(start: Start, redis_server: Server):
    process = start("-r", "jobs", "-t", "0.2")
    push(redis_server, "default", "Slow", 60)
    process.logged("slow began")
    process.signal(signal.SIGTERM)
    assert 0 == process.exited()
    assert (1, []) == (redis_server.call("LLEN", "queue:default"), redis_server.call("KEYS", "pq:*"))
    assert "class=Slow" in process.log


@pytest.mark.parametrize("name", ["Slow", "Blocked"])
def test_t7_a_process_told_through_redis_to_stop_ends_and_its_unfinished_jobs_with_it(
    start: Start, redis_server: Server, name: str
):
    process = start("-r", "jobs", "-t", "0.2")
    process.until(lambda: redis_server.call("SCARD", "processes"))
    push(redis_server, "default", name, 60.0)
    process.logged("began")
    (identity,) = redis_server.call("SMEMBERS", "processes")
    redis_server.call("LPUSH", identity + b"-signals", "TERM")
    assert 0 == process.exited()
    assert "ended" not in process.log
    assert (1, []) == (redis_server.call("LLEN", "queue:default"), redis_server.call("KEYS", "pq:*"))


def test_systemd_is_told(start: Start, tmp_path: Path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(address)
        line.settimeout(PATIENCE)
        process = start("-r", "jobs", NOTIFY_SOCKET=address, WATCHDOG_USEC="2000000")
        assert [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"] == [line.recv(100) for _ in range(3)]
        process.signal(signal.SIGTERM)
        while (told := line.recv(100)) == b"WATCHDOG=1":
            pass
        assert b"STOPPING=1" == told
    assert 0 == process.exited()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "say what defines the jobs"),
        (("-r", "no_such_module"), 1, "no_such_module"),
        (("-r", "none.py"), 2, "there is no such file"),
        (("-r", "."), 2, "is a folder"),
        (("-r", "jobs", "-c", "0"), 2, "concurrency"),
        (("-r", "jobs", "-t", "-1"), 2, "timeout"),
        (("-r", "jobs", "-q", "a,b"), 2, "a queue is"),
        (("-r", "jobs", "-C", "none.yml"), 2, "none.yml"),
        (("-V",), 0, "for the schema of Sidekiq 8"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(start: Start, options: tuple[str, ...], code: int, said: str):
    process = start(*options)
    assert code == process.exited(), process.log
    assert said in process.log
    assert "Traceback" not in process.log
