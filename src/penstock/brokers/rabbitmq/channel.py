"""A channel for batches: deliveries go to a sink without a task each, and a batch of messages is written in one piece.

It stands on the client library's own channel, which opens, closes and calls; only what happens once per message is done
here.
"""

# The client library's futures and queues do not say of what:
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import pamqp.frame
from aiormq.abc import AbstractConnection, ChannelFrame
from aiormq.channel import Channel
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from ...errors import BrokerError, EncodeError
from .window import Window

_CHUNK = 256 * 1024  # bytes handed to the connection at once


class Parcel(msgspec.Struct, gc=False):
    """A message and where to publish it. ``spare``: bytes of its headers that are kept free for copies of it."""

    exchange: str
    key: str
    properties: spec.Basic.Properties
    body: bytes
    spare: int = 0


class Arrival(msgspec.Struct, gc=False):
    """A delivery. ``consumer``: the tag of the consumer that it came to."""

    channel: BatchChannel
    tag: int
    consumer: str
    redelivered: bool
    properties: spec.Basic.Properties
    body: bytes


Sink: TypeAlias = Callable[[Arrival], None]


class Unroutable(BrokerError):
    """No queue takes the message."""


class _Batch:
    """Messages whose fate is awaited: ``None`` is confirmed."""

    __slots__ = ("done", "fates", "open")

    def __init__(self, size: int, done: asyncio.Future[None]) -> None:
        self.fates: list[Exception | None] = [None] * size
        self.open, self.done = size, done

    def settle(self) -> None:
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)


class BatchChannel(Channel):
    """``sink`` takes deliveries; without one the channel is for publishing, with confirms."""

    def __init__(self, connection: AbstractConnection, number: int, sink: Sink | None = None) -> None:
        super().__init__(connection, number, publisher_confirms=sink is None, frame_buffer=1000)
        self._sink = sink
        self.dropped = False  # its connection was given up
        self._sequence = 0
        self._unconfirmed: dict[int, tuple[_Batch, int, Parcel]] = {}
        self._writing = asyncio.Lock()
        self.cancelled: Callable[[str], None] = _nobody
        self.unsettled: dict[int, Window | None] = {}  # tags of deliveries, oldest first
        self._behind: deque[ChannelFrame] = deque()
        self.on_consumer_cancel_callbacks.add(self._consumer_cancelled)

    @property
    def alive(self) -> bool:
        return not self.dropped and not self.is_closed and not self.connection.is_closed

    async def call(self, frame: Any, within: float) -> Any:
        """One method and its answer."""
        return await asyncio.wait_for(self.rpc(frame), within)

    def write(self, *frames: Any) -> None:
        """Send methods that have no answer."""
        self._put(b"".join(pamqp.frame.marshal(frame, self.number) for frame in frames))

    def settled(self, tag: int) -> bool:
        """The server is about to be told the fate of a delivery; false if it has been told."""
        if tag not in self.unsettled:
            return False
        if (window := self.unsettled.pop(tag)) is not None:
            window.held -= 1
        return True

    async def publish(self, parcels: Sequence[Parcel]) -> list[Exception | None]:
        """Publish a batch and wait for all confirms; the fate of each. Raises what ends the channel."""
        if not parcels:
            return []
        batch = _Batch(len(parcels), self.create_future())
        async with self._writing:
            chunk = bytearray()
            for position, parcel in enumerate(parcels):
                try:
                    piece = self._marshal(parcel)
                except Exception as wrong:  # noqa: BLE001 - whatever the encoders say of what a user hands in
                    batch.fates[position] = EncodeError(f"RabbitMQ cannot carry this message: {wrong}")
                    batch.settle()
                    continue
                self._sequence += 1
                self._unconfirmed[self._sequence] = (batch, position, parcel)
                chunk += piece
                if len(chunk) >= _CHUNK:
                    await self._drained(bytes(chunk))
                    chunk.clear()
            if chunk:
                await self._drained(bytes(chunk))
        await batch.done
        return batch.fates

    def _marshal(self, parcel: Parcel) -> bytes:
        method = spec.Basic.Publish(exchange=parcel.exchange, routing_key=parcel.key, mandatory=True)
        header = ContentHeader(properties=parcel.properties, body_size=len(parcel.body))
        frames: list[Any] = [method, header]
        size = self.max_content_size
        frames += [ContentBody(parcel.body[start : start + size]) for start in range(0, len(parcel.body), size)]
        pieces = [pamqp.frame.marshal(frame, self.number) for frame in frames]
        if len(pieces[1]) > (most := size - parcel.spare):
            raise ValueError(f"its headers have {len(pieces[1])} bytes, and at most {most} fit")
        return b"".join(pieces)

    async def _drained(self, payload: bytes) -> None:
        drained: asyncio.Future[None] = self.create_future()
        await self.write_queue.put(ChannelFrame(payload=payload, should_close=False, drain_future=drained))
        await drained

    def _put(self, payload: bytes) -> None:
        frame = ChannelFrame(payload=payload, should_close=False)
        queue: Any = self.write_queue
        if self._behind or queue.full():  # nothing overtakes: an ack never goes before an earlier cancellation
            self._behind.append(frame)
            if len(self._behind) == 1:
                self.create_task(self._catch_up())
        else:
            queue.put_nowait(frame)

    async def _catch_up(self) -> None:
        while self._behind:
            await self.write_queue.put(self._behind[0])
            self._behind.popleft()

    async def _on_deliver_frame(self, frame: spec.Basic.Deliver) -> None:
        _, header = await self.frames.get()
        message = await self._read_content(frame, header)
        if self._sink is not None:
            tag, consumer = frame.delivery_tag or 0, frame.consumer_tag or ""
            self._sink(Arrival(self, tag, consumer, bool(frame.redelivered), header.properties, message.body))

    async def _on_return_frame(self, frame: spec.Basic.Return) -> None:
        _, header = await self.frames.get()
        await self._read_content(frame, header)
        ident = header.properties.message_id
        for tag, (batch, position, parcel) in self._unconfirmed.items():  # what comes back is among the oldest
            if parcel.properties.message_id == ident and parcel.key == frame.routing_key:
                batch.fates[position] = Unroutable(f"no queue is bound to {frame.exchange!r} for {frame.routing_key!r}")
                del self._unconfirmed[tag]
                batch.settle()
                return

    async def _on_confirm_frame(self, frame: Any) -> None:
        if frame.multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= frame.delivery_tag, self._unconfirmed))
        else:
            tags = [frame.delivery_tag]
        for tag in tags:
            if (known := self._unconfirmed.pop(tag, None)) is None:
                continue  # it came back, which said it all
            if isinstance(frame, spec.Basic.Nack):
                known[0].fates[known[1]] = BrokerError("the server refused the message: a queue is full or unavailable")
            known[0].settle()

    def _consumer_cancelled(self, frame: spec.Basic.Cancel) -> None:
        self.cancelled(str(frame.consumer_tag))


def _nobody(_: str) -> None:
    """Nobody is to be told."""
