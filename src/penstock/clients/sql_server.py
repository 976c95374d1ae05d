"""Transactions on a SQL server: PostgreSQL by asyncpg, MySQL and MariaDB by aiomysql, both under SQLAlchemy's async engine.

The same plain functions of a ``sqlalchemy.Connection`` run here as on SQLite (see ``clients.sql``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from ..config import mask_url
from ..errors import AccessDenied, BrokerError, ConfigurationError, ConnectionFailed, InvalidURL, MissingExtra
from .sql import Work

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
except ImportError as missing:
    raise MissingExtra("SQLAlchemy", "sqlite") from missing

T = TypeVar("T")

DIALECTS: Final = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
_DRIVERS: Final = {"postgresql": ("asyncpg", "postgresql"), "mysql": ("aiomysql", "mysql")}
_GONE: Final = ("08", "57P", "53", "58")  # SQLSTATE: connection, shutdown, resources, system
_DENIED: Final = ("28", "42501", "3D000")
_MYSQL_GONE: Final = frozenset({1040, 1053, 1152, 1205, 1213, 2002, 2003, 2006, 2013, 2014, 3024})
_MYSQL_DENIED: Final = frozenset({1044, 1045, 1049, 1142, 1227, 1698})


class ServerRunner:
    """A ``Runner`` over a small pool of connections, dialled when they are needed. Belongs to one event loop.

    ``timeout``: seconds for one transaction, connecting included.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self._url, self._timeout = _parsed(url), timeout
        self._engine: AsyncEngine | None = None

    @property
    def url(self) -> str:
        """The address, password masked."""
        return mask_url(self._url.render_as_string())

    async def run(self, work: Work[T], *, write: bool = True) -> T:
        try:
            with self._translated():
                async with asyncio.timeout(self._timeout), self._connected().begin() as connection:
                    return await connection.run_sync(work)
        except ConnectionFailed:
            await self._hang_up()
            raise

    async def close(self) -> None:
        await self._hang_up()

    def _connected(self) -> AsyncEngine:
        if self._engine is None:
            self._engine = create_async_engine(
                self._url, pool_size=2, max_overflow=0, pool_recycle=300, connect_args=self._arguments()
            )
        return self._engine

    def _arguments(self) -> dict[str, Any]:
        if self._url.get_backend_name() == "mysql":
            return {"connect_timeout": self._timeout, "charset": "utf8mb4", "init_command": "SET time_zone = '+00:00'"}
        return {"timeout": self._timeout, "command_timeout": self._timeout}

    async def _hang_up(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(Exception):  # whatever a broken connection says about its end
                async with asyncio.timeout(1.0):
                    await engine.dispose()

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except TimeoutError as error:
            raise ConnectionFailed(f"{self.url} did not answer within {self._timeout:g} seconds") from error
        except exc.SQLAlchemyError as error:
            raise self._understood(error) from error
        except OSError as error:
            raise ConnectionFailed(f"cannot reach {self.url}: {error}") from error
        except Exception as error:  # what the drivers raise while they connect is not SQLAlchemy's
            if type(error).__module__.partition(".")[0] in {"asyncpg", "pymysql", "aiomysql"}:
                raise self._understood(error) from error
            raise

    def _understood(self, error: Exception) -> BrokerError:
        original = getattr(error, "orig", None) or error
        state, number = sqlstate(original), _number(original)
        if state.startswith(_DENIED) or number in _MYSQL_DENIED:
            return AccessDenied(f"{self.url}: {_line(original)}")
        gone = isinstance(error, exc.DBAPIError) and error.connection_invalidated
        gone = gone or isinstance(error, exc.InterfaceError | exc.TimeoutError)
        if gone or state.startswith(_GONE) or state in {"40001", "40P01", "55P03"} or number in _MYSQL_GONE:
            return ConnectionFailed(f"{self.url}: {_line(original)}")
        return BrokerError(f"{self.url}: {_line(original)}")


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's code for an error, as far as it is known."""
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _number(error: BaseException) -> int:
    """MySQL's number of an error."""
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0


def _line(error: BaseException) -> str:
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise InvalidURL(f"expected postgresql://user@host/database or mysql://…, got {mask_url(url)!r}") from error
    dialect = DIALECTS.get(parsed.drivername)
    if dialect is None or not parsed.database:
        raise InvalidURL(f"expected postgresql://user@host/database or mysql://…, got {mask_url(url)!r}")
    driver, extra = _DRIVERS[dialect]
    for library in (driver, "greenlet"):
        if find_spec(library) is None:
            raise MissingExtra(library, extra)
    if any(name == "charset" for name in parsed.query):
        raise ConfigurationError("the charset is utf8mb4 always; leave it out of the address")
    return parsed.set(drivername=f"{dialect}+{driver}")
