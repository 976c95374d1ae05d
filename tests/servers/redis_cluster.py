"""A cluster for tests: processes of our own on loopback, one primary for each third of the slots, replicas on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers.redis_server import READY_WITHIN, OwnServer, free_port

SHARES = ((0, 5460), (5461, 10921), (10922, 16383))


class OwnNode(OwnServer):
    """One node: a server with a second port, for the other nodes."""

    bus = 0

    def _arguments(self, port: int) -> list[str]:
        if not self.port:  # nothing is settled yet: a second try is one on two other ports
            self.bus = free_port()
        return [*super()._arguments(port), *_options(self.bus)]


class OwnCluster:
    """Three primaries; ``replicas`` of them, from the first on, with a replica that takes over when they die."""

    def __init__(self, binary: Path, *, replicas: int = 0) -> None:
        self._nodes = [OwnNode(binary) for _ in range(3 + replicas)]
        self.primaries, self.replicas = self._nodes[:3], self._nodes[3:]

    @property
    def url(self) -> str:
        """The address that names every primary; any one of them would do."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.primaries)

    def start(self) -> OwnCluster:
        """Start all nodes; returns when they agree that every slot is served. Leaves nothing behind if they do not."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        for node in self._nodes:
            node.start()
        for epoch, (node, (first, last)) in enumerate(zip(self.primaries, SHARES, strict=True), 1):
            node.call("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for node in self._nodes[1:]:
            self._nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        _until(lambda: all(_knows(node, len(self._nodes)) for node in self._nodes))
        for replica, primary in zip(self.replicas, self.primaries, strict=False):
            replica.call("CLUSTER", "REPLICATE", _text(primary.call("CLUSTER", "MYID")))
        _until(lambda: all(_is_up(node) for node in self._nodes))
        _until(lambda: all(node.call("INFO", "replication")["master_link_status"] == "up" for node in self.replicas))

    def call_all(self, *command: str | int) -> list[Any]:
        """Run one command on each primary."""
        return [node.call(*command) for node in self.primaries]

    def at(self, key: str) -> OwnServer:
        """The primary that the slot of ``key`` belonged to at the start."""
        slot = self._nodes[-1].call("CLUSTER", "KEYSLOT", key)
        return next(node for node, (first, last) in zip(self.primaries, SHARES, strict=True) if first <= slot <= last)

    def flush(self) -> None:
        """Empty every node."""
        self.call_all("FLUSHALL")

    def stop(self) -> None:
        """Stop for good. May be called in any state, and twice."""
        for node in self._nodes:
            node.stop()


def _options(bus: int) -> tuple[str, ...]:
    enabled = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1500")
    where = ("--cluster-announce-ip", "127.0.0.1", "--cluster-port", str(bus))  # the default is port + 10000: too high
    return (*enabled, *where, "--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")


def _knows(node: OwnServer, count: int) -> bool:
    return _text(node.call("CLUSTER", "NODES")).count(" connected") == count


def _is_up(node: OwnServer) -> bool:
    return "cluster_state:ok" in _text(node.call("CLUSTER", "INFO"))


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the servers did not find each other in time")
        time.sleep(0.02)
