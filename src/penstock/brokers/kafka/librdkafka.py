"""librdkafka by its Python client, confluent-kafka: what its errors mean here."""

from __future__ import annotations

from typing import Any

from ...errors import AccessDenied, BrokerError, ConfigurationError, ConnectionFailed, MissingExtra

try:
    from confluent_kafka import KafkaError, KafkaException
except ImportError as missing:
    raise MissingExtra("confluent-kafka", "kafka") from missing

AWAY = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._DESTROY,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_CONTROLLER,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)
DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
UNKNOWN_TOPIC = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART})
# The group has members: only they may commit for it
ACTIVE = frozenset({KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS})
EXISTS = KafkaError.TOPIC_ALREADY_EXISTS


def code_of(error: BaseException | KafkaError) -> int | None:
    """The code of an error of the library, ``None`` for any other."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    return error.code() if isinstance(error, KafkaError) else None


def translated(url: str, error: BaseException | KafkaError) -> Exception:
    """The error of ours for one of the library's."""
    code = code_of(error)
    cause = error.args[0] if isinstance(error, KafkaException) else error
    text = cause.str() if isinstance(cause, KafkaError) else str(error) or type(error).__name__
    if code in AWAY or isinstance(error, TimeoutError):
        return ConnectionFailed(f"{url} cannot be reached or did not answer in time: {text}")
    if code in DENIED:
        return AccessDenied(f"{url} refused us: {text}")
    if code == KafkaError.INVALID_SESSION_TIMEOUT:
        return ConfigurationError(
            f"{url} does not allow this session timeout ({text}): choose a lease, or session=, between the server's"
            " group.min.session.timeout.ms and group.max.session.timeout.ms"
        )
    return BrokerError(f"{url}: {text}")


def raised(url: str, error: Any) -> Exception:
    """The same, linked to its cause, to be raised."""
    ours = translated(url, error)
    ours.__cause__ = error if isinstance(error, BaseException) else None
    return ours
