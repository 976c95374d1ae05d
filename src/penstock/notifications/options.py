"""What can be chosen about notifications, and Rotif's configuration in our terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import quote, urlencode

from ..checks import at_least_one, known, not_negative, one_of, positive
from ..errors import ConfigurationError

RetryDelay: TypeAlias = float | Callable[[int, Any], float]
Unrouted: TypeAlias = Literal["error", "drop", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationOptions:
    """Defaults of a manager's subscriptions and messages. Times are seconds.

    ``max_retries``: executions in total, at least one; with ``retries_after_first`` those after the first.
    ``retry_delay``: seconds, or a function of attempt (from 1) and message. ``unrouted``: what becomes of a message whose
    channel no pattern matches: an error, nothing, or it is kept for who subscribes to exactly that channel.
    ``dedup_ttl``: how long a message is known that is to be there exactly once. ``dedup_key``: its name, from channel and
    payload, in place of the hash of the payload. ``local_round_robin``: of several subscriptions with one pattern and
    group in this process one gets a message, in turn; else all. ``max_stream_length``, ``min_stream_id``: acked messages
    that stay; nothing unread goes. ``lease``: a message whose worker is silent for so long is taken over, looked for
    every ``claim_interval``. ``group_name``: the group of a pattern, by default ``grp:<pattern>``. ``consumer``: this
    process's name. ``delayed``: move delayed messages here too. ``wait``: of one blocking read. ``drain``: what handlers
    get to finish when it stops.
    """

    max_retries: int = 5
    retries_after_first: bool = False
    retry_delay: RetryDelay = 1.0
    unrouted: Unrouted = "error"
    dedup_ttl: float = 3600.0
    dedup_key: Callable[[str, Any], str] | None = None
    local_round_robin: bool = False
    max_stream_length: int | None = None
    min_stream_id: str | None = None
    lease: float = 30.0
    claim_interval: float = 1.0
    group_name: Callable[[str], str] | None = None
    consumer: str | None = None
    delayed: bool = True
    wait: float = 2.0
    drain: float = 25.0

    def __post_init__(self) -> None:
        attempts(self.max_retries, after_first=self.retries_after_first)
        check_delay(self.retry_delay)
        one_of("unrouted", self.unrouted, ("error", "drop", "keep"))
        not_negative("dedup_ttl, in seconds,", self.dedup_ttl)
        not_negative("drain, in seconds,", self.drain)
        for name in ("lease", "claim_interval", "wait"):
            positive(f"{name}, in seconds,", getattr(self, name))
        if self.max_stream_length is not None:
            at_least_one("max_stream_length", self.max_stream_length)

    def group_of(self, pattern: str) -> str:
        """The group of a subscription that names none."""
        return f"grp:{pattern}" if self.group_name is None else self.group_name(pattern)


def attempts(max_retries: Any, *, after_first: bool) -> int:
    """How often a message is handled at most."""
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise ConfigurationError(f"max_retries is a whole number and not negative, got {max_retries!r}")
    return max_retries + 1 if after_first else max(max_retries, 1)


def check_delay(delay: Any) -> None:
    """A number of seconds, or a function that answers one."""
    if not callable(delay):
        not_negative("retry_delay, in seconds, or a function of attempt and message,", delay)


_MS = {
    "retryDelay": "retry_delay",
    "pendingIdleThreshold": "lease",
    "pendingCheckInterval": "claim_interval",
    "blockInterval": "wait",
}
_SAME = {
    "maxRetries": "max_retries",
    "localRoundRobin": "local_round_robin",
    "maxStreamLength": "max_stream_length",
    "minStreamId": "min_stream_id",
    "deduplicationTTL": "dedup_ttl",
    "groupNameFn": "group_name",
    "generateDedupKey": "dedup_key",
    "enableDelayed": "delayed",
}
_OURS = frozenset({"redis", "consumerNameFn", "disableDelayed", "disablePendingMessageRecovery"})
_NEEDLESS = frozenset({"checkDelayInterval", "scheduledBatchSize", "logger"})  # see coming-from-rotif


def from_rotif(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A ``RotifConfig``, with milliseconds and in camel case, as an address and our options."""
    known("a Rotif configuration", config, (*_MS, *_SAME, *_OURS, *_NEEDLESS))
    if "redis" not in config:
        raise ConfigurationError("a Rotif configuration names redis: an address, or {url, password, tls}")
    if config.get("disablePendingMessageRecovery"):
        raise ConfigurationError("recovery of what dead workers leave cannot be switched off: leave the option out")
    options = {_SAME[name]: value for name, value in config.items() if name in _SAME}
    options |= {_MS[name]: _seconds(value) for name, value in config.items() if name in _MS}
    if options.get("wait") == 0:  # for ever: ours is asked again, which costs nothing
        del options["wait"]
    if "disableDelayed" in config:
        options["delayed"] = not config["disableDelayed"]
    if "consumerNameFn" in config:
        options["consumer"] = config["consumerNameFn"]()
    return address(config["redis"]), options


def _seconds(value: Any) -> Any:
    """Milliseconds, or a function that answers them, in seconds."""
    if not callable(value):
        return value / 1000 if isinstance(value, int | float) else value
    call = cast("Callable[[int, Any], float]", value)

    def seconds(attempt: int, message: Any) -> float:
        return call(attempt, message) / 1000

    return seconds


def address(redis: Any) -> str:
    """Rotif's ``redis`` as an address: a text, or an object of url, host, port, db, username, password, tls."""
    if isinstance(redis, str):
        return redis
    if not isinstance(redis, Mapping):
        raise ConfigurationError(f"redis is an address or an object of url, password, tls …, got {redis!r:.60}")
    given = cast("Mapping[str, Any]", redis)
    known("redis", given, ("url", "host", "port", "db", "username", "password", "tls", "path"))
    scheme, _, rest = str(given.get("url") or _place(given)).partition("://")
    userinfo, at, where = rest.rpartition("@")
    name, _, password = userinfo.partition(":") if at else ("", "", "")
    name = quote(str(given["username"]), safe="") if given.get("username") else name
    password = quote(str(given["password"]), safe="") if given.get("password") else password
    if given.get("tls"):
        scheme = {"redis": "rediss", "valkey": "valkeys"}.get(scheme, scheme)
    login = f"{name}:{password}@" if password else f"{name}@" if name else ""
    query = urlencode(_tls(given.get("tls")))
    joint = "&" if "?" in where else "?"
    return f"{scheme}://{login}{where}{joint + query if query else ''}"


def _place(given: Mapping[str, Any]) -> str:
    if given.get("path"):
        return f"unix://{given['path']}?db={given.get('db', 0)}"
    return f"redis://{given.get('host', 'localhost')}:{given.get('port', 6379)}/{given.get('db', 0)}"


def _tls(tls: Any) -> dict[str, str]:
    """``{ca, cert, key}``: paths of files; of a certificate authority also its text."""
    if not isinstance(tls, Mapping):
        return {}
    given, found = cast("Mapping[str, Any]", tls), dict[str, str]()
    known("tls", given, ("ca", "cert", "key", "rejectUnauthorized", "servername"))
    for name, option in (("ca", "ssl_ca_certs"), ("cert", "ssl_certfile"), ("key", "ssl_keyfile")):
        value = given.get(name)
        if value is None:
            continue
        text = value.decode() if isinstance(value, bytes) else str(value)
        if "-----BEGIN" in text and name != "ca":
            raise ConfigurationError(f"tls.{name} is the path of a file here, got its contents: write the path")
        found["ssl_ca_data" if "-----BEGIN" in text else option] = text
    if given.get("rejectUnauthorized") is False:
        found["ssl_cert_reqs"] = "none"
    return found
