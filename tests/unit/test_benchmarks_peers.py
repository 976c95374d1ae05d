"""The harness that measures penstock beside its peers: its arithmetic, its tables, and that no peer vanishes silently.

No peer is installed for this, and nothing is measured.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import environments
from benchmarks.peers.__main__ import FULL, interleave
from benchmarks.peers.adapters import run as runner
from benchmarks.peers.adapters.probe import Counter, Reader, create
from benchmarks.peers.catalog import BARE, PEERS, Peer, choose
from benchmarks.peers.environments import NotInstalledError
from benchmarks.peers.figures import FIRST, LIMITS, Amount, Sample, amount, figure, noise, of, percentile, ratio
from benchmarks.peers.measuring import FailedError, measure
from benchmarks.peers.report import Report, page, table


def sample(**given: Any) -> Sample:
    rates = {"single_per_s": 1000.0, "bulk_per_s": 5000.0, "drain_per_s": 2000.0}
    return Sample(**{**rates, "p50_ms": 0.5, "p99_ms": 2.0, "rss_mb": 40.0, "jobs": 900, **given})


def nobody(**given: Any) -> Peer:
    texts = {"distributions": (), "handler": "async", "bulk": "none", "settings": "none", "delivery": "none"}
    return Peer(**{"name": "nobody", "title": "Nobody", **texts, **given})


def peers(*names: str) -> list[Peer]:
    return [nobody(name=name, title=name.title()) for name in names]


# ----------------------------------------------------------------------------------------------------------- statistics


def test_a_figure_is_the_median_with_how_far_the_rounds_lie_apart():
    found = figure([100.0, 80.0, 120.0])

    assert (100.0, 80.0, 120.0) == (found.median, found.least, found.most)
    assert pytest.approx(0.4) == found.spread


def test_a_ratio_is_taken_within_each_round_so_that_a_slow_machine_cancels_out():
    ours = [sample(drain_per_s=500.0), sample(drain_per_s=50.0)]
    bare = [sample(drain_per_s=1000.0), sample(drain_per_s=100.0)]

    assert 0.5 == ratio(ours, bare, "drain_per_s").least == ratio(ours, bare, "drain_per_s").most
    assert of(ours, "drain_per_s").spread > 1


def test_rounds_that_do_not_pair_up_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        ratio([sample()], [sample(), sample()], "drain_per_s")


def test_the_noise_of_a_peer_is_that_of_its_noisiest_rate():
    assert pytest.approx(0.5) == noise(
        [sample(bulk_per_s=3000.0), sample(bulk_per_s=4000.0), sample(bulk_per_s=5000.0)]
    )


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles_are_by_nearest_rank(share: float, expected: int):
    assert expected == percentile(list(range(1, 101)), share)


def test_a_percentile_of_one_value_is_that_value():
    assert 7 == percentile([7], 0.5) == percentile([7], 0.99)


def test_a_fast_peer_gets_more_jobs_than_a_slow_one():
    slow = amount(sample(single_per_s=3000.0, drain_per_s=300.0), 1.5)
    fast = amount(sample(single_per_s=10_000.0, drain_per_s=100_000.0), 1.5)

    assert Amount(225, 225) == slow
    assert Amount(7500, 142_500) == fast


def test_the_number_of_jobs_has_limits():
    least, most = LIMITS
    fewest, largest = amount(sample(drain_per_s=1.0), 1.0), amount(sample(drain_per_s=1e9, single_per_s=1e9), 1.0)

    assert Amount(least, least) == fewest
    assert most == largest.singles + largest.bulk


# ------------------------------------------------------------------------------------------------------------- counting


def test_executed_jobs_are_counted_in_memory_that_another_process_can_read(tmp_path: Path):
    path = tmp_path / "counter"
    create(path)
    counter, reader = Counter(path), Reader(path)
    assert 0 == reader.read().count

    for _ in range(3):
        counter.ran()
    found = reader.read()

    assert 3 == found.count
    assert 0 < found.first < found.last
    assert pytest.approx(2 / ((found.last - found.first) / 1e9)) == found.per_second


class Recorded:
    """A peer that only writes down what it is asked."""

    BLOCKING = True

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def connect(self) -> None:
        self.calls.append("connect")

    async def disconnect(self) -> None:
        self.calls.append("disconnect")

    async def single(self, job: dict[str, Any]) -> None:
        self.calls.append("single")

    async def bulk(self, jobs: list[dict[str, Any]]) -> None:
        self.calls.append(f"bulk {len(jobs)}")


def test_a_producer_warms_up_sends_singly_then_in_bulk_and_says_how_many_it_sent():
    peer = Recorded()

    said = runner.execute(peer, runner.produce(peer, 20, 1500))

    assert ["connect", *["single"] * (runner.WARM + 20), "bulk 1000", "bulk 500", "disconnect"] == peer.calls
    assert runner.WARM + 1520 == said["sent"]
    assert said["single_per_s"] > 0
    assert said["bulk_per_s"] > 0


def test_the_payload_is_about_a_hundred_bytes():
    assert 90 <= len(str(runner.payload(100_000))) <= 125


# --------------------------------------------------------------------------------------------------- catalog, adapters


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_each_adapter_has_what_the_runner_calls(peer: Peer):
    tree = ast.parse((Path(runner.__file__).parent / f"{peer.adapter}.py").read_text(encoding="utf-8"))
    coroutines = {node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]

    assert {"connect", "single", "bulk", "disconnect"} <= coroutines
    assert "work" in functions
    assert "BLOCKING" in {target.id for target in targets if isinstance(target, ast.Name)}
    assert "handle" in coroutines | functions
    assert (peer.handler == "async") == ("handle" in coroutines), "the table must say what the handler is"


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.requires], ids=lambda peer: peer.name)
def test_each_peer_is_pinned_by_version_alone(peer: Peer):
    pins = peer.constraints.read_text(encoding="utf-8").splitlines()

    assert [] == [pin for pin in pins if "==" not in pin or "://" in pin or "@" in pin]
    assert set(map(str.lower, peer.distributions)) <= {pin.partition("==")[0].lower() for pin in pins}


def test_a_choice_always_has_the_bare_loop_and_names_what_it_does_not_know():
    assert [BARE, "rq", "saq"] == [peer.name for peer in choose(["saq", "rq"])]
    assert list(PEERS) == choose(None)
    with pytest.raises(ValueError, match="unknown: sidekiq; there are bare, penstock"):
        choose(["rq", "sidekiq"])


# ------------------------------------------------------------------------------------------------ rounds and failures


def test_rounds_are_interleaved_begin_with_another_peer_each_and_the_first_one_does_not_count():
    seen: list[str] = []
    amounts: list[Amount] = []

    def one(peer: Peer, jobs: Amount, _pace: Any) -> Sample:
        seen.append(peer.name)
        amounts.append(jobs)
        return sample()

    samples = interleave(peers(BARE, "a", "b"), 2, FULL, one, {}, lambda _: None)

    assert [BARE, "a", "b", "a", "b", BARE, "b", BARE, "a"] == seen
    assert {BARE: 2, "a": 2, "b": 2} == {name: len(each) for name, each in samples.items()}
    assert [FIRST] * 3 == amounts[:3]
    assert {amount(sample(), FULL.seconds)} == set(amounts[3:])


def test_a_peer_that_fails_is_out_with_its_reason_and_the_others_go_on():
    asked: list[str] = []
    failures: dict[str, str] = {}

    def one(peer: Peer, _jobs: Amount, _pace: Any) -> Sample:
        asked.append(peer.name)
        if peer.name == "a" and asked.count("a") == 2:
            raise FailedError("stuck: 3 of 9 jobs were executed")
        return sample()

    samples = interleave(peers(BARE, "a", "b"), 2, FULL, one, failures, lambda _: None)

    assert {"a": "in round 1: stuck: 3 of 9 jobs were executed"} == failures
    assert {BARE, "b"} == set(samples)
    assert 2 == asked.count("a")


def test_without_the_bare_loop_there_is_nothing_to_compare_with():
    def one(_peer: Peer, _jobs: Amount, _pace: Any) -> Sample:
        raise FailedError("no server")

    with pytest.raises(FailedError, match=r"no measure.*no server"):
        interleave(peers(BARE, "a"), 1, FULL, one, {}, lambda _: None)


def test_a_producer_that_cannot_start_is_a_failure_with_the_end_of_what_it_said():
    with pytest.raises(FailedError, match=r"produce failed: .*No module named 'with_nobody'"):
        measure(nobody(), "redis://127.0.0.1:1/0", FIRST, FULL)


def test_a_peer_that_pip_cannot_install_is_reported_with_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(command: list[str]) -> Any:
        raise subprocess.CalledProcessError(1, command, stderr="Collecting rq\nERROR: No matching distribution\n")

    monkeypatch.setattr(environments, "CACHE", tmp_path)
    monkeypatch.setattr(environments, "_run", refuses)

    with pytest.raises(NotInstalledError, match="not installed: ERROR: No matching distribution"):
        environments.interpreter(choose(["rq"])[1])


# --------------------------------------------------------------------------------------------------------------- tables


def report(**given: Any) -> Report:
    samples = {
        BARE: [sample(drain_per_s=10_000.0), sample(drain_per_s=10_100.0)],
        "penstock": [sample(drain_per_s=9_000.0), sample(drain_per_s=9_100.0)],
        "rq": [sample(drain_per_s=300.0), sample(drain_per_s=600.0)],
    }
    facts = {"machine": {"machine": "2 cores, 4 GiB of memory"}, "server": {"durability": "none"}, "rounds": 2}
    return Report(**{"samples": samples, **facts, **given})


def test_a_table_has_a_line_for_each_peer_and_for_each_failure_and_says_the_durability():
    lines = table(report(failures={"huey": "not installed: no such thing"})).splitlines()

    starts = ("bare", "penstock", "RQ")
    assert [*starts] == [next(start for start in starts if line.startswith(start)) for line in lines[1:4]]
    assert "Huey: left out, not installed: no such thing" in lines
    assert "durability: none" in lines
    assert "Spread above 30%: RQ. Repeat it, on a quiet machine." in lines


def test_a_page_has_results_settings_promises_failures_and_the_noise():
    text = page(report(failures={"huey": "not installed: no such thing"}, versions={"rq": {"rq": "2.0"}}))

    assert "| RQ | 1,000 (1.00) | 5,000 (1.00) | 450 (0.04) |" in text
    assert "| Huey | left out: not installed: no such thing |" in text
    assert "at most once: a job is popped before it runs" in text
    assert "| RQ | rq 2.0 |" in text
    assert "**Large spread**: the rates of RQ differ" in text
    assert "penstock does 22.6 times (15.2 … 30.0) what the fastest other peer, RQ, does." in text


def test_every_table_of_the_page_has_rows_as_wide_as_its_head():
    text = page(report(failures={"huey": "not installed"}))
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]

    assert tables
    for block in tables:
        assert {block[0].count("|")} == {line.count("|") for line in block}


def test_a_report_survives_its_file():
    one = report(failures={"huey": "gone"}, versions={"rq": {"rq": "2.0"}})

    assert one == Report.from_json(one.to_json())
