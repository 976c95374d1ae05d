"""The demo as a user runs it: it ends by itself, in time, with sums that add up and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import penstock
from tests.servers.redis_server import Server


def demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(penstock.__file__).parents[1]), "TMPDIR": str(cwd)},
        check=False,
    )


def adds_up(summary: dict[str, Any]) -> None:
    assert [] == summary["problems"]
    assert summary["sent"] + summary["repeated"] == summary["done"]
    assert summary["executions"] == sum(
        summary[name] for name in ("sent", "retried", "requeued", "crashed", "repeated")
    )
    assert 2 == summary["dead"] == summary["requeued"]
    assert 0 == summary["left"]
    assert summary["retried"] > 0
    assert summary["crashed"] > 0


@pytest.mark.slow
def test_the_demo_shows_everything_in_under_30_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()

    ended = demo("--json", cwd=tmp_path)

    assert 0 == ended.returncode, ended.stderr
    assert time.monotonic() - began < 30
    adds_up(json.loads(ended.stdout))
    for shown in (
        "retry: job",
        "maxAttempts(4)",
        "no such address",
        "recovered by worker",
        "requeued",
        "exit codes: 0, 0",
    ):
        assert shown in ended.stderr
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_runs_on_a_server_and_leaves_no_message_there(redis_server: Server, tmp_path: Path) -> None:
    redis_server.flush()

    ended = demo("--json", "--broker", redis_server.url, cwd=tmp_path)

    assert 0 == ended.returncode, ended.stderr
    adds_up(json.loads(ended.stdout))
    stats = subprocess.run(
        [sys.executable, "-m", "penstock", "stats", "penstock-demo", "--json", "-b", redis_server.url],
        capture_output=True,
        check=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(Path(penstock.__file__).parents[1])},
    )
    (stream,) = json.loads(stats.stdout)["streams"]
    assert (0, 0, 0) == (stream["size"], stream["delayed"], stream["dead"])
