"""Looking at streams from outside of their groups, and mending them. Everything here blocks.

Kafka keeps what was read, so sizes are differences: ``size`` is what the group that is furthest behind has not settled,
``lag`` what a group has not been handed yet. Both come from the groups' progress (see ``progress``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from confluent_kafka import TopicPartition
from confluent_kafka.admin._config import ConfigResource

from ...broker import DeadMessage, Finding, GroupStats, StreamStats, Subscription
from ...errors import BrokerError, UnsupportedFeature
from ...message import Message
from .dead import fresh, gone, read_letter
from .options import KafkaOptions, dead_topic, delay_topics, group_of, retry_topics, topic_of
from .producing import Writing
from .scanning import NOWHERE, Place, groups, places, records
from .topics import Topics

Offsets = dict[tuple[str, int], int]


class Inspection:
    """The administrator's view of ``topics``."""

    def __init__(self, options: KafkaOptions, topics: Topics) -> None:
        self._options, self._topics = options, topics

    # ---------------------------------------------------------------------------------------------------------- counting

    def sources(self) -> list[str]:
        """Topics that have something of ours beside them: a group, a delaying topic or dead letters."""
        names = set(self._topics.names())
        beside = {name.partition(".delay.")[0] for name in names if ".delay." in name}
        beside |= {name.partition(".retry.")[0] for name in names if ".retry." in name}
        beside |= {name.removesuffix(".dead") for name in names if name.endswith(".dead")}
        return sorted(beside & names)

    def stats(self, source: str, now: float) -> StreamStats:
        topic = topic_of(source)
        if not self._topics.partitions([topic]):
            return StreamStats(source=source, size=0, delayed=0, dead=0, oldest_age=None, groups=())
        first, ends = self._bounds([topic, *delay_topics(topic)])
        backlog, waiting, told = 0, 0, list[GroupStats]()
        for group in groups(self._topics, topic):
            came = places(self._topics, group_of(topic, group))
            mine, until = self._bounds(retry_topics(topic, group))
            size, leased = _sum(came, first, ends, [topic])
            later, out = _sum(came, first | mine, ends | until, [*delay_topics(topic), *retry_topics(topic, group)])
            backlog, waiting = max(backlog, size + out), max(waiting, later - out)
            told.append(
                GroupStats(name=group, leased=leased + out, lag=size - leased, owners=self._owners(topic, group))
            )
        if not told:
            backlog, _ = _sum({}, first, ends, [topic])
            waiting, _ = _sum({}, first, ends, delay_topics(topic))
        dead = len(self._index(topic))
        age = self._age(topic, first, ends, now) if backlog else None
        return StreamStats(source=source, size=backlog, delayed=waiting, dead=dead, oldest_age=age, groups=tuple(told))

    def _bounds(self, topics: Sequence[str]) -> tuple[Offsets, Offsets]:
        return self._topics.ends(topics, first=True), self._topics.ends(topics)

    def _owners(self, topic: str, group: str) -> int:
        (future,) = self._topics.admin.describe_consumer_groups([group_of(topic, group)]).values()
        return len(self._topics.result(future).members)

    def _age(self, topic: str, first: Offsets, ends: Offsets, now: float) -> float | None:
        oldest = self._oldest(topic, 1, first, ends)
        at = oldest[0].enqueued_at if oldest else None
        return None if at is None else max(now - at, 0.0)

    # ----------------------------------------------------------------------------------------------------------- reading

    def peek(self, source: str, limit: int) -> list[Message]:
        topic = topic_of(source)
        if not self._topics.partitions([topic]) or limit <= 0:
            return []
        first, ends = self._bounds([topic])
        return self._oldest(topic, limit, first, ends)

    def _oldest(self, topic: str, limit: int, first: Offsets, ends: Offsets) -> list[Message]:
        """The oldest that some group has not settled."""
        came = [places(self._topics, group_of(topic, group)) for group in groups(self._topics, topic)] or [{}]
        found = list[Message]()
        for place, begin in first.items():
            if place[0] != topic:
                continue
            wanted = [each.get(place, NOWHERE) for each in came]
            start = max(min(each.offset for each in wanted), begin)
            taken = 0
            for record in records(self._options, {place: start}, ends):
                if any(each.open(record.offset) for each in wanted):
                    found.append(record.read()[0])
                    taken += 1
                if taken >= limit:
                    break
        found.sort(key=lambda message: message.enqueued_at or 0.0)
        return found[:limit]

    # ------------------------------------------------------------------------------------------------------ dead letters

    def dead(self, source: str, limit: int, after: str | None) -> list[DeadMessage]:
        letters = sorted(self._index(topic_of(source)).values(), key=lambda each: int(each.id))
        return [each for each in letters if after is None or int(each.id) > int(after)][:limit]

    def letters(self, source: str, ids: Collection[str]) -> dict[bytes, DeadMessage]:
        """Those of these ids that are there, by their names in the topic."""
        return {name: each for name, each in self._index(topic_of(source)).items() if each.id in ids}

    def _index(self, topic: str) -> dict[bytes, DeadMessage]:
        """All letters, by name; an empty record has taken away what came before it."""
        name = dead_topic(topic)
        if not self._topics.partitions([name]):
            return {}
        first, ends = self._bounds([name])
        found: dict[bytes, DeadMessage] = {}
        for record in records(self._options, first, ends):
            key = record.raw.key() or b"%d" % record.offset
            if record.raw.value() is None:
                found.pop(key, None)
            else:
                found[key] = read_letter(str(record.offset), record)
        return found

    def fresh(self, letters: Iterable[DeadMessage]) -> list[Message]:
        return fresh(letters)

    def gone(self, source: str, names: Sequence[bytes]) -> list[Writing]:
        return gone(topic_of(source), names)

    # ---------------------------------------------------------------------------------------------------------- deleting

    def purge(self, source: str, ours: Collection[tuple[str, tuple[str, int]]]) -> int:
        """Delete the records of the stream and of what is delayed for it, up to now, but none that somebody works on.

        ``ours``: groups and partitions whose books the caller has: there he crosses out the rest himself.
        """
        topic = topic_of(source)
        if not self._topics.partitions([topic]):
            return 0
        names = groups(self._topics, topic)
        came = {name: places(self._topics, group_of(topic, name)) for name in names} or {"": {}}
        topics = [topic, *delay_topics(topic), *(each for name in names for each in retry_topics(topic, name))]
        first, ends = self._bounds(topics)
        until = dict(ends)
        for name, where in came.items():
            for place in ends.keys() & where.keys():
                if (leased := where[place].leased()) and (name, place) not in ours:
                    raise UnsupportedFeature(
                        f"{len(leased)} messages of {source!r} are being worked on by another process, and Kafka would"
                        " delete them as well: stop its workers first"
                    )
                until[place] = min(until[place], *leased) if leased else until[place]
        counts = list[int]()
        for name, where in came.items():
            mine = {topic, *delay_topics(topic), *(retry_topics(topic, name) if name else ())}
            reach = {place: end if (name, place) in ours else until[place] for place, end in ends.items()}
            mine_at = [place for place in ends if place[0] in mine]
            counts.append(sum(where.get(at, NOWHERE).waiting(first.get(at, 0), reach[at]) for at in mine_at))
        self._delete({place: end for place, end in until.items() if end > first.get(place, 0)})
        return max(counts)

    def trim(self, subscription: Subscription) -> int:
        """Delete what this group has settled in its retry topics, and what every group has of what was delayed."""
        topic = topic_of(subscription.source)
        everybody = {name: places(self._topics, group_of(topic, name)) for name in groups(self._topics, topic)}
        mine = everybody.get(subscription.group)
        if mine is None:
            return 0
        ours = [*retry_topics(topic, subscription.group), *delay_topics(topic)]
        first = self._topics.ends(ours, first=True)
        until: Offsets = {}
        for place in first:
            readers = everybody.values() if place[0] in delay_topics(topic) else [mine]
            until[place] = min(each.get(place, NOWHERE).offset for each in readers)
        until = {place: offset for place, offset in until.items() if offset > first[place]}
        self._delete(until)
        return sum(offset - first[place] for place, offset in until.items())

    def _delete(self, until: Offsets) -> None:
        if until:
            wanted = [TopicPartition(topic, number, offset) for (topic, number), offset in until.items()]
            for future in self._topics.admin.delete_records(wanted).values():
                self._topics.result(future)

    # --------------------------------------------------------------------------------------------------------- diagnosis

    def diagnose(self) -> list[Finding]:
        """What the settings of our streams mean for the guarantees."""
        findings = list[Finding]()
        for source in self.sources():
            try:
                findings += self._diagnosed(source)
            except BrokerError as error:
                findings.append(
                    Finding(level="unknown", subject=source, detail=f"its settings cannot be read: {error}")
                )
        return findings or [Finding(level="ok", subject="topics", detail="there is no stream of ours yet")]

    def _diagnosed(self, topic: str) -> list[Finding]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        (future,) = self._topics.admin.describe_configs([resource]).values()
        config = self._topics.result(future)
        copies, kept = int(config["min.insync.replicas"].value), int(config["retention.ms"].value)
        found = list[Finding]()
        if copies < 2:
            text = f"min.insync.replicas={copies}: what one broker has acknowledged is lost with its disk; set 2, with 3 replicas"
            found.append(Finding(level="warning", subject=topic, detail=text))
        if kept >= 0:
            text = f"retention.ms={kept}: what no group has read after {kept / 86_400_000:.1f} days is deleted; set -1 or retention="
            found.append(Finding(level="warning", subject=topic, detail=text))
        return found or [Finding(level="ok", subject=topic, detail="two or more copies, kept for good")]


def _sum(came: dict[tuple[str, int], Place], first: Offsets, ends: Offsets, topics: Collection[str]) -> tuple[int, int]:
    """What a group has not settled in these topics, and how much of that is leased."""
    size = leased = 0
    for place, end in ends.items():
        if place[0] in topics:
            where = came.get(place, NOWHERE)
            size += where.backlog(first.get(place, 0), end)
            leased += len(where.leased())
    return size, leased
