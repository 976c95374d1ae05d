"""A server that speaks SQS for tests: ElasticMQ where Java and Maven are, else moto, or somebody's, by URL.

ElasticMQ is the better one: strict about limits, and fast. Its messages are in a database below its folder when it is
``durable``. moto comes from PyPI; it grows slow with long queues, so that tests on it keep them short; it speaks SNS as
well. ``PENSTOCK_TEST_SQS_URL`` names a running server instead, as an ``sqs://`` address; its queues are deleted.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.maven import fetch_jars
from tests.servers.redis_server import PORT_ATTEMPTS, STOPPED_WITHIN, ServerUnavailableError, free_port

READY_WITHIN = 60.0  # a Java server on a busy machine takes its time
ELASTICMQ = "org.elasticmq:elasticmq-server_2.13:1.7.1"
REGION = "eu-west-1"
_CONFIGURATION = """include classpath("application.conf")
node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-hostname = "127.0.0.1", bind-port = {port}, sqs-limits = strict }}
rest-stats.enabled = false
queues-storage {{ enabled = {durable}, path = "{folder}/queues.conf" }}
messages-storage {{ enabled = {durable}, driver-class = "org.h2.Driver", uri = "jdbc:h2:{folder}/messages" }}
"""


class SqsServer:
    """A running server. ``url``: for penstock; ``endpoint``: for a bare client. ``kind``: which one it is."""

    kind = "sqs"

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def endpoint(self) -> str:
        scheme = "http" if "tls=false" in self.url else "https"
        return f"{scheme}://{self.url.partition('://')[2].partition('?')[0].rpartition('@')[2]}"

    @property
    def client_options(self) -> Mapping[str, str]:
        """What a bare client of botocore's family is to be made with."""
        access = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        return {"region_name": REGION, "endpoint_url": self.endpoint, **access}

    def client(self) -> Any:
        """A bare, blocking client."""
        import botocore.session

        return botocore.session.Session().create_client("sqs", **self.client_options)

    def flush(self) -> None:
        """Delete every queue."""
        client = self.client()
        try:
            while urls := client.list_queues(MaxResults=1000).get("QueueUrls"):
                for url in urls:
                    client.delete_queue(QueueUrl=url)
        finally:
            client.close()


class OwnSqsServer(SqsServer):
    """A server process of ours, on one port for its whole life, through kills and restarts."""

    kind: ClassVar[str]
    path = "/"

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__("")
        self.durable = durable
        self._command = self.command()
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-server-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def command(self) -> list[str]:
        """What it is started with, but for the port. Raises ServerUnavailableError."""
        raise NotImplementedError

    def arguments(self, port: int) -> list[str]:
        """The rest of the command line."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> OwnSqsServer:
        """Start, or start again on the same port; returns when the server answers."""
        if self.running:
            return self
        for _ in range(1 if self.port else PORT_ATTEMPTS):
            port = self.port or free_port()
            self.url = f"sqs://local:local@127.0.0.1:{port}?region={REGION}&tls=false"
            self._spawn(port)
            if self._becomes_ready():
                self.port = port
                return self
            self.kill()
        log = (self.directory / "log").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"{self.kind} did not start:\n{log}")

    def kill(self) -> None:
        """``kill -9``: what is not on disk is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in an orderly way and start again, on the same port, with what is on disk."""
        self._end(signal.SIGTERM)
        self.start()

    def stop(self) -> None:
        """Stop for good and remove the server's files. May be called in any state, and twice."""
        self._end(signal.SIGKILL)  # it would take its time, and nothing is to be kept
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, port: int) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *self.arguments(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + READY_WITHIN
        while self.running and time.monotonic() < deadline:
            with suppress(Exception):  # whatever the client says while nobody listens
                client = self.client()
                try:
                    client.list_queues(MaxResults=1)
                finally:
                    client.close()
                return self.running
            time.sleep(0.05)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.send_signal(how)
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ElasticMQ(OwnSqsServer):
    """Started from its jars."""

    kind = "ElasticMQ"

    def command(self) -> list[str]:
        jars = fetch_jars("elasticmq", ELASTICMQ)
        return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]

    def arguments(self, port: int) -> list[str]:
        path = self.directory / "elasticmq.conf"
        durable = str(self.durable).lower()
        path.write_text(_CONFIGURATION.format(port=port, durable=durable, folder=self.directory))
        return [f"-Dconfig.file={path}", "org.elasticmq.server.Main"]


class Moto(OwnSqsServer):
    """moto's server: in memory only."""

    kind = "moto"

    def command(self) -> list[str]:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise ServerUnavailableError("moto is not installed: pip install 'moto[server,sqs]'")
        return [sys.executable, "-m", "moto.server"]

    def flush(self) -> None:
        """Forget everything, topics and subscriptions included."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def arguments(self, port: int) -> list[str]:
        return ["-H", "127.0.0.1", "-p", str(port)]


def obtain() -> SqsServer:
    """The server for ordinary tests: the one named by the environment, else ElasticMQ, else moto."""
    _need_client()
    if url := os.environ.get("PENSTOCK_TEST_SQS_URL"):
        return SqsServer(url)
    try:
        return ElasticMQ().start()
    except ServerUnavailableError as missing:
        print(f"SQS tests run on moto: {missing}")
        return Moto().start()


def moto() -> OwnSqsServer:
    """The second opinion."""
    _need_client()
    return Moto().start()


def durable() -> OwnSqsServer:
    """One that a test may kill and bring back with everything in it; not started."""
    _need_client()
    return ElasticMQ(durable=True)


def _need_client() -> None:
    if importlib.util.find_spec("aiobotocore") is None:
        raise ServerUnavailableError("the client library is missing: pip install 'penstock[sqs]'")
