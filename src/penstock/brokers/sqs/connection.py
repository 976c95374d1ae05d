"""Calls of the service: one client of aiobotocore, made on first use, with a deadline and our errors for each call.

The client's own retries are off: what may be asked again, and how often, is known only above. A call that was throttled
was not carried out, so ``patiently`` may repeat it; one that was cut off may have been.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import cache
from typing import Any, TypeVar

from ...clock import Clock
from ...errors import AccessDenied, BrokerError, ConfigurationError, ConnectionFailed, MissingExtra
from .options import SqsOptions

T = TypeVar("T")

CONNECT_TIMEOUT = 5.0
CONNECTIONS = 1000  # of a pool: none is kept that is not used, and each waiting read has its own
TRIES = 4
FIRST_PAUSE = 0.1  # seconds before what was throttled is tried again; then twice as long

_MISSING = frozenset({"QueueDoesNotExist", "NonExistentQueue", "NotFound", "NotFoundException"})
_DENIED = frozenset({
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthFailure", "ExpiredToken",
    "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity",
    "KmsAccessDenied", "MissingAuthenticationToken", "OptInRequired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
})  # fmt: skip
_THROTTLED = frozenset({
    "BandwidthLimitExceeded", "KmsThrottled", "OverLimit", "PriorRequestNotComplete", "RequestLimitExceeded",
    "RequestThrottled", "RequestThrottledException", "SlowDown", "ThrottledException", "Throttling",
    "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip


class QueueMissing(BrokerError):
    """There is no such queue."""


class Throttled(ConnectionFailed):
    """The service wants to be asked less often; nothing was done."""


class Connection:
    """One client of one service (``sqs`` or ``sns``), in the loop that first uses it."""

    def __init__(self, options: SqsOptions, clock: Clock, service: str = "sqs") -> None:
        self.clock, self._options, self._service = clock, options, service
        self._stack: AsyncExitStack | None = None
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._free = asyncio.Semaphore(options.parallel)

    async def call(self, operation: str, *, wait: float = 0.0, **params: Any) -> Mapping[str, Any]:
        """One call; ``wait``: seconds for which the server may hold its answer back."""
        client = self._client or await self._open()
        try:
            async with asyncio.timeout(self._options.timeout + wait):
                return await getattr(client, operation)(**params)  # type: ignore[no-any-return]  # an untyped client
        except Exception as error:
            raise self._translated(operation, error) from error

    async def short(self, operation: str, **params: Any) -> Mapping[str, Any]:
        """One call among no more than ``parallel`` at once, again if it was throttled."""
        async with self._free:
            return await self.patiently(lambda: self.call(operation, **params))

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer, after a few tries if the service throttles."""
        for attempt in range(TRIES - 1):
            try:
                return await ask()
            except Throttled:
                await self.pause(attempt)
        return await ask()

    async def pause(self, attempt: int) -> None:
        """The wait before what was throttled is tried again."""
        await self.clock.sleep(FIRST_PAUSE * 2**attempt)

    async def close(self) -> None:
        """Disconnect; the next call connects again."""
        stack, self._stack, self._client = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def _open(self) -> Any:
        async with self._opening:
            if self._client is None:
                stack = AsyncExitStack()
                try:
                    self._client = await stack.enter_async_context(_new_client(self._service, self._options))
                except Exception as error:
                    raise self._translated("connecting", error) from error
                self._stack = stack
        return self._client

    def _translated(self, operation: str, error: Exception) -> Exception:
        """What an exception of the client library is among ours. Its texts carry no secret."""
        from botocore import exceptions as boto  # type: ignore[import-untyped]  # has no stubs

        what = f"{operation} at {self._options.url}"
        if isinstance(error, BrokerError | ConfigurationError):
            return error
        if isinstance(error, boto.ClientError):
            return _refusal(what, error)
        if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
            return AccessDenied(
                f"{what}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, or for a local"
                " server write sqs://key:secret@host"
            )
        if isinstance(error, boto.NoRegionError):
            return ConfigurationError(f"{self._options.url} names no region: add ?region=eu-west-1 or set AWS_REGION")
        if isinstance(error, boto.ProfileNotFound | boto.InvalidRegionError | boto.ParamValidationError | ValueError):
            return ConfigurationError(f"{what}: {error}")
        if isinstance(error, TimeoutError):
            return ConnectionFailed(f"{what}: no answer in time")
        return ConnectionFailed(f"{what}: {type(error).__name__}: {error}")


def names_of(error: Mapping[str, Any]) -> set[str]:
    """The names of an error or of a failed entry: services differ in which field has the one that is documented."""
    texts = [str(error.get(field, "")) for field in ("Code", "QueryErrorCode")]
    return {text.rpartition(".")[2] for text in texts}


def is_throttled(error: Mapping[str, Any]) -> bool:
    """Whether it may go better soon: the service's own fault, or too many requests."""
    return bool(names_of(error) & _THROTTLED) or error.get("SenderFault") is False


def _refusal(what: str, error: Any) -> BrokerError:
    details: Mapping[str, Any] = error.response.get("Error", {})
    names = names_of(details) | {type(error).__name__}
    text = f"{what}: {details.get('Code', '?')}: {details.get('Message', '')}"
    if names & _MISSING:
        return QueueMissing(text)
    if names & _DENIED:
        return AccessDenied(text)
    if names & _THROTTLED:
        return Throttled(text)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return ConnectionFailed(text) if status >= 500 else BrokerError(text)


@cache
def _loader() -> Any:
    """What reads the descriptions of services, which takes longer than all the rest: once for the whole process."""
    from botocore import loaders

    untyped: Any = loaders
    return untyped.create_loader()


def _new_client(service: str, options: SqsOptions) -> Any:
    try:
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # has no stubs
        from aiobotocore.session import AioSession  # type: ignore[import-untyped]  # has no stubs
    except ImportError:
        raise MissingExtra("aiobotocore", "sqs") from None
    session: Any = AioSession(profile=options.profile)
    session.register_component("data_loader", _loader())
    config: Any = AioConfig(
        connect_timeout=min(CONNECT_TIMEOUT, options.timeout),
        read_timeout=options.timeout + 30,  # the deadline of each call is shorter, except while the server may wait
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
    )
    key, secret = options.access or (None, None)
    return session.create_client(
        service,
        region_name=options.region,
        endpoint_url=options.endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=config,
    )
