"""How a process is: whether its parts work, why not, and what they say of themselves.

A part is a ``Worker``, a ``Broker``, or anything with ``health()`` or ``status()``, coroutine functions or plain ones, whose
answer is a mapping or a struct. Such a part is well unless it raises, has a ``ready`` that is false, or says so: one of
``healthy``, ``ready``, ``connected``, ``isConnected`` is false, or ``status`` is ``"unhealthy"``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from .broker import Broker, SupportsInspect, SupportsPresence
from .checks import positive
from .config import mask_url
from .consumer import Consumer, troubles
from .errors import AccessDenied, BrokerError, ConfigurationError, UnsupportedFeature
from .worker import Worker

PATIENCE = 5.0  # seconds that a part may take to answer
WELL = ("healthy", "ready", "connected", "isConnected")
SECRETS = ("password", "secret", "token", "credential")


@dataclass(slots=True)
class Answer:
    """What one part says. ``reached``: whether its broker answered, if that is known."""

    status: dict[str, Any] = field(default_factory=dict[str, Any])
    troubles: list[str] = field(default_factory=list[str])
    reached: bool | None = None


class Health:
    """Asks ``parts`` how they are. ``publisher``: one object with ``memory_stats()``, or several by name.

    ``patience``: seconds that each may take to answer. Answers carry no passwords.
    """

    def __init__(self, *parts: Any, publisher: Any = None, patience: float = PATIENCE) -> None:
        positive("patience, in seconds,", patience)
        self._patience = patience
        self.workers = [part for part in parts if isinstance(part, Worker)]
        self._asks = [(_named(part), _asker(part), _glance(part)) for part in parts]
        several = isinstance(publisher, Mapping)
        given = cast("Mapping[str, Any]", publisher) if several else {"publisher": publisher}
        self._publishers = {name: _teller(each) for name, each in given.items() if each is not None}
        self._several = several

    async def troubles(self) -> list[str]:
        """Why this process is not ready, in words; nothing when it is. Workers know without asking anybody."""
        found = await asyncio.gather(*(self._answer(name, glance) for name, _, glance in self._asks))
        return [mask_url(trouble) for answer in found for trouble in answer.troubles]

    async def report(self) -> dict[str, Any]:
        """``status`` (healthy or unhealthy), ``broker``, ``consumer``, ``publisher``, and with troubles ``error``."""
        parts = await asyncio.gather(*(self._answer(name, ask) for name, ask, _ in self._asks))
        publishers = await asyncio.gather(*(self._answer(name, tell) for name, tell in self._publishers.items()))
        wrong = [trouble for answer in (*parts, *publishers) for trouble in answer.troubles]
        report: dict[str, Any] = {"status": "unhealthy" if wrong else "healthy"}
        reached = [answer.reached for answer in parts if answer.reached is not None]
        if reached:
            report["broker"] = "connected" if all(reached) else "disconnected"
        consumers = {name: status for answer in parts for name, status in answer.status.items()}
        if consumers:
            report["consumer"] = consumers if len(consumers) > 1 else next(iter(consumers.values()))
        told = {name: answer.status for name, answer in zip(self._publishers, publishers, strict=True)}
        if told:
            report["publisher"] = told if self._several else told["publisher"]
        if wrong:
            report["error"] = "; ".join(wrong)
        return cast("dict[str, Any]", _public(report))

    async def _answer(self, name: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            async with asyncio.timeout(self._patience):
                return await ask()
        except TimeoutError:
            return Answer(troubles=[f"{name}: no answer within {self._patience:g} s"], reached=False)
        except Exception as error:  # noqa: BLE001 whatever a part raises is what is to be told
            return Answer(troubles=[f"{name}: {str(error) or type(error).__name__}"], reached=_reached(error))


def _reached(error: Exception) -> bool | None:
    return False if isinstance(error, BrokerError) else None


def _named(part: Any) -> str:
    name = getattr(part, "name", None)
    return name if isinstance(name, str) and name else type(part).__name__


def _asker(part: Any) -> Callable[[], Awaitable[Answer]]:
    """How a part is asked for all it has to say."""
    if isinstance(part, Worker):
        return lambda: _of_worker(part)
    if all(hasattr(part, verb) for verb in ("publish", "fetch", "settle")):
        return lambda: _of_broker(part)
    ask = getattr(part, "health", None) or getattr(part, "status", None)
    if not callable(ask):
        raise ConfigurationError(
            f"expected a Worker, a Broker or something with health() or status(), got {part!r:.100}"
        )
    return lambda: _of_other(part, ask)


def _glance(part: Any) -> Callable[[], Awaitable[Answer]]:
    """How it is asked only whether it is ready."""

    async def of_worker() -> Answer:
        return Answer(troubles=list(part.troubles))

    return of_worker if isinstance(part, Worker) else _asker(part)


def _teller(publisher: Any) -> Callable[[], Awaitable[Answer]]:
    ask = getattr(publisher, "memory_stats", None)
    if not callable(ask):
        raise ConfigurationError(f"expected a publisher with memory_stats(), got {publisher!r:.100}")

    async def tell() -> Answer:
        stats = _plain(await _result(ask))
        if "failedMessageCount" in stats:
            stats["failedMessages"] = stats.pop("failedMessageCount")
        return Answer(stats)

    return tell


async def _of_worker(worker: Worker) -> Answer:
    """Its consumers, with what their broker says of them."""
    answer = Answer(troubles=list(worker.troubles))
    for consumer in worker.consumers:
        pending: int | None = None
        lag: int | None = None
        if consumer.running:  # to ask for one that has stopped would open its broker again
            try:
                pending, lag = await _backlog(consumer)
            except (AccessDenied, UnsupportedFeature):
                pass  # it answers, but does not tell
            except BrokerError as error:
                answer.reached = False
                answer.troubles.append(f"{consumer.name}: {error}")
            answer.reached = answer.reached is not False
        answer.status[consumer.name] = {
            "isConnected": not troubles([consumer]),
            "paused": consumer.paused,
            "inFlight": consumer.in_flight,
            "pendingMessages": pending,
            "lag": lag,
            **_plain(consumer.counters),
        }
    return answer


async def _backlog(consumer: Consumer[Any]) -> tuple[int | None, int | None]:
    """Messages of its group that are leased, and not yet fetched, as far as its broker can say."""
    broker, subscription = consumer.broker, consumer.subscription
    if not isinstance(broker, SupportsInspect):
        await _of_broker(broker)
        return None, None
    sources = subscription.queues or tuple(each.source for each in consumer.running) or (subscription.source,)
    stats = [await broker.stats(source) for source in dict.fromkeys(sources)]
    mine = [group for each in stats for group in each.groups if group.name == subscription.group]
    lags = [group.lag for group in mine if group.lag is not None]
    return sum(group.leased for group in mine), sum(lags) if len(lags) == len(mine) else None


async def _of_broker(broker: Broker[Any]) -> Answer:
    """Whether it answers: by a question that changes nothing."""
    await broker.open()
    try:
        if isinstance(broker, SupportsPresence):
            await broker.processes()
        elif isinstance(broker, SupportsInspect):
            await broker.sources()
    except (AccessDenied, UnsupportedFeature):
        pass  # an answer all the same
    return Answer(reached=True)


async def _of_other(part: Any, ask: Callable[[], Any]) -> Answer:
    status = _plain(await _result(ask))
    name, ready = _named(part), getattr(part, "ready", True)
    wrong = [f"{name}: {key} is false" for key in WELL if status.get(key) is False]
    if ready is False and not wrong:
        wrong.append(f"{name}: not ready")
    if status.get("status") == "unhealthy":
        wrong.append(f"{name}: {status.get('error', 'unhealthy')}")
    connected = status.get("isConnected", status.get("connected"))
    return Answer({name: status}, wrong, connected if isinstance(connected, bool) else None)


async def _result(call: Callable[[], Any]) -> Any:
    result = call()
    return await result if inspect.isawaitable(result) else result


def _plain(value: Any) -> dict[str, Any]:
    """A mapping or a struct as JSON has it, names as in JavaScript."""
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    if not isinstance(plain, dict):
        raise ConfigurationError(f"expected a mapping or a struct of what there is to say, got {value!r:.100}")
    return {_camel(name): item for name, item in cast("dict[str, Any]", plain).items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _public(value: Any, name: str = "") -> Any:
    """The same without what nobody outside should read."""
    if isinstance(value, dict):
        return {key: _public(item, key) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_public(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, str):
        return "***" if any(word in name.lower() for word in SECRETS) else mask_url(value)
    return value
