"""A Redis or Valkey URL: understood, or refused with what was expected. No message shows a secret."""

from __future__ import annotations

from typing import Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec

from ..errors import InvalidURL

Host: TypeAlias = tuple[str, int]

EXPECTED = (
    "expected redis://[user:password@]host[:port][/database][?option=value], or rediss:// (TLS), valkey://, valkeys://"
    " (TLS), unix:///path/to/socket?db=0; redis+cluster://host:port,host:port;"
    " redis+sentinel://host:port,host:port/service[/database]; glide:// or glide+cluster:// for the client valkey-glide"
)

Layout: TypeAlias = Literal["single", "cluster", "sentinel"]
Library: TypeAlias = Literal["redis-py", "glide"]

_FAMILIES: dict[str, tuple[bool, Library]] = {
    "redis": (False, "redis-py"),
    "valkey": (False, "redis-py"),
    "rediss": (True, "redis-py"),
    "valkeys": (True, "redis-py"),
    "glide": (False, "glide"),
    "glides": (True, "glide"),
}
_LAYOUTS: dict[str, Layout] = {"": "single", "cluster": "cluster", "sentinel": "sentinel"}
REDIS_SCHEMES = frozenset({"unix", *(f"{a}+{b}".rstrip("+") for a in _FAMILIES for b in _LAYOUTS)})
_PORTS = {"single": 6379, "cluster": 6379, "sentinel": 26379}


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, understood.

    ``masked``: what people see. ``layout``: what is there: one server, a cluster known by some of its nodes, or
    sentinels that know who is the primary of ``service``. ``client``: the library that talks to it. ``userinfo`` and
    ``query`` are as they stand in the URL; ``path`` is the socket of a unix address, which has no ``hosts``.
    """

    masked: str
    layout: Layout = "single"
    client: Library = "redis-py"
    tls: bool = False
    hosts: tuple[Host, ...] = ()
    path: str = ""
    userinfo: str = ""
    database: int = 0
    service: str = ""
    query: str = ""

    def __repr__(self) -> str:
        return f"RedisAddress({self.masked!r})"

    @property
    def options(self) -> dict[str, str]:
        """The query, of equal names the last."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        """User name and password, wherever the URL has them."""
        name, _, password = self.userinfo.partition(":")
        options = self.options
        return (unquote(name) or options.get("username")), (unquote(password) or options.get("password"))

    def at(self, host: str, port: int) -> RedisAddress:
        """One server of it, with the same credentials and options."""
        return msgspec.structs.replace(
            self, layout="single", hosts=((host, port),), masked=f"{self.masked} ({_shown(host)}:{port})"
        )

    @property
    def text(self) -> str:
        """A single server's URL as redis-py reads it."""
        user = f"{self.userinfo}@" if self.userinfo else ""
        query = urlencode([(k, v) for k, v in parse_qsl(self.query, keep_blank_values=True) if k != "db"])
        if self.path:
            return f"unix://{user}{self.path}?db={self.database}&{query}"
        host, port = self.hosts[0]
        return f"redis{'s' if self.tls else ''}://{user}{_shown(host)}:{port}/{self.database}?{query}"

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Understand ``url`` or raise ``InvalidURL``; the password is in no message."""
        scheme, separator, rest = url.partition("://")
        scheme = scheme.lower()
        if not separator:
            raise InvalidURL(f"a Redis address without a scheme; {EXPECTED}")
        if scheme not in REDIS_SCHEMES:
            raise InvalidURL(f"{scheme!r} is not a scheme of Redis; {EXPECTED}")
        try:
            parts = urlsplit(f"redis://{rest}")
        except ValueError:
            raise _unreadable() from None
        userinfo, at, where = parts.netloc.rpartition("@")
        name, colon, _ = userinfo.partition(":")
        user = f"{name}:***@" if colon else f"{name}@" if at else ""
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if scheme == "unix":
            if not parts.path:
                raise InvalidURL(f"the path of the socket is missing; {EXPECTED}")
            database = _database(options.get("db", "0"))
            shown = f"{scheme}://{user}{unquote(parts.path)}?db={database}"
            return cls(masked=shown, path=parts.path, userinfo=userinfo, database=database, query=parts.query)
        tls, library, layout = _kind(scheme, several="," in where)
        hosts = _hosts(where, _PORTS[layout])
        service, database = _service_and_database(layout, parts.path, options)
        names = ",".join(f"{_shown(host)}:{port}" for host, port in hosts)
        behind = {"single": f"/{database}", "cluster": "", "sentinel": f"/{service}/{database}"}[layout]
        return cls(
            masked=f"{scheme}://{user}{names}{behind}",
            layout=layout,
            client=library,
            tls=tls,
            hosts=hosts,
            userinfo=userinfo,
            database=database,
            service=service,
            query=parts.query,
        )


def _kind(scheme: str, *, several: bool) -> tuple[bool, Library, Layout]:
    """Whether it is TLS, whose client, and what is there."""
    family, _, kind = scheme.partition("+")
    (tls, library), layout = _FAMILIES[family], _LAYOUTS[kind]
    if layout == "single" and several:
        raise InvalidURL(f"several hosts need {family}+cluster:// or {family}+sentinel://; {EXPECTED}")
    if library == "glide" and layout == "sentinel":
        raise InvalidURL(f"valkey-glide knows no sentinels: write redis+sentinel://; {EXPECTED}")
    return tls, library, layout


def _service_and_database(layout: Layout, path: str, options: dict[str, str]) -> tuple[str, int]:
    parts = path.strip("/").split("/") if path.strip("/") else []
    service = ""
    if layout == "sentinel":
        if not parts:
            raise InvalidURL(f"the service that the sentinels watch is missing, such as /mymaster; {EXPECTED}")
        service = unquote(parts.pop(0))
    database = _database(options.get("db", "/".join(parts) or "0"))
    if layout == "cluster" and database:
        raise InvalidURL(f"a cluster has one database, number 0; {EXPECTED}")
    return service, database


def _database(text: str) -> int:
    if not text.isdecimal():
        raise InvalidURL(f"the database is no number; {EXPECTED}")
    return int(text)


def _hosts(text: str, default: int) -> tuple[Host, ...]:
    """``host:port,host:port`` as pairs. Whatever is wrong with it may be a part of a password: it is not shown."""
    hosts: list[Host] = []
    for each in text.split(","):
        try:
            parts = urlsplit(f"//{each}")
            hosts.append((parts.hostname or "localhost", parts.port or default))
        except ValueError:
            raise _unreadable() from None
    return tuple(hosts)


def _unreadable() -> InvalidURL:
    return InvalidURL(f"the host or port cannot be read; {EXPECTED}")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
