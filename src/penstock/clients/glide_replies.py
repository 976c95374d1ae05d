"""What valkey-glide makes of the server's replies, and how to undo it.

GLIDE turns replies into Python values by the name of the command, even those of a custom command: maps for lists of
pairs, floats, booleans, sets, ``"OK"`` as text. It takes errors apart and words them in its own way. Here both become
again what the server sent: bytes, int, None and lists of them; error texts that begin with their code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from ..errors import AccessDenied, BrokerError, ConnectionFailed
from .redis import error_of

# Its names for the codes that it knows; it leaves out the code and writes "An error was signalled by the server: - <name>: <text>"
_CODES = {
    "ResponseError": "ERR",
    "AuthenticationFailed": "WRONGPASS",
    "PermissionDenied": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "BusyLoadingError": "LOADING",
    "ReadOnly": "READONLY",
    "MasterDown": "MASTERDOWN",
    "ClusterDown": "CLUSTERDOWN",
    "CrossSlot": "CROSSSLOT",
    "TryAgain": "TRYAGAIN",
    "Moved": "MOVED",
    "Ask": "ASK",
    "ExecAbortError": "EXECABORT",
    "NotBusy": "NOTBUSY",
}
_KNOWN = re.compile(r"An error was signalled by the server: - (\w+)(?:: )?(.*)", re.DOTALL)
_OTHER = re.compile(r"([A-Z][A-Z0-9_]*): (.*)", re.DOTALL)  # any other code comes with a colon behind it
_DENIED = ("AuthenticationFailed", "PermissionDenied", "NOAUTH", "WRONGPASS", "NOPERM")


def plain(command: str, reply: Any) -> Any:
    """The reply to ``command`` (its name in capitals) as the server sent it; an error as a value."""
    kind = type(cast("object", reply))
    if kind is bytes or kind is int or reply is None:
        return reply
    if isinstance(reply, Exception):
        return reply_error(str(reply))
    return _SHAPES.get(command, _flat)(reply)


def reply_error(text: str) -> BrokerError:
    """The exception for what GLIDE made of an error reply."""
    if known := _KNOWN.fullmatch(text):
        return error_of(f"{_CODES.get(known[1], known[1])} {known[2]}")
    if other := _OTHER.fullmatch(text):
        return error_of(f"{other[1]} {other[2]}")
    return error_of(text)


def connection_error(url: str, error: Exception) -> BrokerError:
    """The exception for a call that has no reply: GLIDE could not connect, lost its connection, or gave up waiting."""
    text = " ".join(str(error).split())
    if any(word in text for word in _DENIED):
        remedy = "; valkey-glide asks for INFO when it connects: grant +info" if "'info'" in text else ""
        return AccessDenied(f"{url} refused us: {text}{remedy}")
    if type(error).__name__ == "TimeoutError":  # asyncio's or GLIDE's
        return ConnectionFailed(f"{url} did not answer in time")
    return ConnectionFailed(f"{url} cannot be reached: {text}")


def _flat(reply: Any) -> Any:
    """Any other reply: maps as the lists of keys and values that they were."""
    kind = type(cast("object", reply))
    if kind is list:
        return [item if type(item) is bytes else _flat(item) for item in reply]
    if kind is dict:
        return [_flat(item) for pair in reply.items() for item in pair]
    if kind is str:
        return reply.encode()
    if kind is bool:
        return int(reply)
    if kind is float:
        return repr(reply).removesuffix(".0").encode()
    if kind is set:
        return [_flat(item) for item in reply]
    return reply_error(str(reply)) if isinstance(reply, Exception) else reply


def _entries(reply: Any) -> Any:
    """``{id: [[field, value], …]}`` → ``[[id, [field, value, …]], …]``; deleted entries have no fields."""
    return [[ident, pairs and [text for pair in pairs for text in pair]] for ident, pairs in reply.items()]


def _streams(reply: Any) -> Any:
    return [[name, _entries(entries)] for name, entries in reply.items()]


_SHAPES: dict[str, Callable[[Any], Any]] = {
    "XRANGE": _entries,
    "XREVRANGE": _entries,
    "XREAD": _streams,
    "XREADGROUP": _streams,
}
