"""The client libraries of SQL servers, asyncpg and aiomysql: imported when a server is first connected to."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ..errors import ConfigurationError, MissingExtra
from .sql import SqlOptions
from .sql_address import ServerAddress

_NO_PREPARING: Mapping[str, Any] = {
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: f"__penstock_{uuid.uuid4().hex}__",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """How SQLAlchemy connects. ``arguments``: what its own adapter is told."""

    url: str
    connect: Callable[..., Awaitable[Any]]
    isolation: str = "READ COMMITTED"
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


def connector(options: SqlOptions, server: ServerAddress) -> Connector:
    """The one for an address. Raises ``MissingExtra``, ``ConfigurationError``."""
    if server.family == "postgresql":

        async def postgresql(*_: Any, **__: Any) -> Any:
            return await connect_postgresql(options, server)

        return Connector(
            url="postgresql+asyncpg://",
            connect=postgresql,
            arguments={} if options.prepare else {**_NO_PREPARING},
        )
    arguments = _mysql_arguments(options, server)

    async def mysql(*_: Any, **__: Any) -> Any:
        return await _library("aiomysql", "mysql").connect(**arguments)

    return Connector(url="mysql+aiomysql://", connect=mysql)


async def connect_postgresql(options: SqlOptions, server: ServerAddress) -> Any:
    """One bare connection of asyncpg."""
    asyncpg = _library("asyncpg", "postgres")
    extra: dict[str, Any] = {} if options.prepare else {"statement_cache_size": 0}
    return await asyncio.wait_for(asyncpg.connect(server.dsn, timeout=options.timeout, **extra), options.timeout)


def _mysql_arguments(options: SqlOptions, server: ServerAddress) -> dict[str, Any]:
    flags = _library("pymysql.constants.CLIENT", "mysql")
    query = dict(server.query)
    return {
        "host": server.host or "localhost",
        "port": server.port or 3306,
        "user": server.user or "",
        "password": server.password or "",
        "db": server.database,
        "unix_socket": query.get("unix_socket"),
        "charset": "utf8mb4",
        "connect_timeout": options.timeout,
        "client_flag": flags.FOUND_ROWS,  # an update counts the rows it found, changed or not
        "ssl": _tls(query),
    }


def _library(name: str, extra: str) -> Any:
    """An untyped module."""
    try:
        return import_module(name)
    except ImportError as missing:
        raise MissingExtra(name.partition(".")[0], extra) from missing


def _tls(query: Mapping[str, str]) -> ssl.SSLContext | None:
    if query.get("ssl", "true").lower() in {"false", "0", "off"} or not any(name.startswith("ssl") for name in query):
        return None
    try:
        context = ssl.create_default_context(cafile=query.get("ssl_ca"))
        if query.get("ssl_verify", "true").lower() in {"false", "0", "off"}:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if "ssl_cert" in query:
            context.load_cert_chain(query["ssl_cert"], query.get("ssl_key"))
    except OSError as wrong:
        raise ConfigurationError(f"the TLS files of the address cannot be used: {wrong}") from wrong
    return context
