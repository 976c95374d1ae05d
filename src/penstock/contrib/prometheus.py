"""Prometheus metrics of producers and workers in this process, and of a supervisor's processes as if they were one.

============================================  =========  =======================================================
metric                                        kind       labels
============================================  =========  =======================================================
``penstock_produced_total``                   counter    stream, type
``penstock_produce_failed_total``             counter    stream, type
``penstock_processed_total``                  counter    stream, group, type, outcome (ack, retry, dead, release, discard)
``penstock_retry_scheduled_total``            counter    stream, group, type
``penstock_dlq_total``                        counter    stream, group, type, reason
``penstock_claimed_total``                    counter    stream, group
``penstock_lost_payload_total``               counter    stream, group
``penstock_promoted_total``                   counter    stream
``penstock_lease_lost_total``                 counter    stream, group, type
``penstock_outages_total``                    counter    role, stream
``penstock_handler_duration_seconds``         histogram  stream, group, type
``penstock_queue_seconds``                    histogram  stream, group, type
``penstock_in_flight``                        gauge      stream, group
``penstock_ready``                            gauge      (none)
``penstock_stream_size``                      gauge      stream
``penstock_retry_queue_depth``                gauge      stream
``penstock_dlq_depth``                        gauge      stream
``penstock_pel_size``                         gauge      stream, group
``penstock_lag``                              gauge      stream, group
============================================  =========  =======================================================

The last five are read from the broker by ``sample``; leave that to one worker of a fleet if it is large.

Beside the metrics, at any other path, two answers for whoever watches the process: ``/livez`` says 200 while it is
there, ``/readyz`` says 200 while it is ready and 503 while it is not.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from .. import telemetry
from ..broker import SupportsInspect
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import BrokerError, MissingExtra
from ..telemetry import TELEMETRY, Event, Telemetry
from .fleet_metrics import Family, Sample

try:
    from prometheus_client import (
        REGISTRY,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        ProcessCollector,
        exposition,
    )
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtra("prometheus-client", "prometheus") from error

if TYPE_CHECKING:
    from ..worker import Worker

logger = logging.getLogger("penstock")

BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)  # seconds, up to an hour
OF_MESSAGE = ("stream", "group", "type")


class PrometheusMetrics:
    """Listens to a telemetry hub and keeps the metrics in ``registry``."""

    def __init__(self, hub: Telemetry = TELEMETRY, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"penstock_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"penstock_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"penstock_{name}", text, OF_MESSAGE, registry=registry, buckets=BUCKETS)

        self._produced = counter("produced_total", "Messages published", "stream", "type")
        self._unproduced = counter("produce_failed_total", "Messages that could not be published", "stream", "type")
        self._processed = counter("processed_total", "Deliveries that came to an outcome", *OF_MESSAGE, "outcome")
        self._retried = counter("retry_scheduled_total", "Retries scheduled", *OF_MESSAGE)
        self._dead = counter("dlq_total", "Messages dead-lettered", *OF_MESSAGE, "reason")
        self._claimed = counter("claimed_total", "Deliveries taken over from dead workers", "stream", "group")
        self._ghosts = counter("lost_payload_total", "Messages deleted while they were leased", "stream", "group")
        self._sent = {telemetry.Published: self._produced, telemetry.PublishFailed: self._unproduced}
        self._of_group = {telemetry.Reclaimed: self._claimed, telemetry.LostPayload: self._ghosts}
        self._promoted = counter("promoted_total", "Delayed messages that became due", "stream")
        self._lost = counter("lease_lost_total", "Leases lost to another worker", *OF_MESSAGE)
        self._outages = counter("outages_total", "Times a broker became unreachable", "role", "stream")
        self._duration = histogram("handler_duration_seconds", "Time from start to outcome")
        self._waited = histogram("queue_seconds", "Time from enqueueing to start")
        self._in_flight = gauge("in_flight", "Handlers running now", "stream", "group")
        self._ready = gauge("ready", "1 while every consumer gets answers from its broker")
        self._size = gauge("stream_size", "Messages waiting or leased", "stream")
        self._delayed = gauge("retry_queue_depth", "Messages delayed, retries included", "stream")
        self._dead_depth = gauge("dlq_depth", "Dead letters", "stream")
        self._pending = gauge("pel_size", "Messages leased", "stream", "group")
        self._lag = gauge("lag", "Messages not yet fetched", "stream", "group")
        self.registry = registry
        self._watched: list[Worker] = []
        self.unsubscribe = hub.subscribe(self.on_event)

    def on_event(self, event: Event) -> None:
        """Count one event."""
        match event:
            case telemetry.Started(stream, group, type_, waited):
                if waited is not None:
                    self._waited.labels(stream, group, type_).observe(waited)
            case telemetry.Finished():
                self._finished(event)
            case telemetry.Published(stream, type_, count) | telemetry.PublishFailed(stream, type_, count):
                self._sent[type(event)].labels(stream, type_).inc(count)
            case telemetry.LeaseLost(stream, group, type_, _):
                self._lost.labels(stream, group, type_).inc()
            case telemetry.Reclaimed(stream, group, count) | telemetry.LostPayload(stream, group, count):
                self._of_group[type(event)].labels(stream, group).inc(count)
            case telemetry.Promoted(stream, count):
                self._promoted.labels(stream).inc(count)
            case telemetry.Outage(role, stream, ended):
                if not ended:
                    self._outages.labels(role, stream).inc()

    def _finished(self, event: telemetry.Finished) -> None:
        labels = (event.stream, event.group, event.type)
        self._processed.labels(*labels, event.outcome).inc()
        self._duration.labels(*labels).observe(event.seconds)
        if event.outcome == "retry":
            self._retried.labels(*labels).inc()
        elif event.outcome == "dead":
            self._dead.labels(*labels, event.reason).inc()

    def watch(self, worker: Worker) -> None:
        """Let ``ready`` and ``in_flight`` tell of this worker and those watched before, at the moment they are scraped."""
        self._watched.append(worker)
        self._ready.set_function(lambda: all(each.ready for each in self._watched))
        for consumer in worker.consumers:
            named = (consumer.subscription.source, consumer.subscription.group)
            self._in_flight.labels(*named).set_function(partial(self._running, named))

    def _running(self, named: tuple[str, str]) -> int:
        """Handlers that run for one group of one stream, in all workers that are watched."""
        consumers = (consumer for worker in self._watched for consumer in worker.consumers)
        return sum(each.in_flight for each in consumers if named == (each.subscription.source, each.subscription.group))

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The answer to a scrape whose header ``Accept`` says this, and its content type."""
        encode, kind = exposition.choose_encoder(accept)
        return encode(self.registry), kind

    def families(self) -> list[Family]:
        """All metrics as plain values. When a series was created is left out: it cannot be added up."""
        return [
            Family(
                metric.name,
                metric.type,
                metric.documentation,
                [Sample(s.name, dict(s.labels), s.value) for s in metric.samples if not s.name.endswith("_created")],
            )
            for metric in self.registry.collect()
        ]

    async def sample(self, worker: Worker) -> None:
        """Read the gauges that are the broker's once."""
        for consumer in worker.consumers:
            subscription = consumer.subscription
            if not consumer.running or not isinstance(consumer.broker, SupportsInspect):
                continue  # to ask for a consumer that has stopped would open its broker again
            stats = await consumer.broker.stats(subscription.source)
            self._size.labels(stats.source).set(stats.size)
            self._delayed.labels(stats.source).set(stats.delayed)
            self._dead_depth.labels(stats.source).set(stats.dead)
            for group in stats.groups:
                self._pending.labels(stats.source, group.name).set(group.leased)
                if group.lag is not None:
                    self._lag.labels(stats.source, group.name).set(group.lag)

    async def sample_forever(self, worker: Worker, *, interval: float = 5.0, clock: Clock = SYSTEM_CLOCK) -> None:
        """Read the gauges every ``interval`` seconds until cancelled, beginning as soon as the worker has started."""
        while True:
            started = any(consumer.running for consumer in worker.consumers)
            try:
                await self.sample(worker)
            except BrokerError as error:
                logger.debug("metrics were not sampled: %s", error)
            await clock.sleep(interval if started else min(interval, 0.2))


def isolated(hub: Telemetry = TELEMETRY) -> PrometheusMetrics:
    """The metrics of this process, in a registry of their own."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return PrometheusMetrics(hub, registry)


@contextmanager
def collecting(worker: Worker, *, hub: Telemetry = TELEMETRY) -> Generator[PrometheusMetrics]:
    """Keep the metrics of ``worker`` and its process, in a registry of their own, while the block runs."""
    metrics = isolated(hub)
    metrics.watch(worker)
    try:
        yield metrics
    finally:
        metrics.unsubscribe()


@contextmanager
def exporter(
    worker: Worker, port: int, *, address: str = "127.0.0.1", hub: Telemetry = TELEMETRY
) -> Generator[PrometheusMetrics]:
    """Serve the metrics of ``worker`` at ``http://address:port/metrics`` while the block runs; inside a running loop."""
    with (
        collecting(worker, hub=hub) as metrics,
        serving(metrics.registry, lambda: worker.ready, port, address=address),
    ):
        sampling = asyncio.get_running_loop().create_task(metrics.sample_forever(worker))
        try:
            yield metrics
        finally:
            sampling.cancel()


@contextmanager
def serving(
    registry: CollectorRegistry, ready: Callable[[], bool], port: int, *, address: str = "127.0.0.1"
) -> Generator[int]:
    """Serve ``registry`` and health over HTTP from a thread while the block runs; yields the port."""
    server = make_server(address, port, _application(registry, ready), _server_class(address, port), _Silent)
    thread = Thread(target=server.serve_forever, name="penstock-metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def fleet_exporter(
    families: Callable[[], Iterable[Family]], ready: Callable[[], bool], port: int, *, address: str = "127.0.0.1"
) -> Generator[int]:
    """Serve what ``families`` says at each scrape, and health, while the block runs; yields the port."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    with serving(registry, ready, port, address=address) as bound:
        yield bound


class _Families(Collector):
    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are not known beforehand."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Everything, at this moment."""
        for family in self._families():
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _server_class(address: str, port: int) -> type[WSGIServer]:
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return type("_Server", (_Server,), {"address_family": found[0][0]})


def _application(registry: CollectorRegistry, ready: Callable[[], bool]) -> Callable[..., Iterable[bytes]]:
    metrics: Callable[..., Iterable[bytes]] = cast("Any", exposition).make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path not in {"/livez", "/readyz"}:
            return metrics(environ, start_response)
        good = path == "/livez" or ready()
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if good else b"not ready\n"]

    return answer
