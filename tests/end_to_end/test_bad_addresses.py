"""Addresses that lead nowhere, libraries that are missing, passwords that are wrong: each a clear error, and at once."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import penstock
from penstock import BrokerError, ConnectionFailed, Consumer, PenstockError, Producer, Worker, open_broker, open_store
from penstock.errors import AccessDenied, InvalidURL
from tests.servers.redis_server import OwnServer


class Order(msgspec.Struct):
    number: int


async def nothing(order: Order) -> None: ...


BAD_URLS = [
    "",
    "nonsense",
    "localhost:6379",
    "ftp://localhost",
    "redis//localhost",
    "redis://localhost:port",
    "redis://localhost:99999",
    "redis://localhost/jobs",
    "redis://localhost/0?no_such_option=1",
    "unix://",
    "sqlite://host/file.db",
    "sqlite:///file.db?timeout=soon",
    "sqlite:///file.db?no_such_option=1",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_refused_at_once_with_what_was_expected(url: str) -> None:
    for opened in (open_broker, open_store):
        with pytest.raises(InvalidURL, match="expected"):
            opened(url)


BLOCKED = """
import sys
sys.modules[{library!r}] = None
import penstock
for opened in (penstock.open_broker, penstock.open_store):
    try:
        opened({url!r})
    except penstock.ConfigurationError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("library", "url", "extra"),
    [
        ("redis", "redis://localhost", "redis"),
        ("hiredis", "redis://localhost", "redis"),
        ("glide", "glide://localhost", "glide"),
        ("sqlalchemy", "sqlite:///x.db", "sqlite"),
    ],
)
def test_a_missing_library_is_answered_with_the_line_that_installs_it(library: str, url: str, extra: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(library=library, url=url)],
        env={"PYTHONPATH": str(Path(penstock.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert [line.split()[0] for line in lines] == ["MissingExtra"] * 2
    assert all(f"pip install 'penstock[{extra}]'" in line for line in lines)


def _nobody_listens() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_server_that_cannot_be_reached_is_a_clear_error_for_producers_and_for_workers() -> None:
    url = f"redis://:secret@127.0.0.1:{_nobody_listens()}"
    with pytest.raises(ConnectionFailed, match="cannot be reached") as failure:
        await Producer(open_broker(url), "s", Order).send(Order(1))
    worker = Worker(Consumer(open_broker(url), "s", Order, nothing))
    with pytest.raises(ConnectionFailed, match="cannot be reached"):
        await worker.start()
    assert "secret" not in str(failure.value)
    assert await worker.stop()


async def test_a_database_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be looked at " * 50)
    for path, words in (("no/such/directory.db", "does not exist"), ("text", "no SQLite database"), (".", "directory")):
        with pytest.raises(BrokerError, match=words):
            await Producer(open_broker(f"sqlite:///{tmp_path / path}"), "s", Order).send(Order(1))


async def test_a_wrong_password_is_access_denied_and_named_nowhere(durable_server: OwnServer) -> None:
    durable_server.call("CONFIG", "SET", "requirepass", "right")
    for password in ("wr0ng-secret", ""):
        user = f":{password}@" if password else ""
        url = durable_server.url.replace("redis://", f"redis://{user}")
        broker = open_broker(url)
        with pytest.raises(AccessDenied) as refusal:
            await Producer(broker, "s", Order).send(Order(1))
        await broker.close()
        worker = Worker(Consumer(open_broker(url), "s", Order, nothing))
        with pytest.raises(AccessDenied):
            await worker.start()
        assert isinstance(refusal.value, PenstockError)
        assert "wr0ng-secret" not in f"{refusal.value!r} {refusal.value}"
    right = open_broker(durable_server.url.replace("redis://", "redis://:right@"))
    assert await Producer(right, "s", Order).send(Order(1))
    await right.close()
