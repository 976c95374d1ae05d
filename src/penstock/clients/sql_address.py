"""Addresses of PostgreSQL and MySQL servers: who, where, which database, and what is handed on to the client library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import quote, unquote, urlencode, urlsplit

from ..errors import ConfigurationError

Family: TypeAlias = Literal["sqlite", "postgresql", "mysql"]

SERVER_SCHEMES: Mapping[str, Family] = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
# What the client library understands itself; anything else is somebody's misspelling
_HANDED_ON: Mapping[str, frozenset[str]] = {
    "postgresql": frozenset(
        {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "passfile", "application_name"}
        | {"host", "port", "target_session_attrs"}
    ),
    "mysql": frozenset({"ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify", "unix_socket"}),
}
EXPECTED_SERVER: Mapping[str, str] = {
    "postgresql": (
        "expected postgresql://user:password@host:5432/database, with the options ?timeout=SECONDS&pool=NUMBER"
        "&prefix=NAME_&retention=interest|workqueue&create=true&listen=false&prepare=false and those of the connection:"
        " sslmode, sslrootcert, sslcert, sslkey, application_name"
    ),
    "mysql": (
        "expected mysql://user:password@host:3306/database (or mariadb://), with the options ?timeout=SECONDS"
        "&pool=NUMBER&prefix=NAME_&retention=interest|workqueue&create=true and those of the connection: ssl=true,"
        " ssl_ca, ssl_cert, ssl_key, ssl_verify=false, unix_socket"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """One database on a server. ``query``: what the client library is told besides."""

    family: Family
    host: str | None
    port: int | None
    user: str | None
    password: str | None
    database: str
    query: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, family: Family, url: str, query: Mapping[str, str]) -> ServerAddress:
        """Understand an address. Raises ``ConfigurationError``; ``ValueError`` for a port that is none."""
        parts = urlsplit(url)
        database = unquote(parts.path[1:])
        if unknown := query.keys() - _HANDED_ON[family]:
            raise ConfigurationError(f"unknown option {min(unknown)!r}")
        if not database or "/" in database or parts.fragment:
            raise ConfigurationError("the address names no database")
        return cls(
            family=family,
            host=parts.hostname,
            port=parts.port,
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            database=database,
            query=tuple(sorted(query.items())),
        )

    @property
    def url(self) -> str:
        """The address, password masked."""
        return self._write(None if self.password is None else "***")

    @property
    def dsn(self) -> str:
        """The address, password and all."""
        return self._write(None if self.password is None else quote(self.password, safe=""), query=True)

    def _write(self, password: str | None, *, query: bool = False) -> str:
        who = "" if self.user is None else quote(self.user, safe="")
        who += "" if password is None else f":{password}"
        host = self.host or ""
        where = f"[{host}]" if ":" in host else host
        where += "" if self.port is None else f":{self.port}"
        rest = f"?{urlencode(self.query)}" if query and self.query else ""
        return f"{self.family}://{who}{'@' if who else ''}{where}/{quote(self.database, safe='')}{rest}"

    def __repr__(self) -> str:
        return f"ServerAddress({self.url})"
