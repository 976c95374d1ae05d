"""An SQS address and what can be chosen about the broker: understood, or refused with what was expected.

``sqs://?region=eu-west-1`` is Amazon's endpoint of a region; ``sqs://host:port?region=…&tls=false`` another server.
Credentials come from the usual chain (environment, profile, role); ``sqs://key:secret@host`` is for local servers that
want some. No text that people see has the secret.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec

from ...checks import at_least_one, known, one_of, positive
from ...errors import ConfigurationError, InvalidURL

Fanout: TypeAlias = Literal["none", "sns"]

EXPECTED = (
    "expected sqs://?region=eu-west-1 for Amazon SQS, or sqs://host:port?region=eu-west-1&tls=false for another server"
)
MIB = 1024 * 1024
RESERVED_BYTES = 16 * 1024  # of a message, for headers and for what a dead letter has to say
MAX_DELAY = 900.0  # seconds: DelaySeconds takes no more
MAX_LEASE = 43_200.0  # seconds from its receipt for which a message may be invisible
_SECRETS = frozenset({"secret", "password", "token"})


class SqsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``region``: where the queues are, by default what the environment says. ``prefix``: put before each queue's name.

    ``fifo``: all queues are FIFO queues, ordered by ``message.key``. ``fanout``: ``sns`` gives each group of a source a
    queue of its own, subscribed to a topic. ``create``: make queues that are missing. ``max_message``: bytes of a
    message and of a batch; 256 KiB on servers that know only the old limit. ``default_type``: of messages that name
    none. ``timeout``: seconds for one call. ``parallel``: calls on the way at once. ``endpoint``, ``access``: from the
    address. ``profile``: of the shared configuration files.
    """

    region: str | None = None
    prefix: str = ""
    fifo: bool = False
    fanout: Fanout = "none"
    create: bool = True
    max_message: int = MIB
    default_type: str = "msg"
    timeout: float = 10.0
    parallel: int = 8
    profile: str | None = None
    endpoint: str | None = None
    access: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        one_of("fanout", self.fanout, get_args(Fanout))
        positive("timeout, in seconds,", self.timeout)
        at_least_one("parallel, the calls on the way at once,", self.parallel)
        if not 2 * RESERVED_BYTES <= self.max_message <= MIB:
            raise ConfigurationError(
                f"max_message is a number of bytes from {2 * RESERVED_BYTES} to {MIB}, got {self.max_message!r}"
            )
        if not self.default_type:
            raise ConfigurationError("default_type is the type of messages that name none, got an empty text")
        if self.fifo and self.fanout == "sns":
            raise ConfigurationError("fanout='sns' goes with standard queues: leave out fifo, or fan out without it")

    def __repr__(self) -> str:
        return f"SqsOptions({self.url!r})"

    @property
    def url(self) -> str:
        """The address for people."""
        scheme, _, where = (self.endpoint or "").partition("://")
        access = "***@" if self.access else ""
        chosen = {"region": self.region, "prefix": self.prefix, "fifo": "true" if self.fifo else ""}
        query = {name: value for name, value in chosen.items() if value}
        query |= {"fanout": "sns"} if self.fanout == "sns" else {}
        query |= {"tls": "false"} if scheme == "http" else {}
        return f"sqs://{access}{where}" + (f"?{urlencode(query)}" if query else "")

    @classmethod
    def from_url(cls, url: str, **options: Any) -> SqsOptions:
        """Understand an address; ``options`` are the fields of this class. Raises ``InvalidURL``."""
        fields = [name for name in cls.__struct_fields__ if name not in {"endpoint", "access"}]
        known("an SQS broker", options, fields)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as unreadable:
            raise InvalidURL(f"{EXPECTED}; got one that cannot be read: {unreadable}") from None
        if parts.path.strip("/") or parts.fragment:
            raise InvalidURL(f"{EXPECTED}; queues are no part of the address, got the path {parts.path!r}")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if wrong := [name for name in query if name not in {*fields, "tls"}]:
            shown = ", ".join("a secret" if name in _SECRETS else repr(name) for name in wrong)
            raise InvalidURL(f"{EXPECTED}; its options are tls, {', '.join(fields)}, got {shown}")
        tls = _flag("tls", query.pop("tls", "true"))
        if host is None and (not tls or parts.username):
            raise InvalidURL(f"{EXPECTED}; tls and credentials go with a host: Amazon's come from the environment")
        given: dict[str, Any] = {name: _converted(name, text) for name, text in query.items()} | options
        if host is not None:
            shown = f"[{host}]" if ":" in host else host
            given["endpoint"] = f"{'https' if tls else 'http'}://{shown}" + (f":{port}" if port else "")
        if parts.username:
            given["access"] = (unquote(parts.username), unquote(parts.password or ""))
        return cls(**given)


def _converted(name: str, text: str) -> Any:
    try:
        if name in {"fifo", "create"}:
            return _flag(name, text)
        if name in {"max_message", "parallel"}:
            return int(text)
        return float(text) if name == "timeout" else text
    except ValueError:
        raise InvalidURL(f"the option {name} of an SQS address is a number, got {text!r}") from None


def _flag(name: str, text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise InvalidURL(f"the option {name} of an SQS address is true or false, got {text!r}")
    return text.lower() in {"true", "1"}
