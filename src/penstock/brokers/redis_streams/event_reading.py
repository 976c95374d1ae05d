"""The reader of a stream of events: an entry may hold several, and each is a delivery of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from msgspec.structs import replace

from ...message import Delivery, Message
from .event_wire import DATA, Split, data_of, read
from .options import Receipt
from .reading import GroupReader, predecessor
from .wholes import Part, Whole
from .wire import Fields, Unreadable


class EventReader(GroupReader):
    """Reads for one subscription. What comes from one entry comes together, even if that is more than was asked for."""

    async def _deliver(self, entries: Iterable[Sequence[Any]], start: float) -> list[Delivery[Receipt]]:
        membership = self.membership
        deadline = membership.deadline(start, membership.subscription.lease)
        source, group = self._names
        held, found, others = dict[str, Receipt](), list[Delivery[Receipt]](), list[str]()
        for entry in entries:
            ident, fields, defect = entry[0].decode(), entry[1], None
            count = entry[2] if len(entry) > 2 else 1
            receipt = Receipt(deadline)
            try:
                item = read(ident, data_of(fields))
                if isinstance(item, Split):
                    if not item.texts:
                        _refuse("it is a batch of nothing")
                    whole = self._whole(ident, item, fields, deadline, count)
                    held[ident] = whole
                    found += _followed(_parts(ident, item, whole, count), entry)
                    continue
                message, only = item
                if only is not None and only != group:
                    others.append(ident)
                    continue
            except Unreadable as wrong:
                defect, receipt.fields = str(wrong), fields
                message = Message(id=ident, type="", body=_raw(fields))
            held[ident] = receipt
            one = Delivery(message=message, source=source, group=group, receipt=receipt, count=count, defect=defect)
            found += _followed([one], entry)
        if others:
            await self._pass_by(others)
        membership.held.update(held)
        return found

    def _whole(self, ident: str, split: Split, fields: Fields, deadline: float, count: int) -> Whole:
        """The lease of an entry. One that was held here already keeps what has become of its messages."""
        old = self.membership.held.get(ident)
        outcomes = old.outcomes if isinstance(old, Whole) else {}
        source, group = self._names
        whole = Whole(deadline=deadline, size=len(split.texts), outcomes=outcomes)
        message = Message(id=ident, type=split.type, body=b"")
        whole.entry = Delivery(message=message, source=source, group=group, receipt=whole, count=count)
        return whole


def _parts(ident: str, split: Split, whole: Whole, count: int) -> list[Delivery[Receipt]]:
    """The messages of an entry that have no outcome yet."""
    found: list[Delivery[Receipt]] = []
    assert whole.entry is not None  # noqa: S101 - it has just been given one
    for number, text in enumerate(split.texts):
        if number in whole.outcomes:
            continue
        part, name, defect = Part(deadline=whole.deadline, whole=whole, number=number), f"{ident}#{number}", None
        try:
            item = read(name, text)
            message, _ = item if not isinstance(item, Split) else _refuse("it is a batch inside a batch")
        except Unreadable as wrong:
            defect, part.fields = str(wrong), [DATA, text]
            message = Message(id=name, type="", body=text)
        source, group = whole.entry.source, whole.entry.group
        found.append(Delivery(message=message, source=source, group=group, receipt=part, count=count, defect=defect))
    return found


def _followed(deliveries: list[Delivery[Receipt]], entry: Sequence[Any]) -> list[Delivery[Receipt]]:
    """With who had the entry before, if it was taken over."""
    if len(entry) <= 2:  # the fast path
        return deliveries
    return [replace(each, predecessor=predecessor(entry)) for each in deliveries]


def _refuse(reason: str) -> NoReturn:
    raise Unreadable(reason)


def _raw(fields: Fields) -> bytes:
    try:
        return data_of(fields)
    except Unreadable:
        return b""
