"""Topics: made on first use where that is wanted, counted, read from outside of any group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, TopicCollection, TopicPartition
from confluent_kafka import admin as administration
from confluent_kafka.cimpl import NewTopic

from ...errors import BrokerError, ConfigurationError, ConnectionFailed
from .librdkafka import EXISTS, UNKNOWN_TOPIC, code_of, raised
from .options import KafkaOptions

T = TypeVar("T")

FOREVER = {"retention.ms": "-1", "retention.bytes": "-1"}
KEPT_BY_KEY = {"cleanup.policy": "compact", "retention.ms": "-1"}
_ADMIN: Any = administration  # half of what it has is untyped
LOOKS, PAUSE = 50, 0.02  # how often, and seconds between: a new topic is not there at once
LEADERLESS = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)


class Topics:
    """The cluster seen by an administrator. All methods block, for at most the timeout."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._known: dict[str, int] = {}
        self._lock = threading.Lock()
        self._admin: Any = None
        self.unusable: KafkaError | None = None

    @property
    def admin(self) -> Any:
        with self._lock:
            if self._admin is None:
                self._admin = _ADMIN.AdminClient(self._options.client() | {"error_cb": self._failed})
            return self._admin

    def check(self) -> None:
        """Ask the cluster for its name. Raises ``ConnectionFailed``, ``AccessDenied``."""
        try:
            self.admin.list_topics(timeout=self._options.timeout)
        except Exception as error:
            raise raised(self._options.url, self.unusable or error) from error

    def _failed(self, error: KafkaError) -> None:
        self.unusable = error if "uthent" in error.str() else None

    def ensure(self, wanted: Mapping[str, Mapping[str, str]], partitions: Mapping[str, int] | None = None) -> None:
        """Make those of the topics that are missing, with these settings. Known ones cost nothing."""
        missing = [topic for topic in wanted if topic not in self._known]
        if not missing:
            return
        missing = [topic for topic in missing if topic not in self.partitions(missing)]
        if not missing:
            return
        if not self._options.create:
            raise ConfigurationError(
                f"{self._options.url} has no topic {', '.join(missing)}, and create=False says not to make one: create"
                " it, or open the broker without create=False"
            )
        counts = partitions or {}
        new = [self._new(topic, dict(wanted[topic]), counts.get(topic)) for topic in missing]
        for topic, future in self.admin.create_topics(new, operation_timeout=self._options.timeout).items():
            try:
                self.result(future)
            except Exception as error:
                if code_of(error.__cause__ or error) != EXISTS:
                    raise BrokerError(f"the topic {topic} could not be made: {error}") from error
        for _ in range(LOOKS):  # until every broker that we ask knows them
            if len(self.partitions(missing)) == len(missing):
                return
            threading.Event().wait(PAUSE)

    def _new(self, topic: str, config: dict[str, str], partitions: int | None) -> NewTopic:
        options = self._options
        return NewTopic(
            topic,
            num_partitions=partitions or options.partitions or -1,
            replication_factor=options.replication or -1,
            config=config,
        )

    def knows(self, topics: Iterable[str]) -> bool:
        """Whether all of them have been seen."""
        return all(topic in self._known for topic in topics)

    def forget(self, topics: Iterable[str]) -> None:
        """Look again before they are used again."""
        for topic in list(topics):
            self._known.pop(topic, None)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """How many partitions those of the topics have that there are."""
        unknown = [topic for topic in topics if topic not in self._known]
        if unknown:
            futures = self.admin.describe_topics(TopicCollection(unknown), request_timeout=self._options.timeout)
            for topic, future in futures.items():
                try:
                    self._known[topic] = len(self.result(future).partitions)
                except BrokerError as error:
                    if code_of(error.__cause__ or error) not in UNKNOWN_TOPIC:
                        raise
        return {topic: self._known[topic] for topic in topics if topic in self._known}

    def names(self) -> list[str]:
        """All topics of the cluster."""
        return list(self.call(lambda: self.admin.list_topics(timeout=self._options.timeout)).topics)

    def ends(self, topics: Sequence[str], *, first: bool = False) -> dict[tuple[str, int], int]:
        """The offset behind the last record of each partition, or that of the ``first``."""
        spec = _ADMIN.OffsetSpec.earliest() if first else _ADMIN.OffsetSpec.latest()
        wanted = {
            TopicPartition(topic, number): spec
            for topic, count in self.partitions(topics).items()
            for number in range(count)
        }
        if not wanted:
            return {}
        return self.insist(lambda: self._offsets(wanted))

    def _offsets(self, wanted: dict[TopicPartition, Any]) -> dict[tuple[str, int], int]:
        futures = self.admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self._options.timeout
        )
        return {(each.topic, each.partition): self.result(future).offset for each, future in futures.items()}

    def insist(self, work: Callable[[], T]) -> T:
        """Again while a partition has no leader yet, as one that was just made."""
        for _ in range(LOOKS):
            try:
                return work()
            except ConnectionFailed as error:
                if code_of(error.__cause__ or error) not in LEADERLESS:
                    raise
                threading.Event().wait(PAUSE)
        return work()

    def result(self, future: Future[Any]) -> Any:
        """What the server said. Raises errors of ours."""
        return self.call(lambda: future.result(self._options.timeout * 2))

    def call(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:
            raise raised(self._options.url, error) from error
