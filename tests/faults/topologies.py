"""Servers that faults befall: how they are started, where clients find them, how they are hurt.

A topology is one small class; each fault names the one that it is for.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Protocol

from penstock.testing import FaultProxy
from tests.servers.redis_cluster import OwnCluster
from tests.servers.redis_sentinel import OwnSentinels
from tests.servers.redis_server import OwnServer, find_binary

STREAM = "jobs"
NAMES = {"redis": "Redis", "valkey": "Valkey"}
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")


class Topology(Protocol):
    """What every stage stands on."""

    @property
    def name(self) -> str:
        """What it is, with its version."""
        ...

    @property
    def url(self) -> str:
        """Where the sender and the judge find it."""
        ...

    @property
    def workers_url(self) -> str:
        """Where the workers do."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def kept(self, stream: str) -> set[int]:
        """The numbers of the jobs that it has: waiting, leased or delayed."""
        ...


class SingleServer:
    """One server with an append-only file. Workers reach it through a proxy, everybody else directly."""

    def __init__(self, kind: str, options: tuple[str, ...] = ALWAYS) -> None:
        self._kind = kind
        self._server = OwnServer(find_binary(kind), options=options)
        self._proxy: FaultProxy | None = None
        self.name = NAMES[kind]

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)
        self.name = _name(self._kind, self._server)
        self._proxy = FaultProxy("127.0.0.1", self._server.port)
        await self._proxy.listen()

    async def stop(self) -> None:
        await self.network.__aexit__()
        self._server.stop()

    @property
    def url(self) -> str:
        """Where the sender and the judge find it, whatever happens to the network of the workers."""
        return self._server.url

    @property
    def workers_url(self) -> str:
        return f"redis://127.0.0.1:{self.network.port}/0"

    @property
    def network(self) -> FaultProxy:
        assert self._proxy is not None
        return self._proxy

    def call(self, *command: str | int) -> Any:
        return self._server.call(*command)

    # ------------------------------------------------------------------------------------------------ what is there

    def kept(self, stream: str) -> set[int]:
        return _kept(self._server, stream, f"{stream}:retry")

    # ------------------------------------------------------------------------------------------------ how it is hurt

    async def kill(self) -> None:
        """``kill -9``. Clients find nobody there until ``restart``."""
        self._server.kill()
        self.network.refuse()

    async def restart(self, stream: str) -> set[int]:
        """Start again with what is on disk; return what that is, seen before any worker can reach it."""
        await asyncio.to_thread(self._server.start)
        kept = self.kept(stream)
        await self.network.listen()
        return kept

    def log_size(self) -> int:
        """Bytes of the append-only file."""
        return self._log().stat().st_size

    def forget_behind(self, size: int) -> None:
        """Cut the append-only file off there, as the crash of a machine does that had not written more to its disk."""
        with self._log().open("r+b") as file:
            file.truncate(size)

    def flush_all(self, stream: str) -> set[int]:
        """FLUSHALL; return what it destroyed, seen in the same transaction."""
        import redis

        with redis.Redis.from_url(self.url) as client, client.pipeline(transaction=True) as pipe:
            pipe.xrange(stream)
            pipe.zrange(f"{stream}:retry", 0, -1)
            pipe.flushall()
            entries, delayed, _ = pipe.execute()
        return _numbers(entries, delayed)

    def flush_scripts(self) -> None:
        self.call("SCRIPT", "FLUSH")

    def destroy_group(self, stream: str, group: str) -> None:
        assert self.call("XGROUP", "DESTROY", stream, group) == 1

    def _log(self) -> Path:
        return max((self._server.directory / "appendonlydir").glob("*.incr.aof"))


class Replicated:
    """A primary that has a replica: the part of a larger topology that can be hurt."""

    primary: OwnServer
    replica: OwnServer

    def kill_primary(self) -> None:
        """``kill -9``; nobody brings it back."""
        self.primary.kill()

    @property
    def promoted(self) -> bool:
        """Whether the replica has taken over."""
        import redis

        try:
            return bool(self.replica.call("INFO", "replication")["role"] == "master")
        except redis.ConnectionError:  # it drops its clients when its role changes
            return False


class Sentinels(Replicated):
    """A primary, its replica and three sentinels."""

    def __init__(self, kind: str, _options: tuple[str, ...] = ()) -> None:
        self._kind, self._servers = kind, OwnSentinels(find_binary(kind))
        self.name = NAMES[kind]

    async def start(self) -> None:
        await asyncio.to_thread(self._servers.start)
        assert self._servers.replica is not None
        self.primary, self.replica = self._servers.primary, self._servers.replica
        self.name = f"{_name(self._kind, self.primary)}, Sentinel"

    async def stop(self) -> None:
        self._servers.stop()

    @property
    def url(self) -> str:
        return self._servers.url

    workers_url = url

    def kept(self, stream: str) -> set[int]:
        return _kept(self.primary if self.primary.running else self.replica, stream, f"{stream}:retry")


class Cluster(Replicated):
    """Three primaries with a replica each. The one that has the stream is the one to be hurt."""

    def __init__(self, kind: str, _options: tuple[str, ...] = ()) -> None:
        self._kind, self._servers = kind, OwnCluster(find_binary(kind), replicas=3)
        self.name = NAMES[kind]

    async def start(self) -> None:
        await asyncio.to_thread(self._servers.start)
        self.primary = self._servers.at(STREAM)
        self.replica = self._servers.replicas[self._servers.primaries.index(self.primary)]
        self.name = f"{_name(self._kind, self.primary)}, Cluster"

    async def stop(self) -> None:
        self._servers.stop()

    @property
    def url(self) -> str:
        return self._servers.url

    workers_url = url

    def kept(self, stream: str) -> set[int]:
        return _kept(self.primary if self.primary.running else self.replica, stream, f"{{{stream}}}:retry")


def _name(kind: str, server: OwnServer) -> str:
    about = server.call("INFO", "server")
    return f"{NAMES[kind]} {about.get('valkey_version') or about['redis_version']}"


def _kept(server: OwnServer, stream: str, delayed: str) -> set[int]:
    import redis

    with redis.Redis.from_url(server.url, single_connection_client=True) as client:
        if client.info("cluster")["cluster_enabled"]:
            client.execute_command("READONLY")  # a replica in a cluster sends us away otherwise
        return _numbers(client.xrange(stream), client.zrange(delayed, 0, -1))


def _numbers(entries: list[Any], delayed: list[Any]) -> set[int]:
    payloads = [fields[b"payload"] for _, fields in entries]
    payloads += [json.loads(member)["fields"]["payload"] for member in delayed]
    return {json.loads(payload)["number"] for payload in payloads}
