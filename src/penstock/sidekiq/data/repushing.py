"""The text of a job that goes to its queue again."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from ...brokers.sidekiq import ruby_json
from ...brokers.sidekiq.wire import Malformed, parse, pushed, queue_of
from ...errors import DecodeError
from .data import Data


async def repushed(data: Data, raw: bytes, *, uncounted: bool = False) -> tuple[str | bytes, ...]:
    """What sidekiq_set_move.lua is told: the queue and the new text, or that the middleware has dropped it.

    ``uncounted``: one retry less. Raises ``DecodeError`` for what cannot be run.
    """
    try:
        fields = parse(raw)
        queue = queue_of(fields)
    except (Malformed, ValueError) as wrong:
        raise DecodeError(f"this cannot be put into a queue: {wrong}; delete it, or push it anew") from wrong
    if queue is None:
        raise DecodeError("this cannot be put into a queue: it names none; delete it, or push it anew")
    if uncounted and "retry_count" in fields:
        fields["retry_count"] = _one_less(fields["retry_count"])
    if data.repush is not None:
        payload = await data.repush({name: ruby_json.loads(bytes(each)) for name, each in fields.items()})
        if payload is None:
            return ("v",)
        fields = {name: Raw(ruby_json.dumps(each)) for name, each in payload.items()}
        queue = queue_of(fields) or queue
    text = pushed(fields, data.clock.time(), data.options.timestamps)
    try:
        parse(text)
    except Malformed as wrong:
        raise DecodeError(
            f"the middleware has made something of it that cannot be put into a queue: {wrong}"
        ) from wrong
    return ("p", queue, text)


def _one_less(count: Raw) -> Raw:
    try:
        return Raw(b"%d" % (msgspec.json.decode(count, type=int) - 1))
    except msgspec.ValidationError:
        return count
