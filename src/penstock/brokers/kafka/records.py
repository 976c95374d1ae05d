"""A record as it came from the client library, read when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ...message import Message
from .wire import NOTHING, Extra, Headers, Unreadable, read

if TYPE_CHECKING:
    from confluent_kafka import Message as Raw


class Record:
    """``size``: bytes of its value; ``written_at``: when the server got it, seconds since the epoch."""

    __slots__ = ("_default", "offset", "raw", "size")

    def __init__(self, raw: Raw, offset: int, default_type: str) -> None:
        self.raw, self.offset, self._default = raw, offset, default_type
        self.size = len(raw)

    @property
    def written_at(self) -> float:
        return self.raw.timestamp()[1] / 1000

    @property
    def headers(self) -> Headers:
        return cast("Headers", self.raw.headers() or [])

    def read(self) -> tuple[Message, Extra, str | None]:
        """The message, what else the record says, and what is wrong with it, if it cannot be read."""
        raw = self.raw
        key, value = raw.key(), raw.value()
        name = f"{raw.partition()}-{self.offset}"
        try:
            message, extra = read(name, key, value, self.headers, self._default)
        except Unreadable as wrong:
            return Message(id=name, type=self._default, body=value or b""), NOTHING, str(wrong)
        return message, extra, None
