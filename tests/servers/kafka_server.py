"""An Apache Kafka for tests: somebody's, by ``PENSTOCK_TEST_KAFKA_URL``, or our own process that a test may kill.

Its jars are what Maven's default repository has; ``mvn`` fetches them once, into the user's cache
(``PENSTOCK_TEST_KAFKA_JARS`` names a folder that has them already). One process is broker and controller. Each server
has a second listener that is advertised at another port, ``proxied``: a test may put a FaultProxy there.
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.redis_server import ServerUnavailableError, free_port

VERSION = "4.1.1"
READY_WITHIN = 60.0
STOPPED_WITHIN = 20.0
FETCHED_WITHIN = 300.0

POM = f"""<project><modelVersion>4.0.0</modelVersion>
<groupId>penstock</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
</dependency></dependencies></project>
"""

JAVA = (
    "-Xmx384m",
    "-Xms128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # it runs for a minute: what starts fast is fast
    "-Djava.net.preferIPv4Stack=true",
)


class KafkaServer:
    """A running cluster at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def bootstrap(self) -> str:
        return self.url.partition("://")[2]

    def flush(self) -> None:
        """Delete all topics, and with them how far the groups have come."""
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": self.bootstrap})
        topics = [name for name in client.list_topics(timeout=10.0).topics if not name.startswith("__")]
        for future in client.delete_topics(topics).values() if topics else ():
            future.result(10.0)

    def stop(self) -> None:
        """It is somebody else's."""


class OwnKafka(KafkaServer):
    """A process of ours, on the same ports for its whole life, with its data kept through kills and restarts."""

    def __init__(self, jars: Path) -> None:
        self._jars = jars
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
        self.port, self.inner, self.proxied = free_port(), free_port(), free_port()
        self._controller = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"kafka://127.0.0.1:{self.port}")

    @property
    def proxied_url(self) -> str:
        """The address of a proxy before ``inner``."""
        return f"kafka://127.0.0.1:{self.proxied}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> OwnKafka:
        """Start, or start again; returns when it answers."""
        if self.running:
            return self
        config = self.directory / "server.properties"
        if not config.exists():
            config.write_text(self._properties())
            ident = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
            self._java("kafka.tools.StorageTool", "format", "-t", ident, "-c", str(config), "--ignore-formatted")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if not self._becomes_ready():
            text = (self.directory / "log").read_text(errors="replace")[-3000:]
            self.stop()
            raise RuntimeError(f"Kafka {VERSION} did not start on {self.url}:\n{text}")
        return self

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in an orderly way and start again."""
        self._end(signal.SIGTERM)
        self.start()

    @contextmanager
    def frozen(self) -> Generator[None]:
        """SIGSTOP while the block runs."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop for good and remove its files. May be called in any state, and twice."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _properties(self) -> str:
        inside, proxied = f"PLAINTEXT://127.0.0.1:{self.port}", f"127.0.0.1:{self.proxied}"
        controller = f"127.0.0.1:{self._controller}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{inside},PROXIED://127.0.0.1:{self.inner},CONTROLLER://{controller}",
            "advertised.listeners": f"{inside},PROXIED://{proxied}",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
            "log.dirs": self.directory / "logs",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 2,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 500,
            "auto.create.topics.enable": "false",
            "log.cleaner.enable": "false",
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _command(self, *arguments: str) -> list[str]:
        return ["java", *JAVA, "-cp", f"{self._jars}/*", *arguments]

    def _java(self, *arguments: str) -> None:
        done = subprocess.run(self._command(*arguments), capture_output=True, timeout=READY_WITHIN, check=False)
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} failed:\n{done.stdout.decode()}\n{done.stderr.decode()}")

    def _becomes_ready(self) -> bool:
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 100})
        deadline = time.monotonic() + READY_WITHIN
        while self.running and time.monotonic() < deadline:
            with suppress(Exception):  # not listening yet
                if client.list_topics(timeout=1.0).brokers:
                    return True
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


def obtain() -> KafkaServer:
    """The cluster for ordinary tests: the one named by the environment, else one of our own, started."""
    url = os.environ.get("PENSTOCK_TEST_KAFKA_URL")
    return KafkaServer(url) if url else OwnKafka(find_jars()).start()


def find_jars() -> Path:
    """Kafka's jars, fetched if they are not there; raises ServerUnavailableError."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        raise ServerUnavailableError("confluent-kafka is not installed: pip install 'penstock[kafka]'") from None
    if shutil.which("java") is None:
        raise ServerUnavailableError("java, which runs Kafka, is not installed (`make servers` does it, as root)")
    named = os.environ.get("PENSTOCK_TEST_KAFKA_JARS")
    if named:
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock" / f"kafka-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of one test run
        if not (cache / "complete").exists():
            _fetch(cache)
    return cache / "jars"


def _fetch(cache: Path) -> None:
    if shutil.which("mvn") is None:
        raise ServerUnavailableError("mvn, which fetches Kafka, is not installed (`make servers` does it, as root)")
    (cache / "pom.xml").write_text(POM)
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(
            [*command, f"-DoutputDirectory={cache / 'jars'}"],
            cwd=cache,
            capture_output=True,
            timeout=FETCHED_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServerUnavailableError(f"Kafka {VERSION} could not be fetched within {FETCHED_WITHIN:.0f} s") from None
    if done.returncode:
        raise ServerUnavailableError(f"Kafka {VERSION} could not be fetched: {done.stdout.decode()[-500:]}")
    (cache / "complete").touch()


def main() -> int:
    """``python -m tests.servers.kafka_server``: fetch what is needed, for ``make servers``."""
    try:
        print(f"Kafka {VERSION}: {find_jars()}")
    except ServerUnavailableError as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
