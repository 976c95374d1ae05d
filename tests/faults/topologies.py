"""Servers that faults befall: how they are started, where clients find them, how they are hurt.

A topology is one small class. Faults ask for what they need by the names of its methods: one that a topology does not
have is not run on it.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from penstock.testing import FaultProxy
from tests.servers.redis_server import OwnServer, find_binary

NAMES = {"redis": "Redis", "valkey": "Valkey"}
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")


class SingleServer:
    """One server with an append-only file. Workers reach it through a proxy, everybody else directly."""

    def __init__(self, kind: str, options: tuple[str, ...] = ALWAYS) -> None:
        self._kind = kind
        self._server = OwnServer(find_binary(kind), options=options)
        self._proxy: FaultProxy | None = None
        self.name = NAMES[kind]

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)
        about = self.call("INFO", "server")
        self.name = f"{NAMES[self._kind]} {about.get('valkey_version') or about['redis_version']}"
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
        """The numbers of the jobs that the server has: waiting, leased or delayed."""
        return _numbers(self.call("XRANGE", stream, "-", "+"), self.call("ZRANGE", f"{stream}:retry", 0, -1))

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
        return max((self._server._directory / "appendonlydir").glob("*.incr.aof"))


def _numbers(entries: list[Any], delayed: list[Any]) -> set[int]:
    payloads = [fields[b"payload"] for _, fields in entries]
    payloads += [json.loads(member)["fields"]["payload"] for member in delayed]
    return {json.loads(payload)["number"] for payload in payloads}
