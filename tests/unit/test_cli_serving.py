"""Commands that serve until a signal, as real processes: worker, retry daemon, and stats that are watched."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import Producer, open_broker
from penstock.cli.root import run
from tests.servers.redis_server import Server

JOBS = """
import os
from penstock import Consumer, open_broker

async def handle(payload):
    print("handled", payload["n"], flush=True)

consumer = Consumer(open_broker(os.environ["JOBS"]), "jobs", dict, handle)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


def send(url: str, payload: dict[str, Any], **options: Any) -> None:
    async def main() -> None:
        broker = open_broker(url)
        try:
            await Producer(broker, "jobs", dict).send(payload, **options)
        finally:
            await broker.close()

    asyncio.run(main())


def environment(**more: str) -> dict[str, str]:
    source = str(Path(penstock.__file__).parents[1])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return {**inherited, "PYTHONPATH": source, **more}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_worker_process_runs_a_module_of_the_current_directory_until_a_signal(
    url: str, tmp_path: Path, number: signal.Signals, format_: str
) -> None:
    (tmp_path / "shop_jobs.py").write_text(JOBS)
    send(url, {"n": 1})

    with subprocess.Popen(
        [sys.executable, "-m", "penstock", "worker", "shop_jobs", "--log-format", format_],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(JOBS=url),
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "handled 1" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], "the worker ended before it had run the job"
        process.send_signal(number)
        lines += process.stdout.readlines()
        assert 0 == process.wait(20)

    logged = [line for line in lines if "handled" not in line]
    assert "worker started: jobs/default" in logged[0]
    assert "worker stopped" in logged[-1]
    if format_ == "json":
        assert {"penstock"} == {json.loads(line)["logger"] for line in logged}


def test_a_dry_run_of_a_worker_lists_its_consumers_and_connects_to_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOBS", "redis://:sesame@127.0.0.1:1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "dry_jobs.py").write_text(JOBS)

    assert 0 == run(["worker", "dry_jobs", "--dry-run", "--json"])

    out = capsys.readouterr().out
    assert [("jobs", "default", 10)] == [(c["stream"], c["group"], c["concurrency"]) for c in json.loads(out)]
    assert "sesame" not in out


def test_a_retry_daemon_moves_what_is_due_until_a_signal(
    capsys: pytest.CaptureFixture[str], redis_server: Server
) -> None:
    redis_server.flush()
    send(redis_server.url, {"n": 1}, delay=0.5)
    arguments = ["retry-daemon", "jobs", "-b", redis_server.url]

    assert 0 == run([*arguments, "--dry-run"])
    assert "1 messages of jobs are delayed; nothing was moved\n" == capsys.readouterr().out

    with subprocess.Popen(
        [sys.executable, "-m", "penstock", *arguments, "--tick", "0.05"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert "retry daemon started: jobs" in process.stdout.readline()
        deadline = time.monotonic() + 10
        while redis_server.call("XLEN", "jobs") == 0:
            assert time.monotonic() < deadline, "nothing was moved"
            time.sleep(0.02)
        process.terminate()
        assert "retry daemon stopped" in process.stdout.read()
        assert 0 == process.wait(10)


def test_a_retry_daemon_is_refused_where_it_has_nothing_to_do(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert 2 == run(["retry-daemon", "jobs", "-b", url])
    assert "needs no retry daemon" in capsys.readouterr().err


def test_watching_as_json_prints_a_line_each_time(url: str) -> None:
    send(url, {"n": 1})
    with subprocess.Popen(
        [sys.executable, "-m", "penstock", "stats", "--json", "--watch", "0.1", "-b", url],
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert 130 == process.wait(10)

    assert lines[0]["at"] < lines[1]["at"]
