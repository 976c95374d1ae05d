"""What can be chosen about a Kafka broker, and the names of the topics that belong to a stream.

=================================  ================================================================================
topic or group                     what it is
=================================  ================================================================================
``emails``                         the stream itself; ``emails:high`` is the topic ``emails.high``
``emails.delay.1s 60s 3600s``      messages published with a delay, by how long they may have to wait
``emails.retry.GROUP.1s …``        the same for what one group tries again
``emails.dead``                    dead letters; compacted, so that what was requeued or purged goes away
``emails:GROUP`` (consumer group)  a colon occurs in no topic's name, so no other group can be meant
=================================  ================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from ...checks import at_least_one, known, not_negative, one_of, positive
from ...errors import ConfigurationError, InvalidURL

DEFAULT_PORT = 9092
LEVELS = (
    1,
    60,
    3600,
)  # seconds after which a message may be moved on in a delaying topic that has more than it can hold
RESERVED = (".retry.", ".delay.", ".dead")
LEGAL = re.compile(r"[A-Za-z0-9._-]+")
LONGEST = 249 - len(".retry..3600s")
SHORTEST_SESSION, LONGEST_SESSION = 6.0, 1800.0
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``hosts``: ``host:port`` of some brokers of the cluster; ``tls``, ``user``, ``password``, ``mechanism`` (SASL).

    ``partitions``, ``replication``: of topics made by us, by default as the cluster says. ``create``: whether to make
    topics that are missing. ``retention``: seconds that messages stay in a stream made by us, read or not; by default
    as the cluster says, a week as a rule. ``timeout``: seconds for one call. ``drain``: seconds that running handlers
    get when their partition passes on to another worker; one that takes longer is run again by that one. ``session``: seconds after which a silent worker counts as
    dead, by default the subscription's lease. ``in_flight``: most messages of one partition that are not settled.
    ``default_type``: of records without a header ``type``. ``max_body``: most bytes of a body. ``properties``: further
    settings for librdkafka, by its names.
    """

    hosts: tuple[str, ...]
    tls: bool = False
    user: str | None = None
    password: str | None = None
    mechanism: str = "SCRAM-SHA-512"
    partitions: int | None = None
    replication: int | None = None
    create: bool = True
    retention: float | None = None
    timeout: float = 10.0
    drain: float = 60.0
    session: float | None = None
    in_flight: int = 10_000
    default_type: str = "message"
    max_body: int = 1_000_000
    properties: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name in ("partitions", "replication"):
            if getattr(self, name) is not None:
                at_least_one(name, getattr(self, name))
        for name in ("in_flight", "max_body"):
            at_least_one(name, getattr(self, name))
        one_of("mechanism", self.mechanism, MECHANISMS)
        positive("timeout, in seconds,", self.timeout)
        not_negative("drain, in seconds,", self.drain)
        for name in ("session", "retention"):
            if getattr(self, name) is not None:
                positive(f"{name}, in seconds,", getattr(self, name))
        if owned := self.properties.keys() & OWNED:
            raise ConfigurationError(
                f"properties may not set {', '.join(sorted(owned))}: the guarantees rest on our values"
            )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> KafkaOptions:
        """Understand ``kafka://host:port,host:port`` and ``kafkas://`` (TLS), with ``user:password@`` before the hosts."""
        parts = urlsplit(url)
        account, _, hosts = parts.netloc.rpartition("@")
        if parts.scheme.lower() not in {"kafka", "kafkas"} or not hosts or parts.path.strip("/") or parts.query:
            shown = url.replace(f"{account}@", "***@") if account else url
            raise InvalidURL(f"expected kafka://host:port,host:port or kafkas:// for TLS; got {shown!r}")
        user, _, password = account.partition(":")
        if account:
            options = {"user": unquote(user), "password": unquote(password), **options}
        known("a kafka:// broker", options, cls.__struct_fields__)
        named = tuple(_host(host) for host in hosts.split(","))
        return cls(hosts=named, tls=parts.scheme.lower() == "kafkas", **options)

    @property
    def url(self) -> str:
        """The address without its secrets."""
        account = f"{self.user}:***@" if self.user else ""
        return f"{'kafkas' if self.tls else 'kafka'}://{account}{','.join(self.hosts)}"

    def client(self) -> dict[str, Any]:
        """The settings that every client of librdkafka gets."""
        settings: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.hosts),
            "socket.timeout.ms": round(self.timeout * 1000),
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.interval.ms": 10_000,
            "allow.auto.create.topics": False,
            "log_level": 2,  # errors come as exceptions, once
            "security.protocol": f"{'SASL_' if self.user else ''}{'SSL' if self.tls else 'PLAINTEXT'}",
        }
        if self.user:
            settings |= {"sasl.mechanism": self.mechanism, "sasl.username": self.user, "sasl.password": self.password}
        return settings | dict(self.properties)

    def session_of(self, lease: float) -> float:
        """Seconds of silence after which the group gives a worker's partitions to others."""
        session = self.session or lease
        if self.session is None and not SHORTEST_SESSION <= session <= LONGEST_SESSION:
            raise ConfigurationError(
                f"on Kafka the lease is the session timeout of the consumer group, which servers allow from"
                f" {SHORTEST_SESSION:g} to {LONGEST_SESSION:g} s; got a lease of {lease:g} s. Choose another one, or say"
                " session= when opening the broker if its group.min.session.timeout.ms is another"
            )
        return session


OWNED = frozenset(
    {
        "bootstrap.servers",
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "acks",
        "auto.offset.reset",
        "isolation.level",
        "partition.assignment.strategy",
        "enable.partition.eof",
    }
)


def topic_of(source: str) -> str:
    """The topic of a stream. Raises ``ConfigurationError`` for a name that Kafka or this driver cannot have."""
    topic = legal("a stream", source)
    if any(word in f"{topic}." for word in RESERVED if word != ".dead") or topic.endswith(".dead"):
        raise ConfigurationError(
            f"{source!r} cannot be the name of a stream on Kafka: names with .retry. or .delay. in them and those that"
            " end with .dead are those of its retries, delayed messages and dead letters"
        )
    return topic


def legal(what: str, name: str) -> str:
    """``name`` in Kafka's alphabet, ``:`` written as a dot."""
    written = name.replace(":", ".")
    if not LEGAL.fullmatch(written) or len(written) > LONGEST or written in {".", ".."}:
        raise ConfigurationError(
            f"the name of {what} on Kafka has at most {LONGEST} letters, digits, dots, colons, _ and -; got {name!r:.300}"
        )
    return written


def group_of(topic: str, group: str) -> str:
    """The consumer group's id."""
    return f"{topic}:{group}"


def delay_topics(topic: str) -> list[str]:
    return [f"{topic}.delay.{level}s" for level in LEVELS]


def retry_topics(topic: str, group: str) -> list[str]:
    return [f"{topic}.retry.{legal('a group', group)}.{level}s" for level in LEVELS]


def dead_topic(topic: str) -> str:
    return f"{topic}.dead"


def level_of(seconds: float) -> int:
    """The index of the delaying topic for something that has so long to wait."""
    return sum(seconds >= level for level in LEVELS[1:])


def _host(host: str) -> str:
    name, colon, port = host.rpartition(":")
    if not colon:
        name, port = host, str(DEFAULT_PORT)
    if not name or not port.isdigit():
        raise InvalidURL(f"expected host:port,host:port in a kafka:// address; got {host!r}")
    return f"{name}:{port}"
