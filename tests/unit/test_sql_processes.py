"""Several processes on one SQLite file: no message is shared, and none is lost when a process is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import penstock
from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.sql import SqlBroker
from penstock.message import Message
from penstock.outcome import Ack

# Takes messages, writes each one's body down, and acks them.
WORKER = """
import asyncio, sys
from penstock.broker import Settlement, Subscription
from penstock.brokers.sql import SqlBroker
from penstock.outcome import ACK

async def main(url, lease, notes):
    broker = SqlBroker.from_url(url, timeout=20.0)
    subscription = Subscription(source="q", group="g", lease=float(lease))
    with open(notes, "ab", buffering=0) as file:
        while True:
            found = await broker.fetch(subscription, 20, 1.0)
            found = [*found, *await broker.reclaim(subscription, 20)]
            for delivery in found:
                file.write(delivery.message.body + b"\\n")
            await broker.settle([Settlement(delivery=d, outcome=ACK) for d in found])

asyncio.run(main(*sys.argv[1:]))
"""
# Publishes one message as soon as it is told to.
PUBLISHER = """
import asyncio, sys
from penstock.broker import Outgoing
from penstock.brokers.sql import SqlBroker
from penstock.message import Message

async def main(url):
    broker = SqlBroker.from_url(url)
    await broker.open()
    print("ready", flush=True)
    sys.stdin.readline()
    await broker.publish([Outgoing(destination="q", message=Message(type="t", body=b"1"))])
    await broker.close()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def process(program: str, *args: str, **options: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that is gone at the end."""
    env = {**os.environ, "PYTHONPATH": str(Path(str(penstock.__file__)).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", program, *args], env=env, **options)
    with child:
        try:
            yield child
        finally:
            child.kill()


async def until(true: Callable[[], bool], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def publish(broker: SqlBroker, numbers: range) -> None:
    await broker.publish([Outgoing(destination="q", message=Message(type="t", body=b"%d" % n)) for n in numbers])


def bodies(*notes: Path) -> list[bytes]:
    return [line for each in notes if each.exists() for line in each.read_bytes().splitlines()]


async def test_two_processes_never_get_the_same_message(tmp_path: Path) -> None:
    url, count = f"sqlite:///{tmp_path}/jobs.db", 0
    broker = SqlBroker.from_url(url, timeout=20.0)
    one, other = tmp_path / "one", tmp_path / "other"
    with process(WORKER, url, "60", str(one)), process(WORKER, url, "60", str(other)):
        while count < 2000 or not (bodies(one) and bodies(other)):
            assert count < 200_000, "one of them gets nothing"
            await publish(broker, range(count, count + 200))
            count += 200
        await until(lambda: len(bodies(one, other)) >= count)
    assert sorted(b"%d" % n for n in range(count)) == sorted(bodies(one, other))
    await broker.close()


async def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    url, count, lease = f"sqlite:///{tmp_path}/jobs.db", 2000, 1.0
    broker = SqlBroker.from_url(url, timeout=20.0)
    await publish(broker, range(count))
    notes = [tmp_path / f"{n}" for n in range(3)]
    for n, note in enumerate(notes):
        with process(WORKER, url, str(lease), str(note)) as child:
            await until(lambda note=note, n=n: len(bodies(note)) > 100 + 37 * n)
            child.send_signal(signal.SIGKILL)
            child.wait()
    rest: list[bytes] = []
    subscription = Subscription(source="q", group="g", lease=lease)
    while (stats := await broker.stats("q")).size:
        found = [*await broker.fetch(subscription, 100, 0.1), *await broker.reclaim(subscription, 100)]
        rest += [d.message.body for d in found]
        await broker.settle([Settlement(delivery=d, outcome=Ack()) for d in found])
    seen = [*bodies(*notes), *rest]
    assert {b"%d" % n for n in range(count)} == set(seen)
    assert len(seen) - count <= 3 * 40, "at most what was in hand, fetched and reclaimed, is done twice"
    assert (0, 0, 0) == (stats.size, stats.delayed, stats.dead)
    await broker.close()


async def test_a_message_from_another_process_wakes_a_waiting_fetch(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    broker = SqlBroker.from_url(url)
    subscription = Subscription(source="q", group="g")
    await broker.fetch(subscription, 1, 0.0)
    with process(PUBLISHER, url, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert b"ready\n" == await asyncio.to_thread(child.stdout.readline)
        waiting = asyncio.create_task(broker.fetch(subscription, 1, 30.0))
        child.stdin.write(b"go\n")
        child.stdin.flush()
        (delivery,) = await waiting
    assert b"1" == delivery.message.body
    await broker.close()
