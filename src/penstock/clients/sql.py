"""How drivers and stores reach a SQL database: the address, its options, and a runner of transactions.

A transaction is a plain synchronous function of a ``sqlalchemy.Connection``. A ``Runner`` executes it: begins, commits,
rolls back, and runs it again when the database was busy, so a transaction must be safe to repeat. Whoever writes
transactions does not know whether they run in a thread, as for SQLite, or through an async engine's ``run_sync``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from ..broker import Retention
from ..checks import history_free
from ..config import mask_url
from ..errors import ConfigurationError, InvalidURL, MissingExtra
from .sql_address import EXPECTED_SERVER, SERVER_SCHEMES, Family, ServerAddress

try:
    import sqlalchemy as sa
except ImportError as missing:
    raise MissingExtra("SQLAlchemy", "sqlite") from missing

T = TypeVar("T")
Work: TypeAlias = Callable[[sa.Connection], T]

EXPECTED_FILE = (
    "expected sqlite:///relative/path.db, sqlite:////absolute/path.db or sqlite:// (in memory), "
    "with the options ?timeout=SECONDS&durability=normal|full&prefix=NAME_&retention=interest|workqueue"
)
_OPTIONS = {
    "sqlite": frozenset({"timeout", "durability", "prefix", "retention"}),
    "postgresql": frozenset({"timeout", "prefix", "retention", "create", "pool", "listen", "prepare"}),
    "mysql": frozenset({"timeout", "prefix", "retention", "create", "pool"}),
}
_SWITCHES = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """Where the database is and how to use it.

    ``path``: the file; ``None`` is a database in this process's memory, or on ``server``. ``timeout``: seconds a call
    may take, waiting for other writers included. ``prefix``: what the names of all tables begin with. ``retention``:
    ``interest`` removes a message once every group has acked it; ``workqueue`` too, and admits one group.

    SQLite only: ``durability``: ``full`` syncs every commit to disk; ``normal`` survives a crash of the process but may
    lose the last commits when the machine loses power.

    Servers only: ``create``: make missing tables when the broker opens, instead of asking for ``penstock migrate``.
    ``pool``: the most connections of one broker. PostgreSQL only: ``listen``: wake up by LISTEN and NOTIFY.
    ``prepare``: keep prepared statements; off behind a PgBouncer that pools by transaction.
    """

    path: str | None = None
    server: ServerAddress | None = None
    timeout: float = 5.0
    durability: Literal["normal", "full"] = "normal"
    prefix: str = "penstock_"
    retention: Retention = "interest"
    create: bool = False
    pool: int = 5
    listen: bool = True
    prepare: bool = True

    def __post_init__(self) -> None:
        history_free("SQL", self.retention)
        if self.durability not in {"normal", "full"}:
            raise ConfigurationError(f"durability is 'normal' or 'full', not {self.durability!r}")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,31}", self.prefix):
            raise ConfigurationError(f"prefix is up to 32 letters, digits and underscores, not {self.prefix!r}")
        if not self.timeout > 0:
            raise ConfigurationError(f"timeout is a positive number of seconds, not {self.timeout!r}")
        if not self.pool >= 1:
            raise ConfigurationError(f"pool is the number of connections, at least 1, not {self.pool!r}")

    @property
    def family(self) -> Family:
        """Whose SQL it speaks."""
        return "sqlite" if self.server is None else self.server.family

    @property
    def url(self) -> str:
        """The address, for logs and people."""
        if self.server is not None:
            return self.server.url
        return "sqlite://" if self.path is None else f"sqlite:///{self.path}"

    @property
    def where(self) -> str:
        """The database, as error messages name it."""
        return self.server.url if self.server is not None else self.path or "the database in memory"

    @classmethod
    def from_url(cls, url: str, **options: Any) -> SqlOptions:
        """Understand an address; ``options`` win over what its query says. Raises ``InvalidURL``."""
        parts = urlsplit(url)
        family = SERVER_SCHEMES.get(parts.scheme, "sqlite")
        expected = EXPECTED_FILE if family == "sqlite" else EXPECTED_SERVER[family]
        shown = url
        try:
            given = dict(parse_qsl(parts.query, keep_blank_values=True))
            ours = {name: value for name, value in given.items() if name in _OPTIONS[family]}
            theirs = {name: value for name, value in given.items() if name not in ours}
            if family == "sqlite":
                place: dict[str, Any] = {"path": _path(url, theirs)}
            else:
                server = ServerAddress.parse(family, url, theirs)
                place, shown = {"server": server}, server.url
                _known(family, options)
            return replace(cls(**place, **_values(ours)), **options)
        except (ConfigurationError, TypeError, ValueError) as wrong:
            raise InvalidURL(mask_url(f"{wrong}: {expected}; got {shown!r}")) from wrong


def _known(family: Family, options: Mapping[str, Any]) -> None:
    if unknown := options.keys() - _OPTIONS[family]:
        raise ConfigurationError(f"unknown option {min(unknown)!r}")


def _path(url: str, unknown: Mapping[str, str]) -> str | None:
    """The file of an address."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or parts.fragment:
        raise ConfigurationError("no address of a SQLite database")
    if unknown:
        raise ConfigurationError(f"unknown option {min(unknown)!r}")
    path = unquote(parts.path[1:])
    return None if path in {"", ":memory:"} else path


def _values(given: Mapping[str, str]) -> dict[str, Any]:
    """The options of a query as what they are."""
    values: dict[str, Any] = dict(given)
    for name, text in given.items():
        if name in {"timeout", "pool"}:
            try:
                values[name] = float(text) if name == "timeout" else int(text)
            except ValueError:
                raise ConfigurationError(f"{name} is a number, not {text!r}") from None
        elif name in {"create", "listen", "prepare"}:
            if text.lower() not in _SWITCHES:
                raise ConfigurationError(f"{name} is true or false, not {text!r}")
            values[name] = _SWITCHES[text.lower()]
    return values


class Runner(Protocol):
    """Executes transactions. May be used from one event loop at a time."""

    async def run(self, work: Work[T], *, write: bool = True, single: bool = False) -> T:
        """Run ``work`` in a transaction of its own and commit; connect first where needed.

        ``write=False``: it only reads, and needs no common snapshot. ``single``: it is but one statement, which is a
        transaction by itself. Blocks no loop, waits for other writers up to the deadline. Cancelling it leaves a
        transaction that has begun to finish by itself. Raises ``ConnectionFailed``, ``AccessDenied``, ``BrokerError``,
        never the client's own errors.
        """
        ...

    async def changes(self) -> int | None:
        """A number that is another one once somebody else has committed; ``None`` where nobody counts.

        Costs next to nothing.
        """
        ...

    def begin(self) -> AbstractAsyncContextManager[Any]:
        """A transaction for somebody else's statements, as an ``AsyncConnection``; committed at the end of the block."""
        ...

    async def close(self) -> None:
        """Disconnect. Idempotent; the next ``run`` connects again."""
        ...
