"""Opening brokers and stores by URL: the only place that knows every adapter.

====================================  =============================================  ==================
URL                                   broker                                         extra
====================================  =============================================  ==================
``memory://`` · ``memory://name``     this process's memory; a name is shared         none
``sqlite:///file.db`` · ``sqlite://``  one SQLite file; without a file, memory        ``sqlite``
``postgresql://user@host/database``   PostgreSQL; also ``postgres://``               ``postgres``
``mysql://user@host/database``        MySQL, MariaDB; also ``mariadb://``            ``mysql``
``redis://`` ``rediss://`` ``unix://``  Redis Streams                                 ``redis``
``valkey://`` ``valkeys://``          Valkey Streams                                 ``redis``
``redis+cluster://a:1,b:2``           Redis or Valkey Cluster, also ``valkey+…``      ``redis``
``redis+sentinel://a:1,b:2/service``  the primary that sentinels watch               ``redis``
``glide://`` ``glide+cluster://``     the same, by valkey-glide; ``glides`` for TLS   ``glide``
``kafka://a:1,b:2`` ``kafkas://``     Kafka; ``kafkas`` for TLS                      ``kafka``
``sqs://?region=eu-west-1``           Amazon SQS; ``sqs://host:port`` another server   ``sqs``
``amqp://`` ``amqps://``              RabbitMQ, also ``rabbitmq://`` ``rabbitmqs://``  ``rabbitmq``
``events+redis://``                   Redis Streams of ``@logistically/events``      ``redis``
``sidekiq+redis://``                  Sidekiq's schema; also ``sidekiq+rediss`` …     ``redis``
``rotif+redis://``                    Rotif's schema; also ``rotif+rediss`` …         ``redis``
``pubsub+redis://``                   Redis Pub/Sub: nothing is kept                  ``redis``
====================================  =============================================  ==================
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from .broker import Broker
from .clients.redis_address import REDIS_SCHEMES
from .clients.sql_address import SERVER_SCHEMES
from .errors import InvalidURL
from .store import Store

if TYPE_CHECKING:
    from .brokers.memory_system import MemorySystem

SCHEMES = (
    "memory://, sqlite:///file.db, postgresql://host/database, mysql://host/database, redis://host:6379, rediss://,"
    " unix://, valkey://, valkeys://, redis+cluster://, redis+sentinel://, glide://, glide+cluster://, sidekiq+redis://,"
    " events+redis://, rotif+redis://, pubsub+redis://, console://, kafka://host:9092, amqp://user@host/vhost,"
    " sqs://?region=eu-west-1"
)
DIALECTS = SIDEKIQ, EVENTS, ROTIF, PUBSUB = "sidekiq+", "events+", "rotif+", "pubsub+"
SQL_SCHEMES = frozenset({"sqlite", *SERVER_SCHEMES})

_systems: dict[str, MemorySystem] = {}


def open_broker(url: str, **options: Any) -> Broker[Any]:
    """A broker for ``url``, not connected yet: the first use opens it, or ``await broker.open()``.

    ``options`` are the driver's own (see its page in the reference). Raises ``InvalidURL``, ``MissingExtra``,
    ``ConfigurationError``.
    """
    scheme = _scheme(url)
    if scheme == "memory":
        return _memory(url, options)
    if scheme in SQL_SCHEMES:
        from .brokers.sql import SqlBroker

        return SqlBroker.from_url(url, **options)
    dialect = next((each for each in DIALECTS if scheme.startswith(each)), "")
    if scheme.removeprefix(dialect) in REDIS_SCHEMES:
        return _on_redis(dialect, url, options)
    if scheme == "console":
        from .brokers.console import ConsoleBroker

        return ConsoleBroker()
    if scheme in {"kafka", "kafkas"}:
        from .brokers.kafka import KafkaBroker

        return KafkaBroker.from_url(url, **options)
    if scheme == "sqs":
        from .brokers.sqs import SqsBroker

        return SqsBroker.from_url(url, **options)
    if scheme in {"amqp", "amqps", "rabbitmq", "rabbitmqs"}:
        from .brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker.from_url(url, **options)
    raise InvalidURL(f"no broker for {scheme}://; expected one of {SCHEMES}")


def _on_redis(dialect: str, url: str, options: dict[str, Any]) -> Broker[Any]:
    if dialect == SIDEKIQ:
        from .brokers.sidekiq import SidekiqBroker

        return SidekiqBroker.from_url(url, **options)
    if dialect == ROTIF:
        from .brokers.rotif import RotifBroker

        return RotifBroker.from_url(url, **options)
    if dialect == PUBSUB:
        from .brokers.redis_pubsub import RedisPubSubBroker

        return RedisPubSubBroker.from_url(url, **options)
    from .brokers.redis_streams import EventsDialect, RedisStreamsBroker

    if dialect == EVENTS:
        return RedisStreamsBroker.from_url(url[len(EVENTS) :], dialect=EventsDialect(), **options)
    return RedisStreamsBroker.from_url(url, **options)


def open_store(url: str) -> Store:
    """A store for idempotency keys at ``url``. Raises as ``open_broker`` does."""
    scheme = _scheme(url)
    for prefix in (SIDEKIQ, ROTIF):
        if scheme.startswith(prefix):  # the same server
            return open_store(url[len(prefix) :])
    if scheme == "memory":
        from .stores.memory import MemoryStore

        return MemoryStore()
    if scheme in SQL_SCHEMES:
        from .stores.sql import SqlStore

        return SqlStore.from_url(url)
    if scheme in REDIS_SCHEMES:
        from .stores.redis import RedisStore

        return RedisStore.from_url(url)
    raise InvalidURL(f"no store for {scheme}://; expected one of {SCHEMES}")


def _scheme(url: str) -> str:
    if not isinstance(cast("object", url), str):
        raise InvalidURL(f"expected a URL such as {SCHEMES}; got {url!r}: is the environment variable set?")
    if "://" not in url:
        raise InvalidURL(f"expected a URL such as {SCHEMES}; got {url!r}, which has no ://")
    return url.partition("://")[0].lower()


def _memory(url: str, options: dict[str, Any]) -> Broker[Any]:
    from .brokers.memory import MemoryBroker
    from .brokers.memory_system import MemorySystem

    name, parts = urlsplit(url).netloc, urlsplit(url)
    if options.keys() - {"retention"} or parts.query or parts.path.strip("/"):
        wrong = ", ".join(options)
        raise InvalidURL(f"memory:// and memory://name take no path and no option but retention, got {url!r} {wrong}")
    system = _systems.setdefault(name, MemorySystem()) if name else MemorySystem()
    return MemoryBroker(system, identity=f"memory:{os.getpid()}:{os.urandom(4).hex()}", **options)
