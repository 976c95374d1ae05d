"""penstock beside its peers, on the same Redis in one run: ``python -m benchmarks.peers`` (``make bench-peers``).

Each peer has a virtualenv of its own below ``build/peers``, made by pip when it is first needed. Nothing of this runs
in CI, where times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.catalog import BARE, Peer, choose
from benchmarks.peers.environments import CACHE, ROOT, NotInstalledError, interpreter, versions
from benchmarks.peers.figures import FIRST, Amount, Sample, amount
from benchmarks.peers.measuring import FailedError, Pace, measure
from benchmarks.peers.report import Report, page, table
from tests.servers.redis_server import OwnServer, find_binary

PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"
FULL = Pace(seconds=1.5, latencies=200, latency_seconds=2.0)
QUICK = Pace(seconds=0.5, latencies=50, latency_seconds=0.7)
CALIBRATION = Pace(seconds=0.5, latencies=2, latency_seconds=0.1)
AOF = ("--appendonly", "yes", "--appendfsync", "everysec")

Measure = Callable[[Peer, Amount, Pace], Sample]
Say = Callable[[str], None]


def main() -> int:
    """Measure, print, keep the numbers; exit code 1 if nothing at all could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these, and the bare loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--aof", action="store_true", help="the server appends to a file, fsync every second")
    parser.add_argument("--json", type=Path, default=CACHE / "results.json", help="where the numbers go")
    parser.add_argument("--page", action="store_true", help="write docs/explanation/benchmarks.md")
    parser.add_argument("--again", action="store_true", help="measure nothing: print what the file of --json has")
    options = parser.parse_args()
    if options.again:
        report = Report.from_json(options.json.read_text(encoding="utf-8"))
    else:
        try:
            peers = choose(options.peers)
        except ValueError as unknown:
            parser.error(str(unknown))
        rounds, pace = (1, QUICK) if options.quick else (options.rounds, FULL)
        try:
            report = run(peers, rounds, pace, aof=options.aof)
        except FailedError as failed:
            parser.exit(1, f"{failed}\n")
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(report.to_json(), encoding="utf-8")
    print(table(report), flush=True)
    if options.page:
        PAGE.write_text(page(report), encoding="utf-8")
    return int(not report.samples)


def run(peers: list[Peer], rounds: int, pace: Pace, *, aof: bool) -> Report:
    """All of it, on a server that is started here."""
    say: Say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731 -- handed on
    ready, failures = _install(peers, say)
    server = OwnServer(find_binary("redis"), options=AOF if aof else ())
    server.start()
    try:

        def on_an_empty_server(peer: Peer, jobs: Amount, how: Pace) -> Sample:
            server.call("FLUSHALL")
            return measure(peer, server.url, jobs, how)

        samples = interleave(ready, rounds, pace, on_an_empty_server, failures, say)
        found = server.call("INFO", "server")
    finally:
        server.stop()
    return Report(
        samples=samples,
        failures=failures,
        versions={peer.name: versions(peer) for peer in ready},
        server={
            "server": f"Redis {found['redis_version']}",
            "durability": "append-only file, fsync every second" if aof else "no append-only file, no snapshots",
        },
        machine=_machine(),
        rounds=rounds,
    )


def interleave(
    peers: list[Peer], rounds: int, pace: Pace, measure_one: Measure, failures: dict[str, str], say: Say
) -> dict[str, list[Sample]]:
    """A first round that only tells how many jobs to take, then A B C, B C A, …; who fails is out, with the reason."""
    amounts = dict.fromkeys([peer.name for peer in peers], FIRST)
    samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    for number in range(rounds + 1):
        turn = number % max(1, len(peers))
        for peer in [*peers[turn:], *peers[:turn]]:
            if peer.name in failures:
                continue
            say(f"round {number} of {rounds}: {peer.title}" if number else f"how fast about is {peer.title}?")
            try:
                sample = measure_one(peer, amounts[peer.name], pace if number else CALIBRATION)
            except FailedError as failed:
                failures[peer.name] = f"in round {number}: {failed}"
                continue
            amounts[peer.name] = amount(sample, pace.seconds)
            if number:
                samples[peer.name].append(sample)
    if BARE in failures:
        raise FailedError(f"without the bare loop there is no measure: {failures[BARE]}")
    return {name: each for name, each in samples.items() if name not in failures}


def _install(peers: list[Peer], say: Say) -> tuple[list[Peer], dict[str, str]]:
    ready, failures = [], {}
    for peer in peers:
        say(f"installing {peer.title}" if peer.requires else f"{peer.title} is here")
        try:
            interpreter(peer)
        except NotInstalledError as missing:
            failures[peer.name] = str(missing)
        else:
            ready.append(peer)
    return ready, failures


def _machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    size = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory"
    return {"machine": size, "Python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
