"""A RabbitMQ for tests: somebody's, by URL, or our own node that a test may kill and bring back.

``make servers`` installs Debian's ``rabbitmq-server`` (3.10). A node needs seven seconds to start, so there is one for
the whole run, and each test has a vhost of its own. ``PENSTOCK_TEST_RABBITMQ_URL`` names a running server instead, and
``PENSTOCK_TEST_RABBITMQ_MANAGEMENT`` its management API.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.servers.redis_server import ServerUnavailableError, free_port

READY_WITHIN = 60.0
STOPPED_WITHIN = 20.0
SCRIPT = "lib/rabbitmq/bin/rabbitmq-server"
TICK = 0.1  # seconds between two emissions of the numbers that the management API tells; 5 by default


class RabbitmqServer:
    """A running server: ``url`` without a vhost, ``management`` the URL of its API."""

    def __init__(self, url: str, management: str) -> None:
        self.url, self.management = url, management

    def vhost(self) -> str:
        """A new, empty vhost; the URL of it."""
        name = f"t-{uuid.uuid4().hex[:10]}"
        self.make(name)
        return f"{self.url}/{name}"

    def make(self, vhost: str) -> None:
        """A vhost that everybody may use."""
        self.api("PUT", f"/api/vhosts/{quote(vhost, safe='')}", {})
        user = urlsplit(self.url).username or "guest"
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"/api/permissions/{quote(vhost, safe='')}/{user}", everything)

    def drop(self, url: str) -> None:
        """Delete the vhost of this URL with all that is in it; who is connected to it is cut off."""
        with suppress(urllib.error.HTTPError):
            self.api("DELETE", f"/api/vhosts/{url.rpartition('/')[2]}")

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the management API."""
        parts = urlsplit(self.url)
        token = base64.b64encode(f"{parts.username or 'guest'}:{parts.password or 'guest'}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.management + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if content else None


class OwnRabbitmq(RabbitmqServer):
    """A node of ours, on loopback only, on one port for its whole life, through kills and restarts."""

    def __init__(self, script: Path) -> None:
        self._script = script
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-rabbitmq-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []
        super().__init__("", "")

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> OwnRabbitmq:
        """Start, or start again with what is on disk; returns when the server and its API answer."""
        if self.running:
            return self
        if not self._ports:
            self._ports = [free_port() for _ in range(4)]
            self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
            self.management = f"http://127.0.0.1:{self._ports[1]}"
            self._configure()
        with (self.directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [str(self._script)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        if not self._becomes_ready():
            log = (self.directory / "out").read_text(errors="replace")[-2000:]
            self.stop()
            raise RuntimeError(f"{self._script} did not start:\n{log}")
        return self

    def kill(self) -> None:
        """``kill -9``: what is not on disk is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in an orderly way and start again, on the same ports, with what is on disk."""
        self._end(signal.SIGTERM)
        self.start()

    def stop(self) -> None:
        """Stop for good and remove the server's files, and the port mapper that it left behind."""
        self._end(signal.SIGTERM)
        for pid in _with_port("epmd", self._ports[3] if self._ports else 0):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _configure(self) -> None:
        (self.directory / "home").mkdir()
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self._ports[1]}\n"
            "vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 50MB\n"
            f"collect_statistics_interval = {round(TICK * 1000)}\n"
        )
        (self.directory / "advanced.config").write_text(
            f"[{{rabbit, [{{quorum_tick_interval, {round(TICK * 1000)}}}]}}].\n"
        )
        (self.directory / "enabled_plugins").write_text("[rabbitmq_management].\n")

    def _environment(self) -> dict[str, str]:
        base = str(self.directory)
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": f"{base}/home",
            "RABBITMQ_NODENAME": f"jobs{self.port}@localhost",
            "RABBITMQ_BASE": base,
            "RABBITMQ_MNESIA_BASE": f"{base}/mnesia",
            "RABBITMQ_LOG_BASE": f"{base}/log",
            "RABBITMQ_CONFIG_FILE": f"{base}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{base}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{base}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{base}/pid",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # Without these the node and the port mapper listen on all addresses
            "RABBITMQ_DIST_PORT": str(self._ports[2]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._ports[3]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + READY_WITHIN
        while self.running and time.monotonic() < deadline:
            try:
                self.api("GET", "/api/overview")
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return True
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.1)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # The script may have stayed as a parent of the node: they share a session of their own
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _free_again(self.port)


def _free_again(port: int) -> None:
    """The node may end a moment after its script."""
    deadline = time.monotonic() + STOPPED_WITHIN
    while time.monotonic() < deadline:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return
        time.sleep(0.05)


def _with_port(program: str, port: int) -> list[int]:
    """Processes of this program that were given this port mapper's port."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if program not in (folder / "comm").read_text():
                continue
            if f"ERL_EPMD_PORT={port}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def obtain_rabbitmq() -> RabbitmqServer:
    """The server named by the environment, else one of our own, started."""
    url = os.environ.get("PENSTOCK_TEST_RABBITMQ_URL")
    if url:
        return RabbitmqServer(url.rstrip("/"), os.environ.get("PENSTOCK_TEST_RABBITMQ_MANAGEMENT", ""))
    return OwnRabbitmq(find_rabbitmq()).start()


def find_rabbitmq() -> Path:
    """The script that starts a node; raises ServerUnavailableError."""
    if importlib.util.find_spec("aiormq") is None:
        raise ServerUnavailableError("the client library is missing: pip install 'penstock[rabbitmq]'")
    for root in ("/usr", "/usr/local", "/opt/homebrew"):
        path = Path(root) / SCRIPT
        if os.access(path, os.X_OK):
            return path
    raise ServerUnavailableError("rabbitmq-server is not installed (`make servers` does it, as root)")
