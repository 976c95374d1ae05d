"""What the Redis drivers and stores need of a client library, and nothing more.

1. ``RedisClient``: one command, many commands in one go, one script; ``dedicated`` connections for blocking reads.
2. ``Script``: a Lua file with its digest, run by EVALSHA and sent whole only when the server does not know it.
3. ``error_of``: what the server's error texts mean in our terms.

Adapters (``redis_py``, ``redis_sentinel``, ``redis_cluster``, ``glide``) promise: replies are bytes, int, None and
lists of them; an error reply is raised by ``call`` and ``run`` and returned as a value by ``many``; each call has a
deadline; a call that fails or is cancelled half-way costs its connection, never the order of replies; the next call
connects anew by itself, to whoever is the primary then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any, Protocol, TypeAlias

from ..errors import AccessDenied, BrokerError, ConnectionFailed

Arg: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Arg]

_DENIED = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_DENIED_IN_SCRIPT = ("user executing the script can't", "ACL failure in script")
_PASSING = frozenset(
    {
        *("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNKILLABLE", "BUSY"),
        *("MISCONF", "NOREPLICAS"),  # it takes no writes at all: its disk is full, its replicas are gone
    }
)


class ReplyError(BrokerError):
    """The server answered with an error. ``code`` is the first word of it, such as ``NOGROUP``."""

    def __init__(self, text: str) -> None:
        self.code = text.partition(" ")[0]
        super().__init__(text)


class Redirected(ReplyError):
    """A node of a cluster says that another one has the slot: for good (MOVED), or for this once (ASK)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.args = (f"{text}: this server is a node of a cluster; write redis+cluster:// in its address",)
        host, _, port = text.rpartition(" ")[2].rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)


def error_of(text: str) -> BrokerError:
    """The exception for an error reply."""
    code = text.partition(" ")[0]
    if code in {"MOVED", "ASK"}:
        return Redirected(text)
    if code in _DENIED or any(words in text for words in _DENIED_IN_SCRIPT):
        remedy = "; put user:password@ before the host into the URL" if code in {"NOAUTH", "WRONGPASS"} else ""
        return AccessDenied(f"the Redis server refused us: {text}{remedy}")
    if code in _PASSING:  # says nothing about the command: the same call succeeds later, or on the new primary
        return ConnectionFailed(text)
    return ReplyError(text)


def code_of(error: object) -> str:
    """The server's error code, or an empty string if this is none."""
    return error.code if isinstance(error, ReplyError) else ""


class Script:
    """A Lua script: ``name`` for people, ``text`` and its SHA-1 for the server."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, package: str, *names: str) -> Script:
        """The files ``<name>.lua`` of ``package`` as one script, named for the last."""
        folder = resources.files(package)
        return cls(names[-1], "\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names))

    def command(self, keys: Sequence[Arg], args: Sequence[Arg], *, whole: bool = False) -> Command:
        """The call as a command: by digest, or ``whole`` so that any server knows it."""
        return ("EVAL" if whole else "EVALSHA", self.text if whole else self.sha, len(keys), *keys, *args)


class DedicatedConnection(Protocol):
    """A connection with one user, for commands that block on the server."""

    @property
    def id(self) -> object | None:
        """What ``RedisClient.unblock`` takes to end its wait, once it is connected, where one may ask for it."""
        ...

    async def call(self, *command: Arg, wait: float = 0.0) -> Any:
        """Run one command that blocks on the server for up to ``wait`` seconds; the deadline is later than that."""
        ...

    async def close(self) -> None:
        """Drop the connection, at once and whatever it is doing. It may be used again."""
        ...


class RedisClient(Protocol):
    """A client of one server, or of one cluster. Safe for concurrent calls from one event loop.

    In a cluster a command goes where its first key is. ``many`` then answers what went to a lost node with
    ``ConnectionFailed`` as a value; it raises only if no node could be asked.
    """

    @property
    def clustered(self) -> bool:
        """Whether keys live on several servers, so that what is used together needs a hash tag in common."""
        ...

    @property
    def url(self) -> str:
        """The address, secrets masked."""
        ...

    async def call(self, *command: Arg) -> Any:
        """Run one command."""
        ...

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands in one go; replies in order, each error as a value."""
        ...

    async def run(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
        """Run a script; its keys are all it may touch."""
        ...

    def dedicated(self) -> DedicatedConnection:
        """A connection of one's own; connects on first use."""
        ...

    async def unblock(self, ident: object) -> None:
        """End the wait of the dedicated connection that had this ``id``, of this or another client. No news is fine."""
        ...

    async def primaries(self) -> Sequence[RedisClient]:
        """A client for each server that holds keys: for SCAN and for questions about the servers themselves."""
        ...

    def fork(self) -> RedisClient:
        """Another client of the same server that shares no connection with this one."""
        ...

    async def close(self) -> None:
        """Disconnect. Idempotent; a later call connects again."""
        ...


async def run_script(
    call: Callable[..., Awaitable[Any]], script: Script, keys: Sequence[Arg], args: Sequence[Arg]
) -> Any:
    """What adapters do for ``run``: by digest, and whole if the server does not know it."""
    try:
        return await call(*script.command(keys, args))
    except ReplyError as error:
        if error.code != "NOSCRIPT":
            raise
    return await call(*script.command(keys, args, whole=True))
