"""The errors of PostgreSQL, MySQL and their client libraries in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from sqlalchemy import exc

from ..errors import AccessDenied, BrokerError, ConnectionFailed, PenstockError
from .sql import SqlOptions

# SQLSTATEs, and their first two characters for a whole class of them
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
_MISSING = frozenset({"42P01"})
_CUT_OFF = ("08", "53", "57", "58", "XX", "3D")
_DENIED = ("28", "42501")
# MySQL's own numbers
_MYSQL_CONFLICTS = frozenset({1213, 1205, 1020, 3572})
_MYSQL_MISSING = frozenset({1146})
_MYSQL_DENIED = frozenset({1044, 1045, 1142, 1143, 1227, 1290, 1698})
_MYSQL_CUT_OFF = frozenset({1040, 1049, 1053, 1077, 1079, 1152, 1159, 1160, 1161, 1203, 1317, 1927, 4031})
_MYSQL_CLIENT = range(2000, 2100)  # everything the client says of the connection


@contextlib.contextmanager
def translate(options: SqlOptions) -> Generator[None]:
    """Turn the clients' exceptions into ours at the border."""
    try:
        yield
    except (PenstockError, GeneratorExit):
        raise
    except TimeoutError as error:
        raise ConnectionFailed(f"{options.where} did not answer within {options.timeout:g} seconds") from error
    except Exception as error:
        understood = _understood(options, error)
        if understood is None:
            raise
        raise understood from error


def is_conflict(error: BaseException) -> bool:
    """Whether the same transaction may go through when it is run again."""
    return sqlstate(error) in _CONFLICTS or _number(error) in _MYSQL_CONFLICTS


def is_missing_table(error: BaseException) -> bool:
    return sqlstate(error) in _MISSING or _number(error) in _MYSQL_MISSING


def is_trouble(error: BaseException) -> bool:
    """Whether it is the database that failed, and not a value that it does not take."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    state, number = sqlstate(error), _number(error)
    if is_conflict(error) or is_missing_table(error) or state.startswith((*_CUT_OFF, *_DENIED, "25")):
        return True
    cut = number in _MYSQL_CUT_OFF or number in _MYSQL_DENIED or number in _MYSQL_CLIENT
    return cut or isinstance(_original(error), OSError | TimeoutError)


def _understood(options: SqlOptions, error: BaseException) -> BrokerError | None:
    where, original = options.where, _original(error)
    state, number = sqlstate(error), _number(error)
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    if state.startswith(_DENIED) or number in _MYSQL_DENIED:
        return AccessDenied(f"{where} refused the user, the password or a right: {original}")
    if is_conflict(error):
        return ConnectionFailed(f"{where} was locked by other writers for {options.timeout:g} seconds ({original})")
    if number in _MYSQL_CUT_OFF or number in _MYSQL_CLIENT or state.startswith(_CUT_OFF):
        return ConnectionFailed(f"{where}: {original}")
    if lost or isinstance(original, OSError | EOFError | exc.TimeoutError):
        return ConnectionFailed(f"{where} cannot be reached: {str(original) or type(original).__name__}")
    if isinstance(error, exc.InterfaceError) and ("closed" in str(original) or "connection" in str(original)):
        return ConnectionFailed(f"{where}: {original}")
    if isinstance(error, exc.SQLAlchemyError) or state or number:
        return BrokerError(f"{where}: {original}")
    if type(original).__module__.startswith(("asyncpg", "aiomysql", "pymysql")):
        return ConnectionFailed(f"{where}: {original}")
    return None


def _original(error: BaseException) -> BaseException:
    """The client library's own exception inside SQLAlchemy's."""
    inner = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    cause = inner.__cause__
    return cause if cause is not None and getattr(cause, "sqlstate", None) else inner


def sqlstate(error: BaseException) -> str:
    original: Any = _original(error)
    return str(getattr(original, "sqlstate", None) or getattr(original, "pgcode", None) or "")


def _number(error: BaseException) -> int:
    original = _original(error)
    if type(original).__module__.startswith(("pymysql", "aiomysql")) and original.args:
        first: Any = original.args[0]
        return first if isinstance(first, int) else 0
    return 0
