"""Metrics of several processes as those of one: nothing is counted twice, nothing goes back."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

from penstock import Consumer, Telemetry, Worker, open_broker
from penstock.contrib.fleet_metrics import Family, FleetMetrics, Sample
from penstock.contrib.prometheus import collecting, fleet_exporter, serving


def done(value: float, outcome: str = "ack") -> Family:
    sample = Sample("penstock_processed_total", {"outcome": outcome}, value)
    return Family("penstock_processed", "counter", "Done", [sample])


def gauge(name: str, value: float | None) -> Family:
    return Family(name, "gauge", "Now", [] if value is None else [Sample(name, {"stream": "s"}, value)])


def values(fleet: FleetMetrics) -> dict[tuple[str, str], float]:
    return {
        (sample.name, next(iter(sample.labels.values()))): sample.value
        for family in fleet.families()
        for sample in family.samples
    }


def test_counters_are_added_up_and_stay_when_a_process_ends() -> None:
    fleet = FleetMetrics()
    fleet.report(1, [done(10)], sampled=False)
    fleet.report(2, [done(5)], sampled=False)
    fleet.report(2, [done(7)], sampled=False)
    assert {("penstock_processed_total", "ack"): 17.0} == values(fleet)

    fleet.ended(1)
    assert {("penstock_processed_total", "ack"): 17.0} == values(fleet)
    fleet.report(3, [done(1), done(2, "retry")], sampled=False)
    fleet.ended(3)
    fleet.ended(2)
    assert {("penstock_processed_total", "ack"): 18.0, ("penstock_processed_total", "retry"): 2.0} == values(fleet)


def test_gauges_of_a_process_are_added_up_and_go_with_it() -> None:
    fleet = FleetMetrics()
    fleet.report(1, [gauge("penstock_in_flight", 3)], sampled=True)
    fleet.report(2, [gauge("penstock_in_flight", 4)], sampled=False)
    assert {("penstock_in_flight", "s"): 7.0} == values(fleet)
    fleet.ended(1)
    assert {("penstock_in_flight", "s"): 4.0} == values(fleet)


def test_gauges_of_the_broker_are_never_added_up_and_are_those_of_whoever_samples() -> None:
    fleet = FleetMetrics()
    fleet.report(1, [gauge("penstock_stream_size", 100)], sampled=True)
    fleet.report(2, [gauge("penstock_stream_size", 90)], sampled=False)
    assert {("penstock_stream_size", "s"): 100.0} == values(fleet)
    fleet.ended(1)
    assert {("penstock_stream_size", "s"): 100.0} == values(fleet)
    fleet.report(2, [gauge("penstock_stream_size", None)], sampled=True)  # appointed, has not looked yet
    assert {("penstock_stream_size", "s"): 100.0} == values(fleet)
    fleet.report(2, [gauge("penstock_stream_size", 80)], sampled=True)
    assert {("penstock_stream_size", "s"): 80.0} == values(fleet)


def test_what_cannot_be_added_up_is_the_greatest() -> None:
    fleet = FleetMetrics()
    for process, start in enumerate((1000.0, 3000.0, 2000.0)):
        fleet.report(process, [gauge("process_start_time_seconds", start)], sampled=False)
    assert {("process_start_time_seconds", "s"): 3000.0} == values(fleet)


def answer(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_a_worker_and_a_fleet_of_one_serve_the_same_metrics() -> None:
    async def handle(job: dict[str, int]) -> None:
        pass

    worker = Worker(Consumer(open_broker("memory://"), "email", dict, handle, group="g"))
    fleet = FleetMetrics()
    with collecting(worker, hub=Telemetry()) as metrics:
        fleet.report(1, metrics.families(), sampled=True)
        with (
            serving(metrics.registry, lambda: True, 0) as one,
            fleet_exporter(fleet.families, lambda: True, 0) as many,
        ):
            texts = [await asyncio.to_thread(answer, f"http://127.0.0.1:{port}/metrics") for port in (one, many)]

    names = [sorted(line.split()[0] for line in text.splitlines() if "penstock" in line) for _, text in texts]
    assert names[0] == names[1]
    assert [200, 200] == [status for status, _ in texts]
    assert 'penstock_in_flight{group="g",stream="email"} 0.0' in texts[1][1]


async def test_health_is_served_beside_the_metrics() -> None:
    ready = False
    with fleet_exporter(lambda: [done(1)], lambda: ready, 0) as port:
        at = f"http://127.0.0.1:{port}"
        assert (200, "ok\n") == await asyncio.to_thread(answer, f"{at}/livez")
        assert (503, "not ready\n") == await asyncio.to_thread(answer, f"{at}/readyz")
        ready = True
        assert (200, "ok\n") == await asyncio.to_thread(answer, f"{at}/readyz")
        assert "penstock_processed_total" in (await asyncio.to_thread(answer, f"{at}/metrics"))[1]
