"""Reading partitions from outside of any group: what lies there, and how far the groups have come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, TopicPartition

from ...errors import ConnectionFailed
from .options import KafkaOptions
from .progress import unpack
from .records import Record

if TYPE_CHECKING:
    from .topics import Topics

CHUNK = 500


class Place:
    """Where a group is in a partition. ``notes``: what is not settled below ``mark``."""

    __slots__ = ("mark", "notes", "offset")

    def __init__(self, offset: int, text: str | None) -> None:
        self.offset = offset
        self.mark, self.notes = unpack(offset, text)

    def backlog(self, first: int, end: int) -> int:
        """Records that are not settled, of those that are still there."""
        return sum(offset >= first for offset in self.notes) + max(end - max(self.mark, first), 0)

    def waiting(self, first: int, end: int) -> int:
        """Records in this range that nobody has been handed."""
        told = sum(first <= offset < end and not note.deliveries for offset, note in self.notes.items())
        return told + max(end - max(self.mark, first), 0)

    def leased(self) -> list[int]:
        return [offset for offset, note in self.notes.items() if note.deliveries > 0]

    def open(self, offset: int) -> bool:
        return offset >= self.mark or offset in self.notes


NOWHERE = Place(0, None)


def places(topics: Topics, group: str) -> dict[tuple[str, int], Place]:
    """What a consumer group has committed. Blocks."""
    futures = topics.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    (future,) = futures.values()
    return {
        (each.topic, each.partition): Place(each.offset, each.metadata)
        for each in topics.result(future).topic_partitions
        if each.offset >= 0
    }


def groups(topics: Topics, topic: str) -> list[str]:
    """Names of the groups of a stream, sorted. Blocks."""
    found = topics.result(topics.admin.list_consumer_groups()).valid
    start = f"{topic}:"
    return sorted(each.group_id.removeprefix(start) for each in found if each.group_id.startswith(start))


def records(
    options: KafkaOptions, begin: Mapping[tuple[str, int], int], ends: Mapping[tuple[str, int], int]
) -> Iterator[Record]:
    """All records from ``begin`` up to ``ends``, partition after partition. Blocks between them."""
    wanted = {place: (start, ends[place]) for place, start in begin.items() if start < ends.get(place, 0)}
    if not wanted:
        return
    consumer = Consumer(
        options.client()
        | {"group.id": "penstock-inspector", "enable.auto.commit": False, "enable.partition.eof": True}
        | {"fetch.wait.max.ms": 50, "auto.offset.reset": "earliest"}
    )
    try:
        for (topic, number), (start, end) in wanted.items():
            consumer.assign([TopicPartition(topic, number, start)])
            yield from _until(consumer, end, options)
    finally:
        consumer.close()


def _until(consumer: Consumer, end: int, options: KafkaOptions) -> Iterator[Record]:
    deadline = time.monotonic() + options.timeout
    while time.monotonic() < deadline:
        for raw in consumer.consume(CHUNK, 0.2):
            deadline = time.monotonic() + options.timeout
            offset = raw.offset() or 0
            error = raw.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                continue
            if offset >= end:
                return
            yield Record(raw, offset, options.default_type)
            if offset == end - 1:
                return
    raise ConnectionFailed(f"{options.url}: a partition could not be read within {options.timeout:g} s")
