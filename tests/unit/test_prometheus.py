"""The Prometheus exporter: what a worker did can be read over HTTP, and adds up."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

from prometheus_client import CollectorRegistry

from penstock import Consumer, Producer, RetryPolicy, Telemetry, Worker, open_broker
from penstock.contrib.prometheus import PrometheusMetrics, exporter
from penstock.retry import Constant


async def test_what_was_done_is_counted_and_adds_up() -> None:
    hub, registry = Telemetry(), CollectorRegistry()
    metrics = PrometheusMetrics(hub, registry)
    broker = open_broker("memory://")
    producer = Producer(broker, "email", dict, default_type="email.send", telemetry=hub)
    done = asyncio.Event()
    acked = 0

    async def handle(job: dict[str, int]) -> None:
        nonlocal acked
        if job["n"] == 0:
            raise ValueError("never")
        acked += 1
        if acked == 9:
            done.set()

    policy = RetryPolicy(max_attempts=2, backoff=Constant(delay=0.01))
    consumer = Consumer(broker, "email", dict, handle, group="g", retry=policy)
    await producer.send_many({"n": n} for n in range(10))
    async with Worker(consumer, telemetry=hub) as worker:
        metrics.watch(worker)
        await asyncio.wait_for(done.wait(), 5)
        while consumer.counters.dead == 0:
            await asyncio.sleep(0.01)
        await metrics.sample(worker)
        assert 1 == registry.get_sample_value("penstock_ready")
    assert 0 == registry.get_sample_value("penstock_ready")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"penstock_{name}", labels)

    of = {"stream": "email", "group": "g", "type": "email.send"}
    assert 10 == value("produced_total", stream="email", type="email.send")
    assert 9 == value("processed_total", **of, outcome="ack")
    assert 1 == value("processed_total", **of, outcome="retry")
    assert 1 == value("retry_scheduled_total", **of)
    assert 1 == value("dlq_total", **of, reason="maxAttempts(2)")
    assert 11 == value("handler_duration_seconds_count", **of)
    assert 11 == value("queue_seconds_count", **of)
    assert (0, 0, 1) == tuple(value(n, stream="email") for n in ("stream_size", "retry_queue_depth", "dlq_depth"))
    assert (0, 0) == tuple(value(n, stream="email", group="g") for n in ("pel_size", "lag"))


def fetched(url: str) -> str:
    text: str = urllib.request.urlopen(url, timeout=5).read().decode()
    return text


async def test_metrics_are_served_while_the_exporter_runs_and_again_later() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def handle(job: dict[str, int]) -> None:
        pass

    broker = open_broker("memory://")
    async with Worker(Consumer(broker, "email", dict, handle, group="g")) as worker:
        for _ in range(2):
            with exporter(worker, port, hub=Telemetry()):
                url = f"http://127.0.0.1:{port}/metrics"
                for _ in range(50):
                    text = await asyncio.to_thread(fetched, url)
                    if 'penstock_in_flight{group="g",stream="email"} 0.0' in text:
                        break
                    await asyncio.sleep(0.02)
                assert 'penstock_in_flight{group="g",stream="email"} 0.0' in text
