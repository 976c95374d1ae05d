"""A failure, written into the job that had it: what was raised, when, how often, and where if the job asks for that."""

from __future__ import annotations

import base64
import logging
import zlib
from collections.abc import Callable, Sequence
from traceback import extract_tb
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import Raw

from . import ruby_json
from .wire import OURS, SINCE, Fields, Timestamps, ours, parse, stamp, text_in, write_member

Cleaner: TypeAlias = Callable[[list[str]], list[str]]

logger = logging.getLogger("penstock")

_MESSAGE_MAX: Final = 10_000  # characters of an error's text
_any = msgspec.json.Decoder(Any)


class Failing:
    """Writes failures into jobs. ``cleaner`` is shown each backtrace that is to be kept."""

    def __init__(self, timestamps: Timestamps, cleaner: Cleaner | None = None) -> None:
        self.timestamps: Timestamps = timestamps
        self.cleaner = cleaner

    def failed(self, raw: bytes, queue: str, attempt: int, error: BaseException | None, now: float) -> bytes:
        """The text of a job after an execution, its ``attempt`` earlier ones counted, that ended with ``error``."""
        fields: dict[str, Raw | bytes] = dict(parse(raw))
        mine = ours(cast("Fields", fields))
        if mine.pop(SINCE, None) is not None:
            fields[OURS] = ruby_json.dumps(mine)
            if not mine:
                del fields[OURS]
        fields["queue"] = ruby_json.dumps(text_in(cast("Raw | None", fields.get("retry_queue"))) or queue)
        fields["error_message"] = ruby_json.dumps(message_text(error))
        fields["error_class"] = ruby_json.dumps(type(error).__name__ if error is not None else "Failed")
        first = bytes(fields.get("retry_count", b"null")) == b"null"
        fields["failed_at" if first else "retried_at"] = stamp(now, self.timestamps)
        fields["retry_count"] = b"%d" % attempt
        wish: Any = _any.decode(bytes(fields["backtrace"])) if "backtrace" in fields else None
        if wish and error is not None:
            lines = self._lines(error)
            if wish is not True:  # a number; Ruby takes anything else for none
                lines = lines[: int(wish)] if isinstance(wish, int | float) else []
            fields["error_backtrace"] = ruby_json.dumps(compressed(lines))
        return write_member(fields)

    def _lines(self, error: BaseException) -> list[str]:
        lines = backtrace(error)
        try:
            return lines if self.cleaner is None else [str(line) for line in self.cleaner([*lines])]
        except Exception:
            logger.exception("the cleaner of backtraces failed; the backtrace is kept as it is")
            return lines


def message_text(error: BaseException | None) -> str:
    """What an exception says, as a text that any reader can bear."""
    try:
        text = str(error) if error is not None else "the handler asked for it"
    except Exception:  # noqa: BLE001 its own __str__ may raise anything
        text = "!!! ERROR MESSAGE THREW AN ERROR !!!"
    return text[:_MESSAGE_MAX].encode("utf-8", "replace").decode()


def backtrace(error: BaseException) -> list[str]:
    """The frames of an exception, innermost first, in Ruby's layout."""
    frames = extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno}:in `{frame.name}'" for frame in reversed(frames)]


def compressed(lines: Sequence[str]) -> str:
    """A backtrace as it stands in a job."""
    sound = [line.encode("utf-8", "replace").decode() for line in lines]  # a path may be no text
    return base64.b64encode(zlib.compress(ruby_json.dumps(sound))).decode()
