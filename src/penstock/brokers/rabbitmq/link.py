"""Connections, and the thread that they live on.

Connections have a thread and an event loop of their own: a handler that blocks the worker's loop stops no heartbeat,
and a broker's forks on other threads share what was fetched without sharing a loop. One connection takes and settles,
another publishes, so that a server that has no memory for publishers still takes acks.
"""

# The client library's futures and queues do not say of what:
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from ...errors import AccessDenied, BrokerError, ConfigurationError, ConnectionFailed, MissingExtra, PenstockError

try:
    import aiormq
    from aiormq import exceptions as amqp
    from aiormq.connection import Connection
except ImportError as missing:
    raise MissingExtra("aio-pika", "rabbitmq") from missing

from .channel import BatchChannel, Sink
from .options import RabbitmqAddress, RabbitmqOptions

T = TypeVar("T")
C = TypeVar("C")

ELECTIONS = 2.0  # seconds
THREAD = "penstock-rabbitmq"


class _Quiet(logging.Filter):
    """An outage is told once, by the engine; the client library would tell each try. Only our own thread is meant."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != THREAD


for _name in ("aiormq", "aiormq.connection", "aiormq.channel"):
    logging.getLogger(_name).addFilter(_Quiet())


class Home(Generic[C]):
    """A thread with an event loop and what ``make`` puts there. ``run`` is called from any other loop."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._lock, self._make = threading.Lock(), make
        self._inside: C | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._users = 0

    def enter(self) -> None:
        """One more uses it; the first one starts it."""
        with self._lock:
            self._users += 1
            if self._loop is None:
                self._loop, self._inside = asyncio.new_event_loop(), self._make()
                self._loop.set_exception_handler(_ignored)
                self._thread = threading.Thread(target=_live, args=(self._loop,), name=THREAD, daemon=True)
                self._thread.start()

    def leave(self) -> None:
        """One less; the last one ends it."""
        with self._lock:
            self._users -= 1
            if self._users or self._loop is None or self._thread is None:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = self._inside = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    async def run(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> T:
        """Do it there and wait for it here. It goes on if the waiting is cancelled."""
        home, inside, here = self._loop, self._inside, asyncio.get_running_loop()
        if home is None or inside is None:
            raise ConnectionFailed("the broker is closed")
        answer: asyncio.Future[T] = here.create_future()

        def tell(task: asyncio.Task[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop that asked is closed
                here.call_soon_threadsafe(_answer, answer, task)

        def begin() -> None:
            home.create_task(work(inside)).add_done_callback(tell)

        home.call_soon_threadsafe(begin)
        return await answer

    def post(self, work: Callable[[C], object]) -> None:
        """Have it done there, without an answer."""
        if (loop := self._loop) is not None and (inside := self._inside) is not None:
            loop.call_soon_threadsafe(work, inside)


def _answer(answer: asyncio.Future[T], task: asyncio.Task[T]) -> None:
    if answer.done():
        return
    if task.cancelled():
        answer.set_exception(ConnectionFailed("the connection to RabbitMQ was closed"))
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


def _ignored(_: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
    """The client library leaves failures in its own tasks, which we hear of by our calls."""


def _live(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(_end_all())
    loop.close()


async def _end_all() -> None:
    """The client library ends some tasks by others: give them a moment, then insist."""
    for patience in (0.5, 0.0, 0.0, 0.0):
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest and patience:
            await asyncio.wait(rest, timeout=patience)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


class Line:
    """One connection, made when it is needed and again after it broke. It says when it is ``lost``, and when a channel
    has ``ended``.
    """

    def __init__(self, address: RabbitmqAddress, options: RabbitmqOptions, name: str) -> None:
        self._address, self._options, self._name = address, options, name
        self._connection: Connection | None = None
        self._refused = False
        self._channels: list[BatchChannel] = []
        self._lock = asyncio.Lock()
        self.lost: Callable[[], object] = _nobody
        self.ended: Callable[[], object] = _nobody
        self.version: tuple[int, ...] = (0,)

    @property
    def alive(self) -> bool:
        return self._connection is not None and not self._connection.is_closed

    async def channel(self, sink: Sink | None = None) -> BatchChannel:
        """A new channel: for deliveries, or with confirms for publishing."""
        async with self._lock:
            async with translated("connecting"):
                connection = self._connection
                if connection is None or connection.is_closed:
                    connection = await self._settled()
            number = next(number for number in itertools.count(1) if number not in connection.channels)
            channel = connection.channels[number] = BatchChannel(connection, number, sink)
            channel.closing.add_done_callback(self._ended)
            self._channels = [each for each in self._channels if each.alive] + [channel]
            async with translated("opening a channel"):
                await asyncio.wait_for(channel.open(), self._options.timeout)
            return channel

    async def _settled(self) -> Connection:
        """Connect, and if the server has just come up give its queues a moment to elect their leaders."""
        try:
            connection = await self._connect()
        except BaseException:
            self._refused = True
            raise
        if self._refused:
            self._refused = False
            await asyncio.sleep(ELECTIONS)
        return connection

    async def _connect(self) -> Connection:
        connection = Connection(self._address.text(self._options, self._name))
        try:
            await asyncio.wait_for(connection.connect(), self._options.connect_timeout)
        except amqp.InvalidFrameError as error:
            await connection.close()
            raise ConnectionFailed(
                f"{self._address.masked} ended the connection as it began: is there such a vhost, is it up, and may"
                " this user enter it?"
            ) from error
        except BaseException:
            await connection.close()
            raise
        found = str((connection.server_properties or {}).get("version", ""))
        self.version = tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) or (0,)
        self._connection = connection
        connection.closing.add_done_callback(lambda _: self._closed(connection))
        return connection

    def _ended(self, _: asyncio.Future[Any]) -> None:
        """A channel is closed, in order, by the server, or with its connection."""
        self.ended()

    def _closed(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
            self.lost()

    async def unblocked(self) -> None:
        """Wait until the server takes messages; raises ``ConnectionFailed`` when it takes too long."""
        if self._connection is None:
            return
        try:
            await asyncio.wait_for(self._connection.ready(), self._options.timeout)
        except TimeoutError:
            raise ConnectionFailed(
                f"{self._address.masked} takes no messages now: it is short of memory or disk (connection.blocked)"
            ) from None

    def abort(self) -> None:
        """Give the connection up: it answers no more."""
        connection, self._connection = self._connection, None
        for channel in self._channels:
            channel.dropped = True
        if connection is not None:
            self._end = asyncio.ensure_future(_close(connection))
            self.lost()

    async def close(self) -> None:
        """Disconnect in an orderly way."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close(connection)


async def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await asyncio.wait_for(connection.close(), 2.0)


def _nobody() -> None:
    """Nobody is to be told."""


@asynccontextmanager
async def translated(what: str, aborting: Line | None = None) -> AsyncGenerator[None]:
    """The client's errors as ours. What takes too long costs ``aborting`` its connection: its state is unknown."""
    try:
        yield
    except PenstockError:
        raise
    except (amqp.ChannelAccessRefused, amqp.ProbableAuthenticationError, amqp.AuthenticationError) as error:
        raise AccessDenied(f"{what}: RabbitMQ refused it: {error}") from error
    except amqp.ConnectionNotAllowed as error:
        raise AccessDenied(f"{what}: {error}; is there such a vhost, and may this user enter it?") from error
    except amqp.ChannelPreconditionFailed as error:
        raise ConfigurationError(
            f"{what}: it exists already and is made differently: {error}. Delete it when it is empty, or choose another"
            " name or vhost"
        ) from error
    except (amqp.ChannelNotFoundEntity, amqp.ChannelLockedResource) as error:
        raise Missing(f"{what}: {error}") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionFailed(f"{what}: the connection to RabbitMQ was closed") from None
    except (TimeoutError, OSError, amqp.AMQPError, RuntimeError, EOFError) as error:
        if aborting is not None and isinstance(error, TimeoutError):
            aborting.abort()
        raise ConnectionFailed(f"{what}: {str(error) or 'no answer in time'}") from error


class Missing(BrokerError):
    """A queue or exchange that was there has gone."""

    retryable = True


__all__ = ["Home", "Line", "Missing", "aiormq", "translated"]
