"""What can be chosen about a RabbitMQ broker, and its address: understood, or refused with what was expected."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

from ...checks import at_least_one, known, one_of, positive
from ...errors import ConfigurationError, InvalidURL

ExchangeType: TypeAlias = Literal["direct", "topic", "fanout", "headers"]

SCHEMES = ("amqp", "amqps", "rabbitmq", "rabbitmqs")
EXPECTED = "expected amqp://[user:password@]host[:port][/vhost], amqps:// (TLS), rabbitmq:// or rabbitmqs://"
_TLS = frozenset({"cafile", "capath", "certfile", "keyfile", "no_verify_ssl", "auth"})


class RabbitmqOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``exchange``, ``exchange_type``: where messages are published, with the destination as routing key.

    ``management``: URL of the management API, ``http://user:password@host:15672``, for what AMQP cannot tell: which
    queues there are, and how much others hold. ``heartbeat``: seconds; a peer that is silent for two of them is dead.
    ``connect_timeout``, ``timeout``: seconds for connecting and for one call. ``hold``: seconds for which one delivery
    stays unacknowledged; it must stay below the server's ``consumer_timeout`` (30 minutes). What runs for longer moves
    to a queue of its worker meanwhile. ``delivery_limit``: handings-over after which the server itself buries a
    message; the engine's own limit comes first.
    """

    exchange: str = "penstock"
    exchange_type: ExchangeType = "topic"
    management: str | None = None
    heartbeat: int = 10
    connect_timeout: float = 5.0
    timeout: float = 10.0
    hold: float = 900.0
    delivery_limit: int = 100

    def __post_init__(self) -> None:
        one_of("exchange_type", self.exchange_type, get_args(ExchangeType))
        if not self.exchange or len(self.exchange.encode()) > 255 or self.exchange.startswith("amq."):
            raise ConfigurationError(f"exchange is a name of 1 to 255 bytes, not amq.*, got {self.exchange!r:.300}")
        at_least_one("heartbeat, in seconds,", self.heartbeat)
        for name in ("connect_timeout", "timeout", "hold"):
            positive(f"{name}, in seconds,", getattr(self, name))
        at_least_one("delivery_limit, the handings-over of one message,", self.delivery_limit)
        if self.management is not None and not self.management.startswith(("http://", "https://")):
            raise ConfigurationError("management is the URL http://user:password@host:15672 of the management API")


class RabbitmqAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, understood. ``masked``: what people see."""

    masked: str
    scheme: str
    user: str
    password: str
    host: str
    port: int
    vhost: str
    query: tuple[tuple[str, str], ...] = ()
    options: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"RabbitmqAddress({self.masked!r})"

    def text(self, options: RabbitmqOptions, name: str) -> str:
        """The URL as the client library reads it."""
        query = urlencode([*self.query, ("heartbeat", str(options.heartbeat)), ("name", name)])
        who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{who}@{host}:{self.port}/{quote(self.vhost, safe='')}?{query}"

    @classmethod
    def parse(cls, url: str) -> RabbitmqAddress:
        """Understand ``url`` or raise ``InvalidURL``; the password is in no message."""
        scheme, _, rest = url.partition("://")
        if scheme.lower() not in SCHEMES:
            raise InvalidURL(f"{scheme!r} is not a scheme of RabbitMQ; {EXPECTED}")
        try:
            parts = urlsplit(f"amqp://{rest}")
            port, host = parts.port, parts.hostname
        except ValueError:
            raise InvalidURL(f"the RabbitMQ address cannot be read; {EXPECTED}") from None
        if not host:
            raise InvalidURL(f"the host is missing; {EXPECTED}")
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        known("a RabbitMQ address", [name for name, _ in query], _TLS | set(RabbitmqOptions.__struct_fields__))
        tls = scheme.lower() in {"amqps", "rabbitmqs"}
        user, vhost = unquote(parts.username or "guest"), unquote(parts.path[1:]) or "/"
        shown = f"{quote(user, safe='')}:***@" if parts.password is not None else ""
        port = port or (5671 if tls else 5672)
        return cls(
            masked=f"{scheme}://{shown}{host}:{port}/{quote(vhost, safe='')}",
            scheme="amqps" if tls else "amqp",
            user=user,
            password=unquote(parts.password or "guest"),
            host=host,
            port=port,
            vhost=vhost,
            query=tuple((name, value) for name, value in query if name in _TLS),
            options={name: value for name, value in query if name not in _TLS},
        )


def options_of(address: RabbitmqAddress, given: dict[str, Any]) -> RabbitmqOptions:
    """Checked options, from the address's query and as given; raises ``ConfigurationError``."""
    known("a RabbitMQ broker", given, RabbitmqOptions.__struct_fields__)
    try:
        found = msgspec.convert(address.options, RabbitmqOptions, strict=False)
    except msgspec.ValidationError as wrong:
        raise ConfigurationError(f"in the address of RabbitMQ: {wrong}") from None
    return msgspec.structs.replace(found, **given)
