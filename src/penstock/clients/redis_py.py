"""The adapter for redis-py: its connections (TLS, authentication, Unix sockets), our own way of using them.

redis-py connects and authenticates. From then on commands are packed by hiredis into one buffer and replies are
parsed by hiredis in a row, on that connection's own stream: going through the per-command layer would cost several
times the work itself. A connection belongs to one call at a time and returns to the pool only when every reply was
read; on any failure or cancellation it is dropped, so replies never get out of step.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from ..errors import AccessDenied, BrokerError, ConnectionFailed, InvalidURL, MissingExtra
from .redis import Arg, Command, ReplyError, Script, error_of, run_script
from .redis_address import EXPECTED, Host, RedisAddress

if TYPE_CHECKING:
    import redis.asyncio

TIMEOUT = 10.0
CONNECT_TIMEOUT = 5.0
MAX_CONNECTIONS = 32
SLOWEST = 1_000_000.0  # bytes per second: a big buffer gets as much more time
CHUNK = 1 << 18
INCOMPLETE = object()


class translate:  # noqa: N801 - used as a statement, like contextlib's
    """A context in which whatever the client library or the network raises becomes one of our errors."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or isinstance(error, BrokerError) or not isinstance(error, Exception):
            return
        import redis.exceptions as theirs

        denied = (theirs.AuthenticationError, theirs.AuthorizationError, theirs.NoPermissionError)
        if isinstance(error, denied) or str(error).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            raise AccessDenied(f"{self._url} refused us: {error}") from error
        if isinstance(error, TimeoutError | theirs.TimeoutError):
            raise ConnectionFailed(f"{self._url} did not answer in time") from error
        if isinstance(error, OSError | EOFError | theirs.ConnectionError | theirs.InvalidResponse):
            raise ConnectionFailed(f"{self._url} cannot be reached: {str(error) or type(error).__name__}") from error
        if isinstance(error, theirs.RedisError):
            raise BrokerError(f"{self._url}: {error}") from error


class Link:
    """One connected redis-py connection and the parser for its stream."""

    __slots__ = ("_connection", "_parser", "_poll", "_reader", "_writer")

    def __init__(self, connection: redis.asyncio.Connection) -> None:
        import hiredis

        self._connection = connection
        # The two private names that we use of redis-py: its stream, both ways
        reader, writer = connection._reader, connection._writer  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        if reader is None or writer is None:
            raise ConnectionResetError("the connection was closed while it was being made")
        self._reader, self._writer = reader, writer
        self._parser = hiredis.Reader(protocolError=ConnectionResetError, replyError=error_of, notEnoughData=INCOMPLETE)
        self._poll: select.poll | None = None
        if hasattr(select, "poll") and writer.get_extra_info("ssl_object") is None:
            self._poll = select.poll()
            self._poll.register(writer.get_extra_info("socket").fileno(), select.POLLIN)

    def usable(self) -> bool:
        """Whether nothing has happened to it while it was idle: any byte would be out of step, or the end."""
        if self._reader.at_eof() or self._writer.is_closing():
            return False
        return self._poll is None or not self._poll.poll(0)

    async def exchange(self, buffer: bytes, count: int, patience: float) -> list[Any]:
        """Write, and read ``count`` replies. If this raises, the link is dead."""
        reader, feed, gets = self._reader, self._parser.feed, self._parser.gets
        replies: list[Any] = []
        try:
            async with asyncio.timeout(patience):
                self._writer.write(buffer)  # what the socket does not take is sent while we read
                while len(replies) < count:
                    reply = gets()
                    if reply is not INCOMPLETE:
                        replies.append(reply)
                        continue
                    data = await reader.read(CHUNK)
                    if not data:
                        raise EOFError("it closed the connection")  # noqa: TRY301 - to the handler below, like others
                    feed(data)
        except BaseException:
            self.drop()
            raise
        return replies

    def drop(self) -> None:
        """Close at once, without waiting for anything."""
        _abort(self._connection, self._writer)

    async def close(self) -> None:
        """Close in an orderly way."""
        try:
            await self._connection.disconnect()
        except Exception:  # noqa: BLE001 - it is gone, which is all we want
            self.drop()
        except asyncio.CancelledError:  # a TLS stream would go on waiting for the server's goodbye, for nobody
            self.drop()
            raise


def _abort(connection: redis.asyncio.Connection, writer: asyncio.StreamWriter | None) -> None:
    """End a connection without a goodbye, which a TLS stream would wait for when merely closed."""
    if writer is not None:
        with suppress(AttributeError):  # some releases of Python 3.11 say so of a TLS stream that was closed twice
            writer.transport.abort()
    connection._close()  # type: ignore[no-untyped-call] # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # the public way may wait


class RedisPyClient:
    """A pool of redis-py connections to one server."""

    def __init__(
        self, address: RedisAddress, *, timeout: float = TIMEOUT, connect_timeout: float = CONNECT_TIMEOUT
    ) -> None:
        try:
            import hiredis
            import redis.asyncio
        except ImportError as missing:
            raise MissingExtra("redis", "redis") from missing
        self.address, self._timeout, self._connect_timeout = address, timeout, connect_timeout
        self._pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment] # its stub knows 1-tuples only
        settings = {"socket_timeout": timeout, "socket_connect_timeout": connect_timeout}
        try:
            maker: Any = redis.asyncio.ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                address.text, **settings
            )
            maker.connection_kwargs.update(protocol=2, decode_responses=False)  # one reply of bytes per command
            self._make: Callable[..., Any] = maker.connection_class
            self._make(**maker.connection_kwargs)  # no I/O: finds unknown options
        except (TypeError, ValueError):
            raise InvalidURL(f"{address.masked} has an option that cannot be used; {EXPECTED}") from None
        self._settings: dict[str, Any] = maker.connection_kwargs
        asked = self._settings
        self._timeout, self._connect_timeout = asked["socket_timeout"], asked["socket_connect_timeout"]
        self._free: list[Link] = []
        self._closings = 0
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)

    def __repr__(self) -> str:
        return f"RedisPyClient({self.address.masked!r})"

    @property
    def url(self) -> str:
        return self.address.masked

    @property
    def clustered(self) -> bool:
        return False

    async def call(self, *command: Arg) -> Any:
        (reply,) = await self.exchange(self._pack(tuple(command)), 1)
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        pack = self._pack
        return await self.exchange(b"".join([pack(tuple(command)) for command in commands]), len(commands))

    async def run(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
        return await run_script(self.call, script, keys, args)

    def dedicated(self) -> RedisPyDedicated:
        return RedisPyDedicated(self)

    async def unblock(self, ident: object) -> None:
        with suppress(ReplyError, AccessDenied):
            await self.call("CLIENT", "UNBLOCK", cast("int", ident))

    async def primaries(self) -> Sequence[RedisPyClient]:
        return (self,)

    def fork(self) -> Self:
        return type(self)(self.address, timeout=self._timeout, connect_timeout=self._connect_timeout)

    async def close(self) -> None:
        self._closings += 1  # what is under way ends its connection itself
        idle = self._give_up_idle()
        try:
            while idle:
                await idle.pop().close()
        finally:  # nobody else knows of those that a cancellation has left
            for link in idle:
                link.drop()
        await asyncio.sleep(0)  # what was dropped before is closed in the loop's next turn

    async def where(self) -> Host | None:
        """Whom the next connection goes to, if not to the server that the address names."""
        return None

    async def connect(self) -> Link:
        """A new connection, ready for commands."""
        where, task = await self.where(), asyncio.current_task()
        connection = self._make(**self._settings | ({"host": where[0], "port": where[1]} if where else {}))
        cancelled = task.cancelling() if task else 0
        try:
            with translate(self.url):
                async with asyncio.timeout(self._connect_timeout + self._timeout):
                    await connection.connect()
                    # It uses wait_for, which before Python 3.12 may swallow a cancellation (python/cpython#86296)
                    if task and task.cancelling() > cancelled:
                        raise asyncio.CancelledError  # noqa: TRY301 - as if it had not been swallowed
                return Link(connection)
        except BaseException:
            _abort(connection, connection._writer)  # noqa: SLF001
            raise

    async def exchange(self, buffer: bytes, count: int) -> list[Any]:
        """Send packed commands on a connection of the pool; return all replies."""
        async with self._room:
            closings, link = self._closings, await self._take()
            try:
                with translate(self.url):
                    replies = await link.exchange(buffer, count, self._timeout + len(buffer) / SLOWEST)
            except ConnectionFailed:
                self._drop_idle()
                raise
            if isinstance(replies[0], ConnectionFailed):  # loading, or no longer primary: ask whoever answers next
                self._drop_idle()
                link.drop()
            elif closings != self._closings:
                await link.close()
            else:
                self._free.append(link)
            return replies

    def _give_up_idle(self) -> list[Link]:
        free, self._free = self._free, []
        return free

    def _drop_idle(self) -> None:
        """What happened to one connection has most likely happened to those that lie idle."""
        for link in self._give_up_idle():
            link.drop()

    async def _take(self) -> Link:
        while self._free:
            link = self._free.pop()
            if link.usable():
                return link
            link.drop()
        return await self.connect()

    async def exchange_on(self, link: Link, command: Command, wait: float) -> Any:
        """Run one command on ``link``, with a deadline later than the server's."""
        with translate(self.url):
            (reply,) = await link.exchange(self._pack(tuple(command)), 1, wait + self._timeout)
        if isinstance(reply, BrokerError):
            raise reply
        return reply


class RedisPyDedicated:
    """A connection of one's own, made on first use and anew after it broke."""

    def __init__(self, client: RedisPyClient) -> None:
        self._client = client
        self._link: Link | None = None
        self.id: int | None = None

    async def call(self, *command: Arg, wait: float = 0.0) -> Any:
        link = self._link
        if link is None or not link.usable():
            link = await self._connect()
        self._link = None  # not usable again unless this call ends well
        try:
            reply = await self._client.exchange_on(link, command, wait)
        except ConnectionFailed:
            link.drop()
            raise
        except BrokerError:
            self._link = link  # an error reply is a reply
            raise
        self._link = link
        return reply

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _connect(self) -> Link:
        if self._link is not None:
            self._link.drop()
            self._link = None
        link = await self._client.connect()
        try:
            self.id = await self._client.exchange_on(link, ("CLIENT", "ID"), 0)
        except AccessDenied:
            self.id = None
        except BaseException:
            link.drop()
            raise
        return link
