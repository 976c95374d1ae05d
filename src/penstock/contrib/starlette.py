"""penstock inside a FastAPI or Starlette application: a lifespan for what works, and routes for who watches it.

===========  ==============================================================================================================
path         answer
===========  ==============================================================================================================
``/livez``   200 as long as the event loop gets round to it: whoever hears nothing within its limit restarts the process
``/readyz``  200 while everything works: each consumer has had an answer to its last fetch and settlement, and none has
             waited for one for too long; else 503 with the reasons, as from the moment when a stop begins
``/health``  JSON: ``status``, ``broker``, ``consumer``, ``publisher``; 503 with ``error`` when something is wrong
``/metrics`` Prometheus' text if ``prometheus-client`` is installed; JSON for who accepts ``application/json`` or without it
===========  ==============================================================================================================
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import BrokerError, MissingExtra
from ..health import PATIENCE, Health
from ..shutdown import LIMIT, stopping
from ..telemetry import TELEMETRY, Telemetry
from .event_counts import EventCounts

try:
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route, Router
except ImportError as error:
    raise MissingExtra("starlette", "starlette") from error

if TYPE_CHECKING:
    from .prometheus import PrometheusMetrics

logger = logging.getLogger("penstock")

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]
STARTS = ("start", "open", "__aenter__")


def lifespan(*parts: Any, within: Lifespan | None = None, limit: float = LIMIT) -> Lifespan:
    """A lifespan that starts ``parts`` before the application serves, and stops them when it has served its last request.

    ``parts``: workers, brokers, an ``App``, whatever can be started and closed, in the order in which they are to be
    closed; they are started from the last to the first. ``within``: a lifespan of the application's own, which begins
    before them and ends after them, so that handlers have what it opens. ``limit``: seconds for closing each, see
    ``penstock.stopping``. A part that cannot start keeps the application from serving.
    """

    @asynccontextmanager
    async def run(app: Any) -> AsyncGenerator[Any]:
        async with AsyncExitStack() as stack:
            state = None if within is None else await stack.enter_async_context(within(app))
            await stack.enter_async_context(stopping(*parts, limit=limit))
            for part in reversed(parts):
                await _started(part)
            yield state

    return run


async def _started(part: Any) -> None:
    for name in STARTS:
        start = getattr(part, name, None)
        if callable(start):
            result = start()
            if inspect.isawaitable(result):
                await result
            return


def health_router(
    *parts: Any,
    publisher: Any = None,
    metrics: bool | PrometheusMetrics = True,
    hub: Telemetry = TELEMETRY,
    patience: float = PATIENCE,
) -> Router:
    """``/livez``, ``/readyz``, ``/health`` and ``/metrics`` about ``parts``, to be mounted: ``app.mount("/ops", …)``.

    ``parts``, ``publisher`` and ``patience``: see ``penstock.health``. ``metrics``: false leaves ``/metrics`` out, and
    nothing is counted; one's own ``PrometheusMetrics`` is served with whatever else is in its registry. The routes tell
    strangers how busy a service is, and have no authentication.
    """
    health = Health(*parts, publisher=publisher, patience=patience)

    async def live(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        troubles = await health.troubles()
        return PlainTextResponse("".join(f"{each}\n" for each in troubles) or "ok\n", 503 if troubles else 200)

    async def healthy(_: Request) -> Response:
        report = await health.report()
        return JSONResponse(report, 503 if "error" in report else 200)

    routes: Mapping[str, Callable[[Request], Any]] = {"/livez": live, "/readyz": ready, "/health": healthy}
    router = Router([Route(path, endpoint) for path, endpoint in routes.items()])
    if metrics is not False:
        page = _Metrics(health, hub, metrics)
        router.routes.append(Route("/metrics", page.answer))
        weakref.finalize(router, page.close)
    return router


class _Metrics:
    """What ``/metrics`` answers, counted from the moment when the router is made."""

    def __init__(self, health: Health, hub: Telemetry, given: bool | PrometheusMetrics) -> None:
        self._workers, self._counts = health.workers, EventCounts()
        self._prometheus = None if isinstance(given, bool) else given
        self._ends = [hub.subscribe(self._counts)]
        if self._prometheus is None:
            try:
                from .prometheus import isolated
            except MissingExtra:
                return
            self._prometheus = isolated(hub)
            self._ends.append(self._prometheus.unsubscribe)
            for worker in self._workers:
                self._prometheus.watch(worker)

    def close(self) -> None:
        for end in self._ends:
            end()

    async def answer(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        if self._prometheus is None or "application/json" in accept:
            return JSONResponse(self._counts.as_json())
        for worker in self._workers:
            try:
                await self._prometheus.sample(worker)
            except BrokerError as error:
                logger.debug("sizes were not read: %s", error)
        text, kind = self._prometheus.text(accept)
        return Response(text, headers={"content-type": kind})
