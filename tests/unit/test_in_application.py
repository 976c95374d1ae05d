"""Inside a Starlette or FastAPI application: what works begins before it serves, and tells truthfully how it is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette
from starlette.routing import Mount

from penstock import (
    App,
    ConfigurationError,
    Consumer,
    Producer,
    RetryPolicy,
    Telemetry,
    Worker,
    WorkerOptions,
    open_broker,
)
from penstock.brokers.memory import MemoryBroker
from penstock.contrib import starlette
from penstock.contrib.prometheus import PrometheusMetrics
from penstock.contrib.starlette import health_router, lifespan
from penstock.errors import AccessDenied, ConnectionFailed

SECRET = "hunter2"


async def nothing(job: dict[str, int]) -> None: ...


def a_worker(stream: str = "s", handler: Callable[..., Any] = nothing, broker: Any = None, **options: Any) -> Worker:
    made = broker or open_broker("memory://")
    return Worker(Consumer(made, stream, dict, handler, retry=RetryPolicy(max_attempts=1)), **options)


@asynccontextmanager
async def asking(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running application."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


def app_of(*parts: Any, prefix: str = "/ops", started: bool = True, **options: Any) -> Starlette:
    routes = [Mount(prefix, health_router(*parts, **{"hub": Telemetry(), **options}))]
    return Starlette(routes=routes, lifespan=lifespan(*parts) if started else None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
@pytest.mark.parametrize("prefix", ["/ops", "/deep/down"])
async def test_a_mounted_router_answers_while_the_worker_consumes(framework: Any, prefix: str) -> None:
    worker = a_worker()
    app = framework(lifespan=lifespan(worker))
    app.mount(prefix, health_router(worker, hub=Telemetry()))
    async with asking(app) as client:
        for path in ("/livez", "/readyz"):
            answer = await client.get(prefix + path)
            assert (200, "ok\n") == (answer.status_code, answer.text)
        assert (200, "healthy") == (
            (health := await client.get(f"{prefix}/health")).status_code,
            health.json()["status"],
        )
        assert 404 == (await client.get(f"{prefix}/nothing")).status_code


async def test_a_worker_consumes_before_the_application_serves_and_is_stopped_after_it() -> None:
    worker = a_worker()
    assert not worker.ready
    async with asking(app_of(worker)):
        assert worker.ready
    assert not worker.ready
    assert not worker.consumers[0].running


async def test_readiness_is_red_before_the_start_with_the_reason() -> None:
    async with asking(app_of(a_worker(), started=False)) as client:
        ready, live = await client.get("/ops/readyz"), await client.get("/ops/livez")
    assert (503, "s/default: not started\n", 200) == (ready.status_code, ready.text, live.status_code)


async def test_readiness_turns_red_when_a_stop_begins_and_running_handlers_end_in_peace() -> None:
    began, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(job: dict[str, int]) -> None:
        began.set()
        await may_end.wait()
        ended.set()

    broker = open_broker("memory://")
    worker = a_worker(handler=handle, broker=broker)
    await Producer(broker, "s", dict).send({})
    app = app_of(worker)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        context = app.router.lifespan_context(app)
        await context.__aenter__()
        await began.wait()
        assert 200 == (await client.get("/ops/readyz")).status_code
        leaving = asyncio.create_task(context.__aexit__(None, None, None))  # type: ignore[arg-type]
        await until(lambda: not worker.ready)
        answer = await client.get("/ops/readyz")
        assert (503, "quiet: nothing more is fetched\n") == (answer.status_code, answer.text)
        assert not ended.is_set()
        may_end.set()
        await leaving
    assert (True, 1) == (ended.is_set(), worker.consumers[0].counters.acked)


class Failing(MemoryBroker):
    """Fails to fetch, or to tell, when told to."""

    error: Exception | None = None

    async def fetch(self, *arguments: Any) -> Any:
        if self.error is not None:
            raise self.error
        return await super().fetch(*arguments)

    async def stats(self, source: str) -> Any:
        if self.error is not None:
            raise self.error
        return await super().stats(source)


async def test_an_unreachable_broker_makes_it_unready_with_a_reason_that_holds_no_password() -> None:
    broker = Failing()
    worker = a_worker(broker=broker)
    async with asking(app_of(worker)) as client:
        broker.error = ConnectionFailed(f"redis://app:{SECRET}@db:6379?password={SECRET} is away")
        await broker.publish([])
        await until(lambda: not worker.ready)
        ready, health = await client.get("/ops/readyz"), await client.get("/ops/health")
        assert (503, 503) == (ready.status_code, health.status_code)
        assert "s/default: fetching fails: redis://app:***@db:6379?password=*** is away\n" == ready.text
        report = health.json()
        assert ("unhealthy", "disconnected", False) == (
            report["status"],
            report["broker"],
            report["consumer"]["isConnected"],
        )
        assert SECRET not in ready.text + health.text
        broker.error = None
        await until(lambda: worker.ready)
        assert 200 == (await client.get("/ops/health")).status_code


async def test_the_report_has_the_shape_that_monitoring_knows() -> None:
    @dataclass
    class Stats:
        queue_count: int = 1
        total_messages: int = 2
        failed_message_count: int = 3
        active_batches: int = 4

    class Publisher:
        def memory_stats(self) -> Stats:
            return Stats()

    broker = open_broker("memory://")
    async with asking(app_of(a_worker(broker=broker), publisher=Publisher())) as client:
        report = (await client.get("/ops/health")).json()
    assert {
        "status": "healthy",
        "broker": "connected",
        "consumer": {
            "isConnected": True,
            "paused": False,
            "inFlight": 0,
            "pendingMessages": 0,
            "lag": 0,
            **dict.fromkeys(
                ("fetched", "acked", "retried", "dead", "released", "lost", "reclaimed", "discarded"),
                0,
            ),
        },
        "publisher": {"queueCount": 1, "totalMessages": 2, "failedMessages": 3, "activeBatches": 4},
    } == report


async def test_asking_does_not_open_the_broker_of_a_worker_that_has_stopped() -> None:
    class Noting(MemoryBroker):
        asked = 0

        async def stats(self, source: str) -> Any:
            self.asked += 1
            return await super().stats(source)

    broker = Noting()
    worker = a_worker(broker=broker)
    async with asking(app_of(worker)) as client:
        await client.get("/ops/health")
        await client.get("/ops/metrics")
        assert 2 == broker.asked
        await worker.stop()
        report = (await client.get("/ops/health")).json()
        await client.get("/ops/metrics")
    assert (2, "unhealthy", "quiet: nothing more is fetched") == (broker.asked, report["status"], report["error"])


async def test_several_workers_and_publishers_are_told_apart() -> None:
    class Publisher:
        async def memory_stats(self) -> Mapping[str, int]:
            return {"queueCount": 0}

    parts = (a_worker("one"), a_worker("two"))
    async with asking(app_of(*parts, publisher={"users": Publisher(), "orders": Publisher()})) as client:
        report = (await client.get("/ops/health")).json()
        await parts[1].stop()
        ready = await client.get("/ops/readyz")
    assert {"one/default", "two/default"} == set(report["consumer"])
    assert {"users": {"queueCount": 0}, "orders": {"queueCount": 0}} == report["publisher"]
    assert (503, "quiet: nothing more is fetched\n") == (ready.status_code, ready.text)


class Status(msgspec.Struct):
    is_connected: bool = True
    pending_messages: int = 0
    redis_password: str = SECRET
    url: str = f"redis://:{SECRET}@db"


class Events:
    """What another part of the library, or of the application, may look like."""

    name = "user-events"

    def __init__(self, status: Any) -> None:
        self._status = status

    async def status(self) -> Any:
        if isinstance(self._status, Exception):
            raise self._status
        return self._status


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (Status(), 200, ""),
        ({"healthy": True}, 200, ""),
        (Status(is_connected=False), 503, "user-events: isConnected is false\n"),
        ({"status": "unhealthy", "error": "no disk"}, 503, "user-events: no disk\n"),
        (OSError(f"redis://u:{SECRET}@db"), 503, "user-events: redis://u:***@db\n"),
        (AccessDenied(), 503, "user-events: The broker refused the credentials or the command.\n"),
    ],
)
async def test_anything_with_a_status_is_asked_and_believed(status: Any, code: int, reason: str) -> None:
    async with asking(app_of(Events(status), started=False)) as client:
        ready, health = await client.get("/ops/readyz"), await client.get("/ops/health")
    assert (code, code) == (ready.status_code, health.status_code)
    assert (reason or "ok\n") == ready.text
    assert reason.strip() == health.json().get("error", "")
    assert SECRET not in health.text


async def test_what_does_not_answer_in_time_is_unhealthy_and_holds_nobody_up() -> None:
    class Stuck(Events):
        async def status(self) -> Any:
            await asyncio.Event().wait()

    async with asking(app_of(Stuck(None), started=False, patience=0.05)) as client:
        answer = await client.get("/ops/readyz")
    assert (503, "user-events: no answer within 0.05 s\n") == (answer.status_code, answer.text)


async def test_a_broker_alone_is_asked_whether_it_is_there() -> None:
    class Away(MemoryBroker):
        async def sources(self) -> Any:
            raise ConnectionFailed("away")

    for broker, code, word in ((MemoryBroker(), 200, "connected"), (Away(), 503, "disconnected")):
        async with asking(app_of(broker)) as client:
            health = await client.get("/ops/health")
            assert (code, word) == (health.status_code, health.json()["broker"])
            assert code == (await client.get("/ops/readyz")).status_code


async def test_what_cannot_be_asked_is_refused_when_the_router_is_made() -> None:
    with pytest.raises(ConfigurationError, match=r"expected a Worker, a Broker or something with health\(\) or status"):
        health_router(5)
    with pytest.raises(ConfigurationError, match=r"expected a publisher with memory_stats\(\), got 5"):
        health_router(publisher=5)


async def test_metrics_are_text_or_json_as_the_client_likes_it() -> None:
    hub, broker = Telemetry(), open_broker("memory://")

    async def handle(job: dict[str, int]) -> None:
        if job["n"] == 3:
            raise ValueError("never")

    worker = a_worker(handler=handle, broker=broker, telemetry=hub)
    router = health_router(worker, hub=hub)
    app = Starlette(routes=[Mount("/ops", router)], lifespan=lifespan(worker))
    producer = Producer(broker, "s", dict, telemetry=hub)
    async with asking(app) as client:
        nothing_yet = (await client.get("/ops/metrics", headers={"accept": "application/json"})).json()
        await producer.send_many({"n": n} for n in range(4))
        await until(lambda: worker.consumers[0].counters.processed == 4)
        counts = (await client.get("/ops/metrics", headers={"accept": "application/json"})).json()
        text = await client.get("/ops/metrics")
    assert (None, None) == (nothing_yet["publishSuccessRate"], nothing_yet["processingSuccessRate"])
    assert {
        "publishedEvents": 4,
        "failedEvents": 0,
        "processedEvents": 3,
        "failedProcessing": 1,
        "publishSuccessRate": 1.0,
        "processingSuccessRate": 0.75,
    } == counts
    assert "text/plain" in text.headers["content-type"]
    assert 'penstock_processed_total{group="default",outcome="ack",stream="s",type="msg"} 3.0' in text.text
    assert 'penstock_dlq_depth{stream="s"} 1.0' in text.text
    assert "penstock_ready 1.0" in text.text


async def test_a_publish_that_fails_is_counted() -> None:
    hub, broker = Telemetry(), MemoryBroker()
    router = health_router(broker, hub=hub)

    async def fail(*_: Any) -> Any:
        raise ConnectionFailed("away")

    broker.publish = fail  # type: ignore[method-assign]
    with pytest.raises(ConnectionFailed):
        await Producer(broker, "s", dict, telemetry=hub).send_many([{}, {}, {}])
    async with asking(Starlette(routes=[Mount("/ops", router)])) as client:
        counts = (await client.get("/ops/metrics", headers={"accept": "application/json"})).json()
        text = (await client.get("/ops/metrics")).text
    assert (0, 3, 0.0) == (counts["publishedEvents"], counts["failedEvents"], counts["publishSuccessRate"])
    assert 'penstock_produce_failed_total{stream="s",type="msg"} 3.0' in text


async def test_several_workers_are_one_in_the_metrics() -> None:
    workers = a_worker("one"), a_worker("two")
    async with asking(app_of(*workers)) as client:
        both = (await client.get("/ops/metrics")).text
        await workers[0].stop()
        one = (await client.get("/ops/metrics")).text
    assert "penstock_ready 1.0" in both
    assert "penstock_ready 0.0" in one


async def test_ones_own_metrics_are_served_with_whatever_else_is_in_their_registry() -> None:
    registry = CollectorRegistry()
    Counter("requests", "Requests", registry=registry).inc()
    metrics = PrometheusMetrics(Telemetry(), registry)
    async with asking(app_of(a_worker(), metrics=metrics)) as client:
        assert "requests_total 1.0" in (await client.get("/ops/metrics")).text


async def test_nothing_is_counted_when_metrics_are_left_out_and_nothing_is_left_behind_otherwise() -> None:
    hub = Telemetry()
    health_router(a_worker(), hub=hub, metrics=False)
    assert not hub
    router = health_router(a_worker(), hub=hub)
    assert hub
    del router
    gc.collect()
    assert not hub


async def test_without_prometheus_the_metrics_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "penstock.contrib.prometheus", raising=False)
    monkeypatch.delattr("penstock.contrib.prometheus", raising=False)
    async with asking(app_of(a_worker())) as client:
        answer = await client.get("/ops/metrics")
    assert ("application/json", 0) == (answer.headers["content-type"], answer.json()["publishedEvents"])


async def test_the_applications_own_lifespan_surrounds_the_worker_and_its_state_is_kept() -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, int]]:
        notes.append(f"own begins, worker ready: {worker.ready}")
        yield {"answer": 42}
        notes.append(f"own ends, worker running: {bool(worker.consumers[0].running)}")

    worker = a_worker()
    app = Starlette(lifespan=lifespan(worker, within=own))
    async with app.router.lifespan_context(app) as state:
        assert ({"answer": 42}, True) == (state, worker.ready)
    assert ["own begins, worker ready: False", "own ends, worker running: False"] == notes


async def test_parts_are_started_from_the_last_to_the_first_and_closed_from_the_first_to_the_last() -> None:
    notes: list[str] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        async def start(self) -> None:
            notes.append(f"start {self.name}")

        async def close(self) -> None:
            notes.append(f"close {self.name}")

    app = Starlette(lifespan=lifespan(Part("consumer"), Part("publisher")))
    async with app.router.lifespan_context(app):
        notes.append("serve")
    assert ["start publisher", "start consumer", "serve", "close consumer", "close publisher"] == notes


async def test_an_app_with_its_embedded_worker_is_a_part_like_any_other() -> None:
    app = App("memory://", auto_start_worker=True, worker_options=WorkerOptions(queues=["default"]))
    web = Starlette(lifespan=lifespan(app))
    async with web.router.lifespan_context(web):
        with pytest.raises(ConfigurationError, match="already"):  # it has begun to work
            await app.start_worker()
    assert await app.stop_worker()


async def test_a_part_that_cannot_start_keeps_the_application_from_serving_and_the_others_are_closed() -> None:
    broker = Failing()
    broker.error = ConnectionFailed("away")
    good = a_worker()
    app = Starlette(lifespan=lifespan(a_worker(broker=broker), good))
    with pytest.raises(ConnectionFailed, match="away"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it must not serve")
    assert not good.consumers[0].running


async def test_an_application_may_be_started_again() -> None:
    worker = a_worker()
    app = app_of(worker)
    for _ in range(2):
        async with asking(app) as client:
            assert 200 == (await client.get("/ops/readyz")).status_code


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    monkeypatch.delitem(sys.modules, starlette.__name__)
    with pytest.raises(ConfigurationError, match=r"pip install 'penstock\[starlette\]'"):
        importlib.import_module(starlette.__name__)
