"""What the Redis drivers and stores need of a client library, and nothing more.

1. ``RedisClient``: one command, many commands in one go, one script; ``dedicated`` connections for blocking reads.
2. ``Script``: a Lua file with its digest, run by EVALSHA and sent whole only when the server does not know it.
3. ``error_of``: what the server's error texts mean in our terms.
4. ``RedisAddress``: a URL understood, or refused with what was expected.

Adapters (``redis_py``) promise: replies are bytes, int, None and lists of them; an error reply is raised by ``call``
and ``run`` and returned as a value by ``many``; each call has a deadline; a call that fails or is cancelled half-way
costs its connection, never the order of replies; the next call connects anew by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Protocol, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from ..errors import AccessDenied, BrokerError, ConnectionFailed, InvalidURL

Arg: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Arg]

EXPECTED = "expected redis://[user:password@]host[:port][/database][?option=value], or rediss:// (TLS), valkey://, valkeys:// (TLS), unix:///path/to/socket?db=0"

_DENIED = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_DENIED_IN_SCRIPT = ("user executing the script can't", "ACL failure in script")
_PASSING = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNKILLABLE", "BUSY"})


class ReplyError(BrokerError):
    """The server answered with an error. ``code`` is the first word of it, such as ``NOGROUP``."""

    def __init__(self, text: str) -> None:
        self.code = text.partition(" ")[0]
        super().__init__(text)


def error_of(text: str) -> BrokerError:
    """The exception for an error reply."""
    code = text.partition(" ")[0]
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
    def id(self) -> int | None:
        """The server's name for it while it is connected, where one may ask; for CLIENT UNBLOCK."""
        ...

    async def call(self, *command: Arg, wait: float = 0.0) -> Any:
        """Run one command that blocks on the server for up to ``wait`` seconds; the deadline is later than that."""
        ...

    async def close(self) -> None:
        """Drop the connection, at once and whatever it is doing. It may be used again."""
        ...


class RedisClient(Protocol):
    """A client of one server. Safe for concurrent calls from one event loop."""

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

    def fork(self) -> RedisClient:
        """Another client of the same server that shares no connection with this one."""
        ...

    async def close(self) -> None:
        """Disconnect. Idempotent; a later call connects again."""
        ...


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, understood. ``text`` is what the client library gets, ``masked`` what people see."""

    text: str
    masked: str

    def __repr__(self) -> str:
        return f"RedisAddress({self.masked!r})"

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Understand ``url`` or raise ``InvalidURL``; the password is in no message."""
        scheme, separator, rest = url.partition("://")
        scheme = scheme.lower()
        known = {"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss", "unix": "unix"}
        if not separator:
            raise InvalidURL(f"a Redis address without a scheme; {EXPECTED}")
        if scheme not in known:
            raise InvalidURL(f"{scheme!r} is not a scheme of Redis; {EXPECTED}")
        text = f"{known[scheme]}://{rest}"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise InvalidURL(
                f"the host or port cannot be read; {EXPECTED}"
            ) from None  # its text may be a part of the password
        user = (
            f"{parts.username or ''}:***@"
            if parts.password is not None
            else f"{parts.username}@"
            if parts.username
            else ""
        )
        if scheme == "unix":
            if not parts.path:
                raise InvalidURL(f"the path of the socket is missing; {EXPECTED}")
            database = parse_qs(parts.query).get("db", ["0"])[-1]
            masked = f"{scheme}://{user}{unquote(parts.path)}?db={database}"
        else:
            database = parse_qs(parts.query).get("db", [parts.path.strip("/") or "0"])[-1]
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
            masked = f"{scheme}://{user}{host}:{port or 6379}/{database}"
        if not database.isdecimal():
            raise InvalidURL(f"the database is no number; {EXPECTED}")
        return cls(text=text, masked=masked)
