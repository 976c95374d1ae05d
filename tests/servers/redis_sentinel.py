"""A primary, its replica, and three sentinels that watch them: processes of our own on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.servers.redis_server import READY_WITHIN, OwnServer

SERVICE = "jobs"
SENTINELS = 3


class OwnSentinel(OwnServer):
    """One sentinel, with its file of what it knows in its own directory."""

    def __init__(self, binary: Path, primary: OwnServer) -> None:
        super().__init__(binary)
        self._primary = primary

    def _arguments(self, port: int) -> list[str]:
        lines = [
            "bind 127.0.0.1",
            f"port {port}",
            f"dir {self.directory}",
            f"logfile {self.directory / 'log'}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._primary.port} {SENTINELS // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        path = self.directory / "sentinel.conf"
        if not path.exists():
            path.write_text("\n".join(lines) + "\n")
        return [str(path), "--sentinel"]


class OwnSentinels:
    """The whole of it. ``primary`` is the one at the start; after a failover it is the ``replica``."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self.primary = OwnServer(binary, options=("--repl-diskless-sync-delay", "0"))
        self.replica: OwnServer | None = None
        self.sentinels: list[OwnSentinel] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def start(self) -> OwnSentinels:
        """Start all; returns when the sentinels know each other and the replica. Leaves nothing behind if not."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        self.primary.start()
        behind = ("--replicaof", f"127.0.0.1 {self.primary.port}", "--repl-diskless-sync-delay", "0")
        self.replica = OwnServer(self._binary, options=behind).start()
        self._until(self._online)
        for _ in range(SENTINELS):
            self.sentinels.append(OwnSentinel(self._binary, self.primary))
            self.sentinels[-1].start()
        self._until(lambda: all(self._ready(each) for each in self.sentinels))

    def stop(self) -> None:
        """Stop for good. May be called in any state, and twice."""
        for server in [*self.sentinels, *([self.replica] if self.replica else []), self.primary]:
            server.stop()

    def _online(self) -> bool:
        replica = self.primary.call("INFO", "replication").get("slave0", {})
        return isinstance(replica, dict) and replica.get("state") == "online"

    def _ready(self, sentinel: OwnSentinel) -> bool:
        state = sentinel.call("SENTINEL", "MASTER", SERVICE)
        pairs = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
        known = {_text(name): _text(value) for name, value in pairs.items()}
        return known["num-slaves"] == "1" and known["num-other-sentinels"] == str(SENTINELS - 1)

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the servers did not find each other in time")
            time.sleep(0.05)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
