"""Threads for plain functions: as many as asked for, and no hindrance to the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import penstock
from penstock.threads import Threads


def test_results_and_errors_come_back_whatever_they_are() -> None:
    threads = Threads(2, "test")
    assert [threads.submit(pow, n, 2).result(5) for n in range(10)] == [n * n for n in range(10)]
    with pytest.raises(SystemExit):
        threads.submit(sys.exit, 3).result(5)
    assert threads.submit(len, "abc").result(5) == 3
    threads.shutdown()


def test_no_more_run_at_once_than_allowed_and_a_free_one_is_used_before_a_new_one() -> None:
    threads, names = Threads(3, "test"), set[str]()
    for _ in range(20):
        names.add(threads.submit(lambda: threading.current_thread().name).result(5))
        while not threads._idle:  # it has answered, but not come back yet
            pass
    assert names == {"test-1"}
    barrier = threading.Barrier(3)
    futures = [threads.submit(barrier.wait, 5) for _ in range(9)]
    assert sorted(future.result(5) for future in futures) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    threads.shutdown()


def test_after_shutdown_what_waits_is_cancelled_and_nothing_new_is_taken() -> None:
    threads, gate, begun = Threads(1, "test"), threading.Event(), threading.Event()
    running = threads.submit(lambda: (begun.set(), gate.wait(5)))
    waiting = threads.submit(len, "abc")
    assert begun.wait(5)
    threads.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(5)
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(len, "abc")
    gate.set()
    assert running.result(5)


PROGRAM = """
import time
from penstock.threads import Threads
Threads(1, "test").submit(time.sleep, 60)
"""


def test_a_process_ends_although_a_thread_is_still_at_work() -> None:
    path = {"PYTHONPATH": str(Path(penstock.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], env=path, check=False, timeout=20)
    assert ended.returncode == 0
