"""The synchronous API: from threads, forks, scripts that simply end, and inside loops that are none of its business."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import ConfigurationError, ConnectionFailed, Consumer, DeadLetter, PayloadTooLarge, open_broker
from penstock.broker import Outgoing
from penstock.sync import Inspector, Producer, Worker
from tests.servers.redis_server import OwnServer, Server

PATIENCE = 30.0


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return address(request, tmp_path)


@pytest.fixture(params=["sqlite", "redis"])
def lasting_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return address(request, tmp_path)


def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    server = request.getfixturevalue("redis_server")
    server.flush()
    return str(server.url)


def test_many_threads_send_and_each_message_is_there_once(url: str):
    broker = open_broker(url)
    producer = Producer(broker, "s", int)

    def send(first: int) -> list[str]:
        return [producer.send(first + n) for n in range(200)]

    with ThreadPoolExecutor(16) as pool:
        ids = [ident for some in pool.map(send, range(0, 3200, 200)) for ident in some]
    assert 3200 == len(set(ids))
    inspector = Inspector(broker)
    assert [3200] == [stats.size for stats in inspector.stats("s")]
    assert {str(n).encode() for n in range(3200)} == {message.body for message in inspector.peek("s", 5000)}


def test_what_the_producer_refuses_is_raised_here_and_the_wrong_arguments_where_they_are_given(url: str):
    producer = Producer(open_broker(url), "s", str, max_body=10)
    with pytest.raises(PayloadTooLarge):
        producer.send("x" * 20)
    with pytest.raises(ConfigurationError, match="name of a stream"):
        Producer(open_broker(url), "", str)
    with pytest.raises(ConfigurationError, match="patience"):
        Producer(open_broker(url), "s", str, patience=0)
    drawn_on = list[int]()
    assert 2 == len(producer.send_many(str(drawn_on.append(threading.get_ident())) for _ in range(2)))
    assert [threading.get_ident()] * 2 == drawn_on  # on the caller's thread, where a generator may block


async def test_it_works_where_a_loop_runs_already(url: str):
    assert Producer(open_broker(url), "s", int).send(1)


def test_a_coroutine_that_the_api_runs_itself_may_not_wait_for_it():
    broker = open_broker("memory://")
    inner = Producer(broker, "s", int)

    async def sends_another(outgoing: Outgoing, call: Callable[[Outgoing], Any]) -> Any:
        inner.send(2)
        return await call(outgoing)

    with pytest.raises(ConfigurationError, match="await the asynchronous one"):
        Producer(broker, "s", int, middleware=[sends_another]).send(1)


def test_context_variables_of_the_caller_are_seen_by_middleware():
    tenant: ContextVar[str] = ContextVar("tenant")
    seen: list[str] = []

    async def note(outgoing: Outgoing, call: Callable[[Outgoing], Any]) -> Any:
        seen.append(tenant.get("nobody"))
        return await call(outgoing)

    producer = Producer(open_broker("memory://"), "s", int, middleware=[note])
    tenant.set("acme")
    producer.send(1)
    assert ["acme"] == seen


def test_a_broker_that_is_gone_is_told_and_found_again(durable_server: OwnServer):
    producer = Producer(open_broker(durable_server.url), "s", int)
    producer.send(1)
    durable_server.kill()
    with pytest.raises(ConnectionFailed):
        producer.send(2)
    durable_server.start()
    producer.send(3)
    assert [b"1", b"3"] == [message.body for message in Inspector(producer.broker).peek("s")]


def test_a_call_that_lasts_too_long_is_given_up():
    async def slow(outgoing: Outgoing, call: Callable[[Outgoing], Any]) -> Any:
        gave_up.clear()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            gave_up.set()
        return await call(outgoing)

    gave_up = threading.Event()
    producer = Producer(open_broker("memory://"), "s", int, middleware=[slow], patience=0.05)
    with pytest.raises(ConnectionFailed, match=r"within 0\.05 seconds; whether it was done is unknown"):
        producer.send(1)
    assert gave_up.wait(PATIENCE)


def test_a_worker_on_a_thread_runs_handlers_that_send_and_its_dead_letters_can_be_requeued(url: str):
    broker, sender = open_broker(url), open_broker(url)
    producer, inspector = Producer(sender, "s", int), Inspector(sender)
    done, refusing = set[int](), [True]

    def handle(n: int) -> DeadLetter | None:
        if n == 0 and refusing[0]:
            return DeadLetter("not now")
        if n < 10:
            producer.send(n + 10)
        done.add(n)
        return None

    with Worker(Consumer(broker, "s", int, handle, concurrency=4)) as worker:
        producer.send_many(range(10))
        _until(lambda: done == set(range(1, 10)) | set(range(11, 20)))
        (letter,) = inspector.each_dead("s")
        refusing.clear()
        refusing.append(False)
        assert ("not now", 1) == (letter.reason, inspector.requeue("s", [letter.id]))
        _until(lambda: {0, 10} <= done)
        _until(lambda: worker.ready)
        assert [] == inspector.dead("s")
        assert ["s"] == [name for name in inspector.sources() if name == "s"]
    assert not worker.ready
    assert worker.stop()


def test_a_worker_that_cannot_start_says_so_and_leaves_nothing_behind():
    def handle(_: int) -> None: ...

    worker = Worker(Consumer(open_broker("redis://127.0.0.1:1"), "s", int, handle))
    with pytest.raises(ConnectionFailed):
        worker.start()
    assert [] == [thread.name for thread in threading.enumerate() if thread.name == "penstock-worker"]


def test_what_is_thrown_away_gives_its_connections_back(redis_url: str, shared_server: Server):
    inspector = Inspector(open_broker(redis_url))
    inspector.sources()
    before = connections(shared_server)
    for n in range(20):  # as a view would that makes its own
        Producer(open_broker(redis_url), "s", int).send(n)
    assert 20 == inspector.stats("s")[0].size
    gc.collect()
    _until(lambda: connections(shared_server) <= before)


def connections(server: Server) -> int:
    found: bytes = server.call("CLIENT", "LIST")
    return found.count(b" addr=")


SCRIPT = """
import sys
from penstock import open_broker
from penstock.sync import Producer
producer = Producer(open_broker(sys.argv[1]), "s", int)
"""


def test_a_script_that_ends_right_after_its_last_send_leaves_no_noise(lasting_url: str):
    ended = run(SCRIPT + "producer.send(1)", lasting_url)
    assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
    assert [b"1"] == bodies(lasting_url)


FORKS = (
    SCRIPT
    + """
import os
{before}
children = []
for n in range(1, 4):
    child = os.fork()
    if not child:
        for m in range(20): producer.send(100 * n + m)
        sys.exit(0)
    children.append(child)
for m in range(20): producer.send(m)
for child in children: assert os.waitpid(child, 0)[1] == 0
"""
)


def test_objects_made_before_a_fork_work_in_parent_and_child(lasting_url: str):
    """As in a server that loads the application before it forks."""
    before = "" if lasting_url.startswith("sqlite") else "producer.send(-1)"
    ended = run(FORKS.format(before=before), lasting_url, "-W", "ignore::DeprecationWarning")
    assert (0, "") == (ended.returncode, ended.stderr)
    expected = [*range(20), *(100 * n + m for n in range(1, 4) for m in range(20))]
    assert sorted(expected) == sorted(int(body) for body in bodies(lasting_url) if body != b"-1")


def test_a_sqlite_file_that_was_open_at_the_fork_is_refused_to_the_child(tmp_path: Path):
    """SQLite keeps what it knows of its locks in the process: in a child that is a lie, and costs the file."""
    program = SCRIPT + (
        "import os\n"
        "producer.send(0)\n"
        "if child := os.fork(): os.waitpid(child, 0); producer.send(1); sys.exit(0)\n"
        "try: producer.send(2)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    ended = run(program, url, "-W", "ignore::DeprecationWarning")
    assert "ConfigurationError" in ended.stdout
    assert "open when this process was forked" in ended.stdout
    assert [b"0", b"1"] == bodies(url)


EXHAUSTED = (
    SCRIPT
    + """
import os, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
try: producer.send(1)
except OSError as error: print(type(error).__name__, error.errno)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
producer.send(2)
"""
)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the open files as Linux does")
def test_a_process_without_a_file_to_spare_is_told_so_and_goes_on_when_it_has_some(lasting_url: str):
    ended = run(EXHAUSTED, lasting_url)
    assert (0, f"OSError {errno.EMFILE}\n") == (ended.returncode, ended.stdout)
    assert [b"2"] == bodies(lasting_url)


def test_threads_that_outlive_the_main_one_send_to_the_end(lasting_url: str):
    program = SCRIPT + (
        "import threading\n"
        "def send():\n"
        "    threading.main_thread().join()\n"
        "    for n in range(50): producer.send(n)\n"
        "threading.Thread(target=send).start()\n"
    )
    ended = run(program, lasting_url)
    assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
    assert 50 == len(bodies(lasting_url))


def test_the_child_of_a_process_with_a_worker_ends_without_it(lasting_url: str):
    program = (
        "import os, sys, threading\n"
        "from penstock import Consumer, open_broker\n"
        "from penstock.sync import Producer, Worker\n"
        "got = threading.Event()\n"
        "with Worker(Consumer(open_broker(sys.argv[1]), 's', int, lambda n: got.set())) as worker:\n"
        "    if not (child := os.fork()): sys.exit(0 if worker.stop() else 1)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    Producer(open_broker(sys.argv[1]), 's', int).send(1)\n"
        "    assert got.wait(30)\n"
    )
    ended = run(program, lasting_url, "-W", "ignore::DeprecationWarning")
    assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
    assert [] == bodies(lasting_url)


def test_ctrl_c_ends_a_call_that_waits():
    program = SCRIPT.replace("sys.argv[1]", "'memory://'") + (
        "import asyncio, os, signal, threading\n"
        "async def slow(outgoing, call):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    await asyncio.sleep(60)\n"
        "try:\n"
        "    Producer(producer.broker, 's', int, middleware=[slow]).send(1)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', producer.send(2) != '')\n"
    )
    ended = run(program, "memory://")
    assert (0, "interrupted True\n", "") == (ended.returncode, ended.stdout, ended.stderr)


def test_run_serves_until_a_signal(lasting_url: str):
    program = (
        "import sys, os, signal\n"
        "from penstock import Consumer, open_broker\n"
        "from penstock.sync import Worker\n"
        "def handle(n): print('did', n, flush=True); os.kill(os.getpid(), signal.SIGTERM)\n"
        "Worker(Consumer(open_broker(sys.argv[1]), 's', int, handle)).run()\n"
        "print('stopped')\n"
    )
    Producer(open_broker(lasting_url), "s", int).send(7)
    ended = run(program, lasting_url)
    assert (0, "did 7\nstopped\n") == (ended.returncode, ended.stdout), ended.stderr
    assert [] == bodies(lasting_url)


def test_a_worker_that_nobody_stopped_is_stopped_when_the_script_ends(lasting_url: str):
    program = (
        "import sys, threading\n"
        "from penstock import Consumer, open_broker\n"
        "from penstock.sync import Producer, Worker\n"
        "got = threading.Event()\n"
        "Worker(Consumer(open_broker(sys.argv[1]), 's', int, lambda n: got.set())).start()\n"
        "Producer(open_broker(sys.argv[1]), 's', int).send(1)\n"
        "assert got.wait(30)\n"
    )
    ended = run(program, lasting_url)
    assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
    assert [] == bodies(lasting_url)


def run(program: str, url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(penstock.__file__).parents[1])}
    command = [sys.executable, *flags, "-c", program, url]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def bodies(url: str) -> list[bytes]:
    return [message.body for message in Inspector(open_broker(url)).peek("s", 1000)]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
