"""How drivers and stores reach a SQL database: address, errors, and a runner of transactions.

A transaction is a plain synchronous function of a ``sqlalchemy.Connection``. A ``Runner`` executes it: begins, commits,
rolls back, and runs it again when the database was busy, so a transaction must be safe to repeat. Whoever writes
transactions does not know whether they run in a thread, as here for SQLite, or through an async engine's ``run_sync``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from ..broker import Retention
from ..checks import history_free
from ..errors import AccessDenied, BrokerError, ConfigurationError, ConnectionFailed, InvalidURL, MissingExtra
from ..threads import Threads

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
    from sqlalchemy.pool import NullPool
except ImportError as missing:
    raise MissingExtra("SQLAlchemy", "sqlite") from missing

T = TypeVar("T")
Work: TypeAlias = Callable[[sa.Connection], T]

# UPDATE … RETURNING came with 3.35.
OLDEST_SQLITE = (3, 35, 0)
EXPECTED = (
    "expected sqlite:///relative/path.db, sqlite:////absolute/path.db or sqlite:// (in memory), "
    "with the options ?timeout=SECONDS&durability=normal|full&prefix=NAME_&retention=interest|workqueue"
)
# SQLite's own waiting grows to naps of 100 ms, in which a busy neighbour takes the lock again and again. So it gives
# up soon and the runner asks again at short random intervals.
_BUSY_TIMEOUT = 0.02
_NAP = 0.004
_TRANSIENT = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_REOPEN = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """Where the database is and how to use it.

    ``path``: the file; ``None`` is a database in this process's memory. ``timeout``: seconds a call may wait for other
    writers. ``durability``: ``full`` syncs every commit to disk; ``normal`` survives a crash of the process but may
    lose the last commits when the machine loses power. ``prefix``: what the names of all tables begin with.
    ``retention``: ``interest`` removes a message once every group has acked it; ``workqueue`` too, and admits one group.
    """

    path: str | None
    timeout: float = 5.0
    durability: Literal["normal", "full"] = "normal"
    prefix: str = "penstock_"
    retention: Retention = "interest"

    def __post_init__(self) -> None:
        history_free("SQLite", self.retention)
        if self.durability not in {"normal", "full"}:
            raise ConfigurationError(f"durability is 'normal' or 'full', not {self.durability!r}")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,31}", self.prefix):
            raise ConfigurationError(f"prefix is up to 32 letters, digits and underscores, not {self.prefix!r}")
        if not self.timeout > 0:
            raise ConfigurationError(f"timeout is a positive number of seconds, not {self.timeout!r}")

    @property
    def url(self) -> str:
        """The address, for logs and people."""
        return "sqlite://" if self.path is None else f"sqlite:///{self.path}"

    @classmethod
    def from_url(cls, url: str, **options: Any) -> SqlOptions:
        """Understand an address; ``options`` win over what its query says. Raises ``InvalidURL``."""
        parts = urlsplit(url)
        if parts.scheme != "sqlite" or parts.netloc or parts.fragment:
            raise InvalidURL(f"{EXPECTED}; got {url!r}")
        path = unquote(parts.path[1:])
        query = cls._query(url, parts.query)
        try:
            return replace(cls(path=None if path in {"", ":memory:"} else path, **query), **options)
        except (ConfigurationError, TypeError) as wrong:
            raise InvalidURL(f"{wrong}; {EXPECTED}; got {url!r}") from wrong

    @staticmethod
    def _query(url: str, text: str) -> dict[str, Any]:
        query: dict[str, Any] = dict(parse_qsl(text, keep_blank_values=True))
        if unknown := query.keys() - {"timeout", "durability", "prefix", "retention"}:
            raise InvalidURL(f"unknown option {min(unknown)!r}: {EXPECTED}; got {url!r}")
        if "timeout" in query:
            try:
                query["timeout"] = float(query["timeout"])
            except ValueError:
                raise InvalidURL(f"timeout is a number of seconds: {EXPECTED}; got {url!r}") from None
        return query


class Transactions(Protocol):
    """Executes transactions. May be used from one event loop at a time."""

    async def run(self, work: Work[T], *, write: bool = True) -> T:
        """Run ``work`` in a transaction of its own and commit; connect first where needed.

        Blocks no loop, waits for other writers up to the deadline. Cancelling it leaves a transaction that has begun to
        finish by itself. Raises ``ConnectionFailed``, ``AccessDenied``, ``BrokerError``, never the client's own errors.
        """
        ...

    async def close(self) -> None:
        """Disconnect. Idempotent; the next ``run`` connects again."""
        ...


class Runner(Transactions, Protocol):
    """Executes them one after the other, and knows of those of others."""

    async def changes(self) -> int:
        """A number that is another one once somebody else has committed; costs next to nothing."""
        ...


class _Opened:
    """Files that this process has opened, and those that the process had which it was forked from.

    SQLite remembers its locks by file in the memory of the process. A child remembers those of its parent, which are
    not its own, and would write without any; so it must not open such a file at all.
    """

    def __init__(self) -> None:
        self.here: Counter[tuple[int, int] | None] = Counter()
        self.inherited: set[tuple[int, int] | None] = set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.inherited |= {file for file, count in self.here.items() if count > 0} - {None}
        self.here.clear()


_opened = _Opened()


class SqliteRunner:
    """One connection to a SQLite database in one thread: one hop per transaction, not one per statement.

    ``prepare`` runs in a transaction of its own after each connect and when a table is missing: it makes the tables.
    """

    def __init__(self, options: SqlOptions, prepare: Work[None]) -> None:
        self._options, self._prepare = options, prepare
        self._engine = sa.create_engine("sqlite+pysqlite://", creator=self._dial, poolclass=NullPool)
        self._thread: Threads | None = None
        self._connection: sa.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def run(self, work: Work[T], *, write: bool = True) -> T:
        return await self._hop(lambda: self._patiently(lambda: self._execute(work, write=write)))

    async def changes(self) -> int:
        return await self._hop(lambda: self._patiently(self._data_version))

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._hang_up)
            thread.shutdown(wait=False)

    async def _hop(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = Threads(1, "penstock-sqlite")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # From here on everything runs in the thread.

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until the database is not busy, or the deadline has passed."""
        deadline = time.monotonic() + self._options.timeout
        with translate(self._options):
            while True:
                try:
                    return attempt()
                except (exc.DBAPIError, sqlite3.Error) as error:
                    if _code(error) in _REOPEN:
                        self._hang_up()
                    if _code(error) not in _TRANSIENT or time.monotonic() >= deadline:
                        raise
                time.sleep(random.uniform(_NAP / 4, _NAP))  # noqa: S311 -- only to get out of step with the others

    def _execute(self, work: Work[T], *, write: bool) -> T:
        connection = self._connected()
        try:
            return self._transact(connection, work, write=write)
        except exc.OperationalError as error:
            if "no such table" not in str(error.orig):
                raise
        self._transact(connection, self._prepare, write=True)
        return self._transact(connection, work, write=write)

    @staticmethod
    def _transact(connection: sa.Connection, work: Work[T], *, write: bool) -> T:
        with connection.begin():
            # A transaction that begins as a reader and writes later is refused if somebody wrote meanwhile.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
            return work(connection)

    def _data_version(self) -> int:
        driver = cast("sqlite3.Connection", self._connected().connection.driver_connection)
        return int(driver.execute("PRAGMA data_version").fetchone()[0])

    def _connected(self) -> sa.Connection:
        if self._connection is not None and self._file != self._identify():
            self._hang_up()  # the file was removed or replaced: this connection would write into nowhere
        if self._connection is None:
            connection = self._engine.connect()
            try:
                self._transact(connection, self._prepare, write=True)
            except BaseException:
                connection.close()
                raise
            self._connection, self._file = connection, self._identify()
            _opened.here[self._file] += 1
        return self._connection

    def _identify(self) -> tuple[int, int] | None:
        if self._options.path is None:
            return None
        try:
            found = os.stat(self._options.path)  # noqa: PTH116 -- once per transaction: the bare call
        except OSError:
            return (-1, -1)
        return (found.st_dev, found.st_ino)

    def _dial(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ConfigurationError(f"SQLite 3.35 or newer is needed; this is {sqlite3.sqlite_version}")
        path = self._options.path or ":memory:"
        if self._identify() in _opened.inherited:
            raise ConfigurationError(
                f"{path} was open when this process was forked, and SQLite's locks do not survive that; use it before the"
                " fork or after it, not both (making brokers and producers does not open it)"
            )
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, cached_statements=256)
        try:
            for pragma in (
                "journal_mode = WAL",
                f"synchronous = {self._options.durability}",
                "foreign_keys = OFF",
                "wal_autocheckpoint = 1000",
                "journal_size_limit = 67108864",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _opened.here[self._file] -= 1
            with contextlib.suppress(exc.SQLAlchemyError, sqlite3.Error):
                connection.close()


@contextlib.contextmanager
def translate(options: SqlOptions) -> Generator[None]:
    """Turn the client's exceptions into ours at the border."""
    try:
        yield
    except (exc.SQLAlchemyError, sqlite3.Error) as error:
        raise _understood(options, _code(error), _original(error)) from error


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 if there is none."""
    return int(getattr(_original(error), "sqlite_errorcode", 0)) & 0xFF


def _original(error: BaseException) -> BaseException:
    """SQLite's own exception inside SQLAlchemy's."""
    return (error.orig or error) if isinstance(error, exc.DBAPIError) else error


def _understood(options: SqlOptions, code: int, error: BaseException) -> BrokerError:
    where = options.path or "the database in memory"
    if code in _TRANSIENT:
        return ConnectionFailed(f"{where} was locked by other writers for {options.timeout:g} seconds ({error})")
    if code == sqlite3.SQLITE_CANTOPEN:
        return _cannot_open(where)
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        return AccessDenied(f"{where} cannot be written by this user: check the rights of the file and its directory")
    if code == sqlite3.SQLITE_FULL:
        return ConnectionFailed(f"no space left on the disk of {where}")
    if code == sqlite3.SQLITE_IOERR:
        return ConnectionFailed(f"the disk of {where} failed: {error}")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return BrokerError(f"{where} is damaged or no SQLite database ({error}): restore it or take another file")
    return BrokerError(f"{where}: {error}")


def _cannot_open(where: str) -> BrokerError:
    directory = os.path.dirname(os.path.abspath(where))  # noqa: PTH100, PTH120 -- no access, only names
    if not os.path.isdir(directory):  # noqa: PTH112
        return ConnectionFailed(f"cannot open {where}: the directory {directory} does not exist; create it first")
    if os.path.isdir(where):  # noqa: PTH112
        return ConnectionFailed(f"cannot open {where}: it is a directory; give the name of a file")
    if not os.access(directory, os.W_OK | os.X_OK):
        return AccessDenied(f"cannot open {where}: no right to write in {directory}")
    return ConnectionFailed(f"cannot open {where}")
