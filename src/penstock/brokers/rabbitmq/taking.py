"""Taking what is in a queue now, all at once: for relaying and looking, not for workers."""

from __future__ import annotations

import itertools
from collections import deque

from pamqp import commands as spec

from .channel import Arrival, BatchChannel
from .holdings import Held
from .link import translated
from .shared import Shared

_serial = itertools.count(1)


async def take(
    core: Shared, queue: str, count: int, into: deque[Held], channel: BatchChannel | None = None
) -> BatchChannel:
    """Take up to ``count`` messages on a channel of their own; closing it gives back what is not acked."""

    def sink(arrival: Arrival) -> None:
        arrival.channel.unsettled[arrival.tag] = None
        into.append(Held(arrival.channel, arrival.tag, queue, "taken", arrival.properties, arrival.body))

    channel = channel or await core.taking.channel(sink)
    # A tag of its own: the window of an earlier one closes only as its messages are settled
    timeout, tag = core.options.timeout, f"taking-{next(_serial)}"
    async with translated(f"reading {queue!r}", core.taking):
        await channel.call(spec.Basic.Qos(prefetch_count=min(count, 65_535)), timeout)
        await channel.call(spec.Basic.Consume(queue=queue, consumer_tag=tag), timeout)
        await channel.call(spec.Basic.Cancel(consumer_tag=tag), timeout)
    return channel
