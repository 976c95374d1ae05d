"""The adapter for valkey-glide, the client whose core is written in Rust.

1. Every command goes as a batch: that is the one way to give a deadline with it, and to get errors as values.
2. GLIDE correlates replies with calls by number, so a cancelled call costs nothing but its reply. It connects again by
   itself, and we do not wait for that: a call that failed gives up its GLIDE client, and the next one makes another.
3. Nothing is sent twice: GLIDE's standalone client does not repeat what may have been executed. Therefore a cluster
   is a GLIDE client for each node, below the map of slots that we have anyway (``redis_cluster``): GLIDE's own cluster
   client fails a whole batch with one of its nodes.
4. A blocking reader has a GLIDE client of its own: whatever is sent behind a blocking command waits for it.

GLIDE runs on a thread of its own (``glide_thread``). What it makes of replies is undone by ``glide_replies``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import AccessDenied, BrokerError, ConnectionFailed, InvalidURL, MissingExtra
from .glide_replies import connection_error, plain
from .glide_thread import glide_thread
from .redis import Arg, Command, ReplyError, Script, run_script
from .redis_address import EXPECTED, RedisAddress
from .redis_cluster import RedisClusterClient
from .redis_py import CONNECT_TIMEOUT, SLOWEST, TIMEOUT

if TYPE_CHECKING:
    import glide

OPTIONS = frozenset({"db", "username", "password", "client_name", "socket_timeout", "socket_connect_timeout"})
TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile"})
IN_FLIGHT = 1_000_000  # GLIDE refuses more calls than this at a time; who calls us bounds them
SLACK = 1.0  # seconds that GLIDE's own deadline is ahead of ours


class GlideSession:
    """One GLIDE client, made when it is needed and anew after it failed. To be used on GLIDE's thread only."""

    def __init__(self, url: str, config: glide.GlideClientConfiguration, connect_timeout: float) -> None:
        self._url, self._config, self._connect_timeout = url, config, connect_timeout
        self._client: Any = None  # a glide.GlideClient; its own types are partly unknown
        self._answered = False

    @property
    def connected(self) -> bool:
        """Whether the present client has ever had an answer."""
        return self._client is not None and self._answered

    async def exchange(self, commands: Sequence[Command], patience: float, *, alone: bool) -> list[Any]:
        """Send, and return the replies. ``alone``: nobody else uses this session, so whatever fails ends it."""
        import glide

        batch = glide.Batch(is_atomic=False)
        for command in commands:
            batch.custom_command([arg if isinstance(arg, bytes) else str(arg).encode() for arg in command])
        if self._client is None:
            # It connects with the first command, so this does not wait
            self._client, self._answered = await glide.GlideClient.create(self._config), False
        client = self._client
        options = glide.BatchOptions(timeout=max(round(patience * 1000), 1))
        try:
            async with asyncio.timeout(patience + SLACK + (0 if self._answered else self._connect_timeout)):
                replies = await client.exec(batch, raise_on_error=False, options=options)
        except asyncio.CancelledError:
            if alone:
                await self._give_up(client)
            raise
        except (TimeoutError, glide.GlideError) as error:
            await self._give_up(client)
            raise connection_error(self._url, error) from error
        self._answered = True
        found = [plain(str(command[0]), reply) for command, reply in zip(commands, replies or (), strict=True)]
        if isinstance(found[0], ConnectionFailed):  # loading, or no longer primary: ask whoever answers next
            await self._give_up(client)
        return found

    async def close(self) -> None:
        """Disconnect; whoever waits for a reply hears of it."""
        if self._client is not None:
            await self._give_up(self._client)

    async def _give_up(self, client: Any) -> None:
        if self._client is client:
            self._client = None
        await client.close()


class GlideClient:
    """A client of one server: one connection for all short calls."""

    def __init__(
        self, address: RedisAddress, *, timeout: float = TIMEOUT, connect_timeout: float = CONNECT_TIMEOUT
    ) -> None:
        try:
            import glide
        except ImportError as missing:
            raise MissingExtra("valkey-glide", "glide") from missing
        _quiet(glide)
        self.address = address
        self._timeout, self._connect_timeout = _timeouts(address, timeout, connect_timeout)
        self._config = _config(address, self._timeout, self._connect_timeout)
        self._session = self.session()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address.masked!r})"

    @property
    def url(self) -> str:
        return self.address.masked

    @property
    def clustered(self) -> bool:
        return False

    def session(self) -> GlideSession:
        """Another GLIDE client for the same server."""
        return GlideSession(self.url, self._config, self._connect_timeout)

    async def call(self, *command: Arg) -> Any:
        (reply,) = await self.many([command])
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    async def many(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        size = sum(len(arg) for command in commands for arg in command if isinstance(arg, bytes))
        return await self.exchange_on(self._session, commands, size / SLOWEST, alone=False)

    async def run(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
        return await run_script(self.call, script, keys, args)

    def dedicated(self) -> GlideDedicated:
        return GlideDedicated(self)

    async def unblock(self, ident: object) -> None:
        with suppress(ReplyError, AccessDenied):
            await self.call("CLIENT", "UNBLOCK", str(ident))

    async def primaries(self) -> Sequence[GlideClient]:
        return (self,)

    def fork(self) -> Self:
        return type(self)(self.address, timeout=self._timeout, connect_timeout=self._connect_timeout)

    async def close(self) -> None:
        await glide_thread().run(self._session.close())

    async def exchange_on(
        self, session: GlideSession, commands: Sequence[Command], more: float, *, alone: bool
    ) -> list[Any]:
        """Send on ``session``, with ``more`` seconds than usual until the deadline."""
        return await glide_thread().run(session.exchange(commands, self._timeout + more, alone=alone))


class GlideDedicated:
    """A GLIDE client of one's own, made on first use and anew after it failed."""

    def __init__(self, client: GlideClient) -> None:
        self._client = client
        self._session = client.session()
        self.id: int | None = None

    async def call(self, *command: Arg, wait: float = 0.0) -> Any:
        if not self._session.connected:
            self.id = None
            await self._exchange((), 0.0)
        reply = await self._exchange((command,), wait)
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    async def close(self) -> None:
        await glide_thread().run(self._session.close())

    async def _exchange(self, commands: Sequence[Command], wait: float) -> Any:
        """The reply to the one command. Its id is asked for behind each, since GLIDE connects anew without a word."""
        asked = (*commands, ("CLIENT", "ID"))
        replies = await self._client.exchange_on(self._session, asked, wait, alone=True)
        self.id = replies[-1] if isinstance(replies[-1], int) else None  # it may be forbidden to ask
        return replies[0]


class GlideClusterClient(RedisClusterClient):
    """A client of all nodes of one cluster, each by GLIDE."""

    def make_node(self, address: RedisAddress) -> GlideClient:
        return GlideClient(address, timeout=self._timeout, connect_timeout=self._connect_timeout)


def _timeouts(address: RedisAddress, timeout: float, connect_timeout: float) -> tuple[float, float]:
    options = address.options
    try:
        return (
            float(options.get("socket_timeout", timeout)),
            float(options.get("socket_connect_timeout", connect_timeout)),
        )
    except ValueError:
        raise _unusable(address, "a timeout is no number") from None


def _config(address: RedisAddress, timeout: float, connect_timeout: float) -> glide.GlideClientConfiguration:
    """What the URL says, in GLIDE's words. Raises ``InvalidURL``."""
    import glide

    options = address.options
    unknown = options.keys() - OPTIONS - (TLS_OPTIONS if address.tls else frozenset())
    if unknown:
        names = ", ".join(sorted(OPTIONS | TLS_OPTIONS))
        raise _unusable(address, f"with valkey-glide there are {names} (ssl_… with glides:// only)")
    name, password = address.credentials
    if name and not password:
        raise _unusable(address, "a user name needs a password")
    return glide.GlideClientConfiguration(
        [glide.NodeAddress(*host) for host in address.hosts[:1]],
        use_tls=address.tls,
        credentials=glide.ServerCredentials(password, name) if password else None,
        request_timeout=max(round(timeout * 1000), 1),
        reconnect_strategy=glide.BackoffStrategy(num_of_retries=2, factor=50, exponent_base=2),
        database_id=address.database,
        client_name=options.get("client_name"),
        protocol=glide.ProtocolVersion.RESP2,
        inflight_requests_limit=IN_FLIGHT,
        advanced_config=glide.AdvancedGlideClientConfiguration(
            connection_timeout=max(round(connect_timeout * 1000), 1), tls_config=_tls(address)
        ),
        lazy_connect=True,
    )


def _tls(address: RedisAddress) -> glide.TlsAdvancedConfiguration | None:
    import glide

    options = address.options
    if not address.tls:
        return None
    checked = options.get("ssl_cert_reqs", "required")
    if checked not in {"required", "none"}:
        raise _unusable(address, "ssl_cert_reqs is required or none")
    return glide.TlsAdvancedConfiguration(
        use_insecure_tls=True if checked == "none" else None,
        root_pem_cacerts=_file(address, "ssl_ca_certs"),
        client_cert_pem=_file(address, "ssl_certfile"),
        client_key_pem=_file(address, "ssl_keyfile"),
    )


def _file(address: RedisAddress, option: str) -> bytes | None:
    path = address.options.get(option)
    if path is None:
        return None
    try:
        return Path(path).read_bytes() or b"\n"
    except OSError as error:
        raise _unusable(address, f"{option}: {error.strerror}") from None


def _unusable(address: RedisAddress, why: str) -> InvalidURL:
    return InvalidURL(f"{address.masked} has an option that cannot be used: {why}; {EXPECTED}")


def _quiet(glide: Any) -> None:
    """Keep GLIDE from writing to stderr, unless somebody configured its logger, or wants to see everything of ours."""
    debugging = logging.getLogger("penstock").isEnabledFor(logging.DEBUG)
    glide.Logger.init(glide.LogLevel.DEBUG if debugging else glide.LogLevel.OFF)
