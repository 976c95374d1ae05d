"""Outcomes: what is written for each, and in which order.

An ack is a line in the books, and the commit that follows. A retry, a delayed release and a dead letter are first
written where they belong, acknowledged by the server, and only then crossed out here: a crash between the two leaves a
duplicate with the same id, never a loss. With ``keyed`` a message with a key waits for its retry in its place, so that
the later ones of its key wait behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from msgspec.structs import replace

from ...broker import Settlement
from ...message import Delivery, Message
from ...outcome import Ack, DeadLetter, Release, Retry
from .book import Book, Entry
from .dead import letter
from .options import delay_topics, level_of, retry_topics
from .producing import Writing
from .wire import headers_of

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

Receipt: TypeAlias = Entry
Write: TypeAlias = Callable[[Sequence[Writing]], Awaitable[Sequence[Any]]]


class Copy(NamedTuple):
    """A record to be written before ``entry`` is crossed out."""

    entry: Entry
    delivery: Delivery[Receipt] | None
    writing: Writing


class Settled(NamedTuple):
    """``done``: which books must be committed, at which version. ``refused``: what the server would not take."""

    lost: list[Delivery[Receipt]]
    done: dict[Book, int]
    crossed: list[tuple[Delivery[Receipt], Entry]]
    refused: list[KafkaError | Exception]


async def settle(items: Sequence[Settlement[Receipt]], write: Write, owner: str, now: float) -> Settled:
    """Write what must be written and cross out what is done; nothing is committed yet."""
    result = Settled([], {}, [], [])
    copies: list[Copy] = []
    for item in items:
        entry = item.delivery.receipt
        with entry.book.owner.lock:
            _apply(item, entry, result, copies, owner, now)
    if copies:
        await carry_out(copies, write, result)
    for book in result.done:
        with book.owner.lock:
            book.owner.lock.notify_all()  # a partition may be waiting to be handed over
    return result


def _apply(
    item: Settlement[Receipt], entry: Entry, result: Settled, copies: list[Copy], owner: str, now: float
) -> None:
    book, outcome, delivery = entry.book, item.outcome, item.delivery
    if not book.holds(entry):
        if entry.unsure and book.alive:
            result.crossed.append((delivery, entry))
            result.done[book] = book.version
        else:
            result.lost.append(delivery)
        return
    if type(outcome) is Ack:
        book.settle(entry)
    elif type(outcome) is Release and (not outcome.delay or _in_place(entry)):
        book.give_back(entry, delay=outcome.delay, now=now)
    elif type(outcome) is Retry and _in_place(entry):
        attempt = delivery.attempt + 1 if outcome.counts else delivery.message.attempt
        book.give_back(entry, delay=outcome.delay or 0.0, now=now, attempt=attempt)
    else:
        try:
            writing = _writing(delivery, outcome, owner, now)
        except Exception as error:  # noqa: BLE001 headers that are no JSON, say: the neighbours are settled all the same
            result.refused.append(error)
        else:
            entry.held = False  # nobody else may settle it meanwhile
            copies.append(Copy(entry, delivery, writing))
        return
    result.crossed.append((delivery, entry))
    result.done[book] = book.version


def _in_place(entry: Entry) -> bool:
    return entry.book.keyed and entry.key is not None


def _writing(delivery: Delivery[Receipt], outcome: object, owner: str, now: float) -> Writing:
    message, topic = delivery.message, delivery.receipt.book.owner.topic
    if isinstance(outcome, DeadLetter):
        return letter(topic, delivery, outcome, owner, now)
    if isinstance(outcome, Retry):
        attempt = delivery.attempt + 1 if outcome.counts else message.attempt
        return delayed(
            topic, replace(message, attempt=attempt, enqueued_at=now), outcome.delay or 0.0, now, delivery.group
        )
    assert isinstance(outcome, Release)  # noqa: S101 - the closed set
    return delayed(topic, message, outcome.delay, now, delivery.group, deliveries=delivery.count - 1)


def delayed(
    topic: str, message: Message, delay: float, now: float, group: str | None, *, deliveries: int = 0
) -> Writing:
    """The record of a message that has to wait: for every group, or for one."""
    topics = delay_topics(topic) if group is None else retry_topics(topic, group)
    headers = headers_of(message, now)
    headers.append(("due", b"%.3f" % (now + delay)))
    if deliveries:
        headers.append(("deliveries", b"%d" % deliveries))
    return Writing(topics[level_of(delay)], _key(message), message.body, headers)


def plain(topic: str, message: Message, now: float) -> Writing:
    """The record of a message that need not wait."""
    return Writing(topic, _key(message), message.body, headers_of(message, now))


def onward(entries: Iterable[Entry], now: float) -> list[Copy]:
    """Copies of what has to wait longer than its topic can keep it without holding up what is behind it."""
    copies: list[Copy] = []
    for entry in entries:
        owner = entry.book.owner
        left = max((entry.due or now) - now, 0.0)
        group = owner.subscription.group
        copies.append(Copy(entry, None, delayed(owner.topic, entry.message, left, now, group, deliveries=entry.count)))
        entry.held, entry.book.held = True, entry.book.held + 1
    return copies


async def carry_out(copies: Sequence[Copy], write: Write, result: Settled) -> None:
    """Write the copies, and cross out the originals of those that the server has."""
    fates: Sequence[Any]
    try:
        fates = await write([copy.writing for copy in copies])
    except Exception as error:  # noqa: BLE001 nothing was written: each stays what it was
        fates = [error] * len(copies)
    for copy, fate in zip(copies, fates, strict=True):
        book, entry, delivery = copy.entry.book, copy.entry, copy.delivery
        with book.owner.lock:
            gone = not book.alive or book.open.get(entry.offset) is not entry
            entry.held = not gone
            if fate is not None:
                result.refused.append(fate)
                if delivery is None and not gone:  # nobody has it: it stays where it waits
                    entry.held, book.held = False, book.held - 1
            elif gone:  # it comes again, to its new owner
                if delivery is not None:
                    result.lost.append(delivery)
            else:
                book.settle(entry)
                result.done[book] = book.version
                if delivery is not None:
                    result.crossed.append((delivery, entry))


def _key(message: Message) -> bytes | None:
    return None if message.key is None else message.key.encode()
