"""``penstock bench``: it measures what it says, in the shape that scripts read, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from penstock.broker import SupportsInspect
from penstock.cli.bench import bench, text_of
from penstock.cli.bench_bare import RedisBare, SqliteBare
from penstock.cli.bench_run import Rate, Report, Series, measure
from penstock.cli.bench_work import Job, Ours, job
from tests.servers.redis_server import Server

JOBS = 300


@pytest.fixture(autouse=True)
def the_collector_stays_as_it_was(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(bench, [*arguments, "--jobs", str(JOBS), "--rounds", "2", "--json"])
    assert 0 == result.exit_code, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def holds_every_ratio(report: dict[str, Any]) -> bool:
    return all(
        part["ratio_min"] <= part["ratio"] <= part["ratio_max"] and part["ratio"] > 0
        for part in (report["publish"], report["send_many"], report["consume"])
    )


def test_a_broker_without_a_bare_client_has_rates_but_no_ratio():
    report = run("--broker", "memory://")
    assert report["consume"]["per_s"] > 0
    assert report["consume"]["ratio"] is None
    assert report["bare"]["consume_per_s"] is None


def test_the_report_names_rates_latency_and_memory(tmp_path: Path):
    report = run("--broker", f"sqlite:///{tmp_path}/jobs.db")
    assert holds_every_ratio(report)
    assert 0 < report["latency"]["p50_ms"] <= report["latency"]["p99_ms"]
    assert JOBS == report["latency"]["samples"]
    assert min(report["memory"].values()) > 0
    assert min(report["publish"]["awaited_per_s"], report["publish"]["gathered_per_s"]) > 0
    assert min(report["bare"].values()) > 0


def test_no_file_of_the_benchmark_is_left_beside_the_database(tmp_path: Path):
    run("--broker", f"sqlite:///{tmp_path}/jobs.db?durability=full")
    assert [] == list(tmp_path.iterdir())


def test_no_stream_of_the_benchmark_is_left_on_the_server(redis_server: Server):
    redis_server.flush()
    report = run("--broker", redis_server.url)
    assert holds_every_ratio(report)
    assert [] == [key for key in redis_server.call("KEYS", "*") if b"bench" in key]


def test_a_sqlite_database_in_memory_is_refused_with_the_reason():
    result = CliRunner().invoke(bench, ["--broker", "sqlite://", "--jobs", "1"])
    assert "needs a SQLite file" in str(result.exception)


async def test_progress_tells_rounds_and_the_table_shows_every_figure():
    told: list[str] = []
    text = text_of(await measure("memory://", 50, 2, told.append))
    assert ["warming up", "round 1 of 2", "round 2 of 2", "latency on an idle worker"] == told
    for wanted in ("send_many", "consume", "p50", "p99", "MB"):
        assert wanted in text


async def test_what_was_published_is_consumed_once_and_to_the_last(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/jobs.db"
    ours = Ours(url, "s")
    await ours.open()
    try:
        await ours.awaited(3)
        await ours.gathered(20)
        await ours.batched(1500)
        count, seconds = await ours.consume()
        assert 1523 == count
        assert seconds > 0
        assert isinstance(ours.broker, SupportsInspect)
        assert 0 == (await ours.broker.stats("s")).size
        assert 5 == len(await ours.latencies(5))
    finally:
        await ours.close()


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_the_bare_client_consumes_to_the_last(kind: str, tmp_path: Path, redis_server: Server):
    bare = SqliteBare(tmp_path / "bare") if kind == "sqlite" else RedisBare(redis_server.url, "bare")
    await bare.open()
    try:
        await bare.awaited(3)
        await bare.batched(1500)
        count, _ = await bare.consume()
        assert 1503 == count
        if kind == "redis":
            assert 0 == redis_server.call("XLEN", "bare")
    finally:
        await bare.close()


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    series = Series()
    series.ours, series.bare = [100.0, 10.0, 90.0], [50.0, 10.0, 30.0]
    assert Rate(per_s=90, ratio=2.0, ratio_min=1.0, ratio_max=3.0) == series.rate()


def test_a_payload_has_about_a_hundred_bytes():
    assert 80 <= len(msgspec.json.encode(job(12345))) <= 120
    assert isinstance(job(1), Job)


def test_the_report_can_be_read_back(tmp_path: Path):
    report = run("--broker", f"sqlite:///{tmp_path}/jobs.db")
    assert JOBS == msgspec.convert(report, Report).jobs
