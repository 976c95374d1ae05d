"""A cluster: one client for each node, and a map of who has which slot.

A command goes to the node that has the slot of its first key. A node that no longer has it says so (MOVED): the map is
asked for anew, from the node it names first, and the command sent again. While a slot moves, single commands are sent
on (ASK). A node that cannot be reached makes the map stale: the next command asks whoever answers.
"""

from __future__ import annotations

import asyncio
import binascii
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Self, cast

from ..errors import AccessDenied, BrokerError, ConnectionFailed
from .redis import Arg, Command, DedicatedConnection, Redirected, RedisClient, Script, run_script
from .redis_address import Host, RedisAddress
from .redis_py import CONNECT_TIMEOUT, TIMEOUT, RedisPyClient

SLOTS = 16384
REDIRECTIONS = 5  # of one command, before it is given up: a cluster at rest needs one

_KEYLESS = frozenset(
    {"PING", "INFO", "CONFIG", "SCAN", "CLIENT", "TIME", "ACL", "CLUSTER", "COMMAND", "ROLE", "DBSIZE"}
)
_SECOND = frozenset({"XGROUP", "XINFO", "OBJECT", "MEMORY"})  # their first argument is a subcommand


def slot_of(key: Arg) -> int:
    """The slot of a key: what stands between the first pair of braces counts, else the whole of it."""
    name = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogateescape")
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS


def key_of(command: Command) -> Arg | None:
    """The first key of one of the commands that penstock sends, or ``None`` for one without."""
    name = str(command[0]).upper()
    if name in _KEYLESS:
        return None
    if name in {"EVAL", "EVALSHA"}:
        return command[3] if command[2] else None
    if name in {"XREADGROUP", "XREAD"}:  # of one stream: its name and an id are the last two
        return command[-2]
    return command[2 if name in _SECOND else 1]


class RedisClusterClient:
    """A client of all nodes of one cluster."""

    clustered = True

    def __init__(
        self, address: RedisAddress, *, timeout: float = TIMEOUT, connect_timeout: float = CONNECT_TIMEOUT
    ) -> None:
        self.address, self._timeout, self._connect_timeout = address, timeout, connect_timeout
        self._nodes: dict[Host, RedisClient] = {}
        self._owners: list[Host | None] = []
        self._silent: set[Host] = set()
        self._stale, self._answers = True, 0
        self._asking = asyncio.Lock()
        self.node(address.hosts[0])  # no I/O: refuses options that cannot be used

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address.masked!r})"

    @property
    def url(self) -> str:
        return self.address.masked

    # ------------------------------------------------------------------------------------------------------- commands

    async def call(self, *command: Arg) -> Any:
        key = key_of(command)
        return await self.redirected(key, lambda host: self.node(host).call(*command), command)

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        """As the port says; order is kept for each key."""
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for _ in range(REDIRECTIONS):
            left = await self._send(commands, left, replies)
            if not left:
                break
        if replies and all(isinstance(reply, ConnectionFailed) for reply in replies):
            raise replies[0]
        return replies

    async def run(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
        return await run_script(self.call, script, keys, args)

    def dedicated(self) -> RedisClusterDedicated:
        return RedisClusterDedicated(self)

    async def unblock(self, ident: object) -> None:
        host, number = cast("tuple[Host, object]", ident)
        if host in self._nodes:
            await self._nodes[host].unblock(number)

    async def primaries(self) -> Sequence[RedisClient]:
        await self._look()
        return [self.node(host) for host in dict.fromkeys(self._owners) if host is not None]

    def fork(self) -> Self:
        return type(self)(self.address, timeout=self._timeout, connect_timeout=self._connect_timeout)

    async def close(self) -> None:
        self._stale = True
        for node in self._nodes.values():
            await node.close()

    # ------------------------------------------------------------------------------------------------------- plumbing

    def node(self, host: Host) -> RedisClient:
        """The client of one node."""
        if host not in self._nodes:
            self._nodes[host] = self.make_node(self.address.at(*host))
        return self._nodes[host]

    def make_node(self, address: RedisAddress) -> RedisClient:
        """A new client for a node. Another library's adapter overrides it."""
        return RedisPyClient(address, timeout=self._timeout, connect_timeout=self._connect_timeout)

    async def owner(self, key: Arg | None) -> Host:
        """The node for a key, or any node."""
        await self._look()
        return self._place(key)

    def _place(self, key: Arg | None) -> Host:
        if key is None:
            hosts = [host for host in dict.fromkeys(self._owners) if host is not None]
            answering = [host for host in hosts if host not in self._silent]
            return random.choice(answering or hosts)  # noqa: S311 - any will do
        slot = slot_of(key)
        host = self._owners[slot]
        if host is None:
            self._stale = True
            raise ConnectionFailed(f"{self.url}: no node serves slot {slot}, where {key!r} belongs")
        return host

    async def redirected(self, key: Arg | None, send: Callable[[Host], Awaitable[Any]], command: Command) -> Any:
        """Send to whom the key belongs, again if that turns out to be another one."""
        for _ in range(REDIRECTIONS):
            host = await self.owner(key)
            try:
                return await send(host)
            except Redirected as elsewhere:
                answer = await self._follow(elsewhere, command)
                if answer is not None:
                    return _raised(answer[0])
            except ConnectionFailed:
                self._lost(host)
                if key is not None or self._silent.issuperset(filter(None, self._owners)):
                    raise  # else another node can tell as well
        raise ConnectionFailed(f"{self.url}: sent from node to node {REDIRECTIONS} times")

    async def _send(self, commands: Sequence[Command], which: Iterable[int], replies: list[Any]) -> list[int]:
        """Send some of the commands, each node its own in one go; return those that belong elsewhere."""
        shares: dict[Host, list[int]] = {}
        await self._look()
        for index in which:
            try:
                shares.setdefault(self._place(key_of(commands[index])), []).append(index)
            except ConnectionFailed as nobody:
                replies[index] = nobody

        async def share(host: Host, indices: list[int]) -> None:
            try:
                answers: list[Any] = await self.node(host).many([commands[i] for i in indices])
            except ConnectionFailed as lost:
                answers = [lost] * len(indices)
            if isinstance(answers[0], ConnectionFailed):  # not reached, or loading: a replica may have taken over
                self._lost(host)
            for index, answer in zip(indices, answers, strict=True):
                replies[index] = answer

        await asyncio.gather(*(share(host, indices) for host, indices in shares.items()))
        again: list[int] = []
        for index in sorted(index for indices in shares.values() for index in indices):
            if isinstance(elsewhere := replies[index], Redirected):
                answer = await self._follow(elsewhere, commands[index])
                if answer is None:
                    again.append(index)
                else:
                    replies[index] = answer[0]
        return again

    async def _follow(self, elsewhere: Redirected, command: Command) -> tuple[Any] | None:
        """Learn where a slot is now (then there is no answer yet), or send one command after it."""
        target = (elsewhere.host or self.address.hosts[0][0], elsewhere.port)
        if elsewhere.code == "MOVED":
            self._stale = True
            with suppress(ConnectionFailed):
                await self._look(first=target)
            return None
        try:
            return ((await self.node(target).many([("ASKING",), command]))[1],)
        except ConnectionFailed as lost:
            return (lost,)

    def _lost(self, host: Host) -> None:
        self._silent.add(host)
        self._stale = True

    async def _look(self, first: Host | None = None) -> None:
        """Bring the map up to date, if it is not."""
        if not self._stale:
            return
        before = self._answers
        async with self._asking:
            if before == self._answers:  # else somebody else has just asked
                await self._ask(first)

    async def _ask(self, first: Host | None) -> None:
        known = list(dict.fromkeys([*self._nodes, *self.address.hosts]))
        random.shuffle(known)
        known.sort(key=self._silent.__contains__)  # one that did not answer may cost the whole timeout again
        failures: list[str] = []
        for host in dict.fromkeys([*((first,) if first else ()), *known]):
            try:
                shards = await self.node(host).call("CLUSTER", "SLOTS")
            except AccessDenied:
                raise
            except BrokerError as error:
                self._silent.add(host)
                failures.append(str(error))
                continue
            self._silent.discard(host)
            await self._learn(shards, host)
            if any(self._owners):
                self._stale, self._answers = False, self._answers + 1
                return
            failures.append(f"{host[0]}:{host[1]} knows no node that serves a slot")
        raise ConnectionFailed(f"no node of {self.url} tells who has what: {'; '.join(failures)}")

    async def _learn(self, shards: Sequence[Any], told_by: Host) -> None:
        owners: list[Host | None] = [None] * SLOTS
        for start, end, primary, *_ in shards:
            host = ((primary[0] or b"").decode() or told_by[0], int(primary[1]))
            owners[start : end + 1] = [host] * (end + 1 - start)
        self._owners = owners
        for gone in self._nodes.keys() - {*owners, *self.address.hosts}:
            await self._nodes.pop(gone).close()


class RedisClusterDedicated:
    """A connection of one's own to whichever node has the key of the command."""

    def __init__(self, client: RedisClusterClient) -> None:
        self._client = client
        self._inner: DedicatedConnection | None = None
        self._host: Host | None = None

    @property
    def id(self) -> object | None:
        if self._inner is None or self._inner.id is None:
            return None
        return self._host, self._inner.id

    async def call(self, *command: Arg, wait: float = 0.0) -> Any:
        async def send(host: Host) -> Any:
            if self._inner is None or host != self._host:
                await self.close()
                self._inner, self._host = self._client.node(host).dedicated(), host
            return await self._inner.call(*command, wait=wait)

        return await self._client.redirected(key_of(command), send, command)

    async def close(self) -> None:
        if self._inner is not None:
            await self._inner.close()


def _raised(answer: Any) -> Any:
    if isinstance(answer, BrokerError):
        raise answer
    return answer
