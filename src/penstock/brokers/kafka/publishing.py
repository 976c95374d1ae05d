"""Publishing: into topics that there are, or are made; what became of each message is told."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from ...broker import Outgoing
from ...errors import BrokerError, ConnectionFailed, PayloadTooLarge, PublishError
from ...threads import Threads, run_in
from .librdkafka import UNKNOWN_TOPIC, code_of, translated
from .options import KafkaOptions, dead_topic, topic_of
from .producing import Producing, Writing
from .settling import delayed, plain
from .topics import FOREVER as FOR_GOOD
from .topics import KEPT_BY_KEY, Topics


class Publishing:
    """The write side of a broker and its forks."""

    def __init__(self, options: KafkaOptions, topics: Topics, threads: Threads) -> None:
        self._options, self._topics, self._threads = options, topics, threads
        self._lock = threading.Lock()
        self._made: Producing | None = None
        self._serial, self._prefix = 0, secrets.token_hex(6)

    async def publish(self, messages: Sequence[Outgoing], now: float) -> Sequence[str]:
        """Publish them all; their ids. Raises ``PublishError``, ``ConnectionFailed``."""
        ids = self._names(len(messages))
        fates: list[str | Exception] = list(ids)
        records: list[Writing] = []
        places: list[int] = []
        for index, item in enumerate(messages):
            try:
                records.append(self._record(item, ids[index], now))
                places.append(index)
            except (BrokerError, PayloadTooLarge) as refused:
                fates[index] = refused
        for index, fate in zip(places, await self.write(records), strict=True):
            if fate is not None:
                fates[index] = translated(self._options.url, fate)
        failed = [fate for fate in fates if isinstance(fate, Exception)]
        if not failed:
            return ids
        if len(failed) == len(fates) and all(isinstance(fate, ConnectionFailed) for fate in failed):
            raise failed[0]
        raise PublishError(fates)

    def _record(self, item: Outgoing, ident: str, now: float) -> Writing:
        topic, message = topic_of(item.destination), item.message
        if len(message.body) > self._options.max_body:
            raise PayloadTooLarge(
                f"a body for {self._options.url} has at most {self._options.max_body} bytes (max_body=), got {len(message.body)}"
            )
        message = replace(message, id=ident)
        try:
            if item.delay > 0:
                return delayed(topic, message, item.delay, now, None)
            return plain(topic, message, now)
        except (TypeError, ValueError, RecursionError) as error:
            raise BrokerError(f"the headers of a message for {item.destination} cannot be written: {error}") from error

    def _names(self, count: int) -> list[str]:
        first = self._serial
        self._serial += count
        return [f"{self._prefix}{number:06x}" for number in range(first, first + count)]

    async def write(self, records: Sequence[Writing]) -> list[Any]:
        """Write them into topics that there are, made anew if they vanished; what became of each."""
        await self.ensure({record.topic for record in records})
        fates = await self.producing().write(records)
        # A topic that was deleted is unknown, or the library waits for it in vain: the next time it is looked for
        self._topics.forget({record.topic for record, fate in zip(records, fates, strict=True) if fate is not None})
        vanished = [n for n, fate in enumerate(fates) if fate is not None and code_of(fate) in UNKNOWN_TOPIC]
        if vanished:
            again = [records[n] for n in vanished]
            await self.ensure({record.topic for record in again})
            for n, fate in zip(vanished, await self.producing().write(again), strict=True):
                fates[n] = fate
        return fates

    @property
    def started(self) -> bool:
        """Whether there is a producer."""
        return self._made is not None

    def producing(self) -> Producing:
        """The producer, made when it is first needed, and anew after an error that it does not survive."""
        with self._lock:
            if self._made is not None and self._made.broken:
                threading.Thread(target=self._made.close, name="penstock-kafka-closing", daemon=True).start()
                self._made = None
            if self._made is None:
                self._made = Producing(self._options)
            return self._made

    async def close(self) -> None:
        """Wait for what is on its way, and end the producer."""
        producing, self._made = self._made, None
        if producing is not None:
            await run_in(self._threads, producing.close)

    async def ensure(self, topics: set[str]) -> None:
        """Make those topics that are missing: delaying ones are kept for good, dead letters until they are taken away."""
        wanted: dict[str, dict[str, str]] = {}
        partitions: dict[str, int] = {}
        for topic in topics:
            if ".delay." in topic or ".retry." in topic:
                wanted[topic] = FOR_GOOD
            elif topic.endswith(".dead"):
                wanted[topic], partitions[topic] = KEPT_BY_KEY, 1
            else:
                kept = self._options.retention
                wanted[topic] = {} if kept is None else {"retention.ms": str(round(kept * 1000))}
                if self._options.create:  # which also says that the stream is one of ours
                    wanted[dead_topic(topic)], partitions[dead_topic(topic)] = KEPT_BY_KEY, 1
        if not self._topics.knows(wanted):
            await run_in(self._threads, partial(self._topics.ensure, wanted, partitions))
