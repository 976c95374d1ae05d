"""A supervisor and its worker processes: deploys, crashes, stops and replacements lose nothing and run nothing twice."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.fleet import Fleet
from tests.end_to_end.jobs import Job
from tests.end_to_end.supervised import Supervised

MakeFleet = Callable[..., Fleet]
Supervise = Callable[..., Supervised]

METRICS = ("--metrics-port", "0")


@pytest.fixture
def supervise(tmp_path: Path, make_fleet: MakeFleet) -> Iterator[Supervise]:
    """Supervisors that end with the test."""
    made: list[Supervised] = []

    def make(url: str, *options: str, module: str = "supervised_jobs", **settings: Any) -> Supervised:
        made.append(Supervised(make_fleet(url, **settings), tmp_path, *options, module=module))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


async def finished(fleet: Fleet, count: int) -> None:
    await fleet.until(lambda: len({line.number for line in fleet.seen("end")}) == count)


async def test_all_processes_work_and_sigterm_drains_them(main_url: str, supervise: Supervise) -> None:
    supervised = supervise(main_url, "--processes", "3", concurrency=1)
    await supervised.until_ready(3)
    await supervised.fleet.send(*(Job(n, seconds=0.02) for n in range(1, 101)))
    await supervised.fleet.until(lambda: {line.pid for line in supervised.fleet.seen("end")} == set(supervised.started))
    supervised.signal(signal.SIGTERM)
    assert await supervised.exited(15.0) == 0, supervised.log
    assert supervised.children == []
    executions = supervised.fleet.executions()
    assert {number: starts for number, starts in executions.items() if len(starts) > 1} == {}
    assert set(executions) == {line.number for line in supervised.fleet.seen("end")}


async def test_a_killed_child_is_replaced_and_only_what_it_held_runs_again(main_url: str, supervise: Supervise) -> None:
    supervised = supervise(main_url, "--processes", "2", concurrency=2, lease=1.0)
    fleet = supervised.fleet
    await supervised.until_ready(2)
    await fleet.send(*(Job(n, seconds=0.02) for n in range(1, 201)))
    await fleet.until(lambda: len(fleet.seen("end")) >= 20)
    killed = supervised.children[0]
    fleet.killed.add(killed)
    os.kill(killed, signal.SIGKILL)
    await supervised.until(lambda: len(supervised.ready) == 2)
    await finished(fleet, 200)
    await fleet.until_empty()
    assert "was killed by SIGKILL" in supervised.log
    assert fleet.unexplained() == {}
    assert 3 == len(supervised.started)


async def test_sigterm_waits_for_running_jobs_and_a_second_one_does_not(sqlite_url: str, supervise: Supervise) -> None:
    supervised = supervise(sqlite_url, "--processes", "2", drain=60.0, lease=30.0)
    fleet = supervised.fleet
    await supervised.until_ready(2)
    await fleet.send(Job(1, "notice", 30.0))
    await fleet.until(lambda: bool(fleet.seen("start")))
    supervised.signal(signal.SIGTERM)
    await fleet.until(lambda: bool(fleet.seen("stopping")))
    assert supervised.exit_code is None
    supervised.signal(signal.SIGTERM)
    assert await supervised.exited(8.0) == 0, supervised.log
    assert fleet.seen("end") == []
    again = fleet.start()
    await fleet.until(lambda: bool(fleet.seen("start", pid=again[0].pid)))
    assert [0, 0] == [start.attempt for start in fleet.executions()[1]]


async def test_ctrl_c_in_the_terminal_reaches_the_children_once_through_the_supervisor(
    sqlite_url: str, supervise: Supervise
) -> None:
    supervised = supervise(sqlite_url, "--processes", "2")
    fleet = supervised.fleet
    await supervised.until_ready(2)
    await fleet.send(Job(1, "notice", 1.0))
    await fleet.until(lambda: bool(fleet.seen("start")))
    supervised.interrupt_group()
    assert await supervised.exited(15.0) == 0, supervised.log
    assert [1] == [line.number for line in fleet.seen("end")]
    assert 0 == supervised.count("second signal")


async def test_a_reload_replaces_every_child_while_somebody_consumes_all_the_time(
    main_url: str, supervise: Supervise
) -> None:
    supervised = supervise(main_url, "--processes", "2", *METRICS, concurrency=2, lease=5.0)
    fleet = supervised.fleet
    await supervised.until_ready(2)
    before = supervised.children
    least, sent = 2.0, 0
    supervised.signal(signal.SIGHUP)
    while not supervised.count("reload done"):
        await fleet.send(*(Job(n, seconds=0.01) for n in range(sent + 1, sent + 21)))
        sent += 20
        least = min(least, await supervised.value("penstock_children_ready") or 0.0)
        assert 200 == await supervised.status("/readyz")
    await finished(fleet, sent)
    await fleet.until_empty()
    executions = fleet.executions()
    assert set(supervised.children) & set(before) == set()
    assert 2 == len(supervised.children)
    assert least == 2.0
    assert {number: starts for number, starts in executions.items() if len(starts) > 1} == {}
    assert 2 == await supervised.value('penstock_child_restarts_total{reason="reload"}')


async def test_a_reload_into_a_broken_program_keeps_the_old_processes_at_work(
    sqlite_url: str, supervise: Supervise
) -> None:
    supervised = supervise(sqlite_url, "--processes", "2")
    fleet = supervised.fleet
    await supervised.until_ready(2)
    before = supervised.children
    working = (supervised.directory / "supervised_jobs.py").read_text()
    supervised.write("raise RuntimeError('half a deploy')")
    supervised.signal(signal.SIGHUP)
    await supervised.until(lambda: supervised.count("reload given up"))
    assert "half a deploy" in supervised.log
    assert before == supervised.children
    await fleet.send(Job(1))
    await finished(fleet, 1)

    supervised.write(working)
    supervised.signal(signal.SIGHUP)
    await supervised.until(lambda: supervised.count("reload done"))
    assert set(before) & set(supervised.children) == set()
    supervised.signal(signal.SIGTERM)
    assert await supervised.exited(15.0) == 0


async def test_a_reload_that_is_asked_for_while_another_one_is_failing_is_done(
    sqlite_url: str, supervise: Supervise, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    supervised = supervise(sqlite_url, "--processes", "2")
    await supervised.until_ready(2)
    before = supervised.children
    working = (supervised.directory / "supervised_jobs.py").read_text()
    mark = f"import pathlib, time\npathlib.Path({str(tmp_path / 'read')!r}).touch()\n"
    waiting = f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
    supervised.write(mark + waiting + "raise RuntimeError('half a deploy')")
    supervised.signal(signal.SIGHUP)
    await supervised.until((tmp_path / "read").exists)
    supervised.write(working)
    supervised.signal(signal.SIGHUP)
    await supervised.until(lambda: supervised.count("reload: replacing") == 2)
    gate.touch()
    await supervised.until(lambda: supervised.count("reload done"))
    assert "half a deploy" in supervised.log
    assert set(before) & set(supervised.children) == set()
    assert 2 == len(supervised.children)


async def test_sigterm_during_a_reload_does_not_hurry_what_drains_already(
    sqlite_url: str, supervise: Supervise
) -> None:
    supervised = supervise(sqlite_url, "--processes", "1", drain=20.0, lease=30.0)
    fleet = supervised.fleet
    await supervised.until_ready(1)
    await fleet.send(Job(1, "notice", 4.0))
    await fleet.until(lambda: bool(fleet.seen("start")))
    supervised.signal(signal.SIGHUP)
    await fleet.until(lambda: bool(fleet.seen("stopping")))
    supervised.signal(signal.SIGTERM)
    assert await supervised.exited(15.0) == 0, supervised.log
    assert [1] == [line.number for line in fleet.seen("end")]


@pytest.mark.parametrize(
    ("module", "code", "reason"),
    [
        ("no_such_module", 2, "no module named 'no_such_module'"),
        ("broken_jobs", 2, "RuntimeError: the secret is missing"),
        ("dying_jobs", 137, "was killed by SIGKILL before it was ready"),
        ("leaving_jobs", 1, "ended with code 0 before it was ready"),
    ],
)
async def test_a_program_that_cannot_start_ends_the_supervisor_with_the_reason(
    sqlite_url: str, supervise: Supervise, tmp_path: Path, module: str, code: int, reason: str
) -> None:
    (tmp_path / "broken_jobs.py").write_text("raise RuntimeError('the secret is missing')")
    (tmp_path / "dying_jobs.py").write_text("import os; os.kill(os.getpid(), 9)")
    (tmp_path / "leaving_jobs.py").write_text("raise SystemExit(0)")
    supervised = supervise(sqlite_url, "--processes", "2", module=module)
    assert await supervised.exited(20.0) == code, supervised.log
    assert reason in supervised.errors
    assert 1 == supervised.errors.count("penstock: ")
    assert 2 == len(supervised.started)
    assert supervised.children == []


async def test_children_of_a_killed_supervisor_drain_and_end(sqlite_url: str, supervise: Supervise) -> None:
    supervised = supervise(sqlite_url, "--processes", "2")
    fleet = supervised.fleet
    await supervised.until_ready(2)
    await fleet.send(Job(1, "notice", 0.5))
    await fleet.until(lambda: bool(fleet.seen("start")))
    supervised.kill()
    await supervised.until(lambda: supervised.children == [], 15.0)
    assert [1] == [line.number for line in fleet.seen("end")]
    assert "the supervisor is gone" in supervised.log
    assert 0 == (await fleet.until_empty()).size


async def test_children_that_were_starting_when_their_supervisor_was_killed_do_not_live_on(
    sqlite_url: str, supervise: Supervise, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    waiting = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
    (tmp_path / "waiting_jobs.py").write_text(waiting + "from supervised_jobs import worker\n")
    supervised = supervise(sqlite_url, "--processes", "2", module="waiting_jobs")
    await supervised.until(lambda: len(supervised.started) == 2)
    supervised.kill()
    gate.touch()
    await supervised.until(lambda: supervised.children == [], 15.0)
    assert 2 == supervised.count("the supervisor is gone")


async def test_a_child_is_recycled_after_its_jobs_and_no_metric_goes_back(main_url: str, supervise: Supervise) -> None:
    supervised = supervise(main_url, "--processes", "2", "--max-jobs", "50", *METRICS, concurrency=2)
    fleet = supervised.fleet
    await supervised.until_ready(2)
    first = supervised.children
    sent, most = 0, 0.0
    series = 'penstock_processed_total{group="default",outcome="ack",stream="jobs",type="job"}'
    while set(first) & set(supervised.children):
        await fleet.send(*(Job(n) for n in range(sent + 1, sent + 41)))
        sent += 40
        await finished(fleet, sent)
        counted = await supervised.value(series) or 0.0
        assert counted >= most
        most = counted
    await supervised.until_value(series, sent)
    await supervised.until_value('penstock_stream_size{stream="jobs"}', 0.0)
    assert "(jobs)" in supervised.log
    assert {number: starts for number, starts in fleet.executions().items() if len(starts) > 1} == {}


async def test_children_that_are_due_together_are_recycled_one_at_a_time(sqlite_url: str, supervise: Supervise) -> None:
    supervised = supervise(sqlite_url, "--processes", "3", "--max-jobs", "1", concurrency=1)
    await supervised.until_ready(3)
    first = supervised.children
    await supervised.fleet.send(*(Job(n, "sleep", 0.3) for n in range(1, 10)))
    await supervised.until(lambda: not set(first) & set(supervised.children))
    log = supervised.log
    replaced = re.findall(r"replacing process (\d+) \(jobs\)", log)
    assert set(map(str, first)) <= set(replaced)
    for before, after in itertools.pairwise(replaced):
        assert log.index(f"[{before}] penstock: worker stopped") < log.index(f"replacing process {after} ")


async def test_a_child_that_takes_too_much_memory_is_recycled_once_it_has_worked(
    sqlite_url: str, supervise: Supervise
) -> None:
    supervised = supervise(sqlite_url, "--processes", "1", "--max-memory", "1")
    await supervised.until_ready(1)
    (first,) = supervised.children
    await supervised.fleet.send(Job(1))
    await supervised.until(lambda: supervised.children and first not in supervised.children)
    assert f"replacing process {first} (memory)" in supervised.log
    assert 1 == len(supervised.fleet.executions()[1])


async def test_readiness_is_red_while_a_child_is_missing_and_green_again(sqlite_url: str, supervise: Supervise) -> None:
    supervised = supervise(sqlite_url, "--processes", "2", *METRICS)
    await supervised.until_ready(2)
    assert (200, 200) == (await supervised.status("/readyz"), await supervised.status("/livez"))
    os.kill(supervised.children[0], signal.SIGKILL)
    await supervised.until(lambda: supervised.count("was killed by SIGKILL"))
    assert (503, 200) == (await supervised.status("/readyz"), await supervised.status("/livez"))
    await supervised.until_value("penstock_ready", 1.0)
    assert 200 == await supervised.status("/readyz")
    assert 1 == await supervised.value('penstock_child_restarts_total{reason="crash"}')


async def test_readiness_is_red_while_the_broker_is_away_and_no_child_is_restarted_for_it(
    durable_server: Any, supervise: Supervise
) -> None:
    supervised = supervise(durable_server.url, "--processes", "2", *METRICS)
    await supervised.until_ready(2)
    durable_server.kill()
    await supervised.until_value("penstock_ready", 0.0)
    assert 503 == await supervised.status("/readyz")
    durable_server.start()
    await supervised.until_value("penstock_ready", 1.0)
    assert 2 == len(supervised.started)


async def test_a_broker_that_cannot_be_reached_at_the_start_is_waited_for(supervise: Supervise, tmp_path: Path) -> None:
    supervised = supervise("redis://127.0.0.1:1", "--processes", "1")
    await supervised.until(lambda: supervised.count("starting again in") >= 2)
    assert "ended with code 3: " in supervised.log
    supervised.signal(signal.SIGTERM)
    assert await supervised.exited(10.0) == 0


async def test_a_child_that_does_not_stop_is_killed_and_the_supervisor_says_so(
    sqlite_url: str, supervise: Supervise
) -> None:
    supervised = supervise(sqlite_url, "--processes", "2", drain=0.2)
    await supervised.until_ready(2)
    frozen = supervised.children[0]
    os.kill(frozen, signal.SIGSTOP)
    began = time.monotonic()
    supervised.signal(signal.SIGTERM)
    assert await supervised.exited(20.0) == 1
    assert time.monotonic() - began < 0.2 + 12.0
    assert f"process {frozen} did not stop within 10 s and is killed" in supervised.log
    assert supervised.children == []


async def test_a_quiet_fleet_takes_nothing_new_until_a_reload(sqlite_url: str, supervise: Supervise) -> None:
    supervised = supervise(sqlite_url, "--processes", "2", *METRICS)
    fleet = supervised.fleet
    await supervised.until_ready(2)
    supervised.signal(signal.SIGUSR1)
    await supervised.until_value("penstock_children_ready", 0.0)
    await fleet.send(Job(1))
    os.kill(supervised.children[0], signal.SIGKILL)
    await supervised.until(lambda: supervised.count("was killed by SIGKILL"))
    supervised.signal(signal.SIGTTIN)
    await supervised.until(lambda: supervised.count("child 1: no process"))  # nobody comes in its place
    supervised.signal(signal.SIGHUP)
    await finished(fleet, 1)
    await supervised.until_value("penstock_children_ready", 2.0)
    await supervised.until(lambda: len(supervised.children) == 2)


async def test_sigttin_tells_what_runs_and_disturbs_nobody(sqlite_url: str, supervise: Supervise) -> None:
    supervised = supervise(sqlite_url, "--processes", "1")
    fleet = supervised.fleet
    await supervised.until_ready(1)
    await fleet.send(Job(1, "notice", 1.0))
    await fleet.until(lambda: bool(fleet.seen("start")))
    supervised.signal(signal.SIGTTIN)
    await supervised.until(lambda: supervised.count("jobs/default runs job"))
    await supervised.until(lambda: "in _notice" in supervised.log)
    await finished(fleet, 1)
    assert "most recent call first" in supervised.errors


async def test_systemd_is_told_when_all_are_ready_when_it_reloads_and_when_it_stops(
    sqlite_url: str, supervise: Supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        loop = asyncio.get_running_loop()

        async def told() -> str:
            return (await asyncio.wait_for(loop.sock_recv(systemd, 1000), 30)).decode().partition("\n")[0]

        supervised = supervise(sqlite_url, "--processes", "2")
        assert "READY=1" == await told()
        assert 2 == len(supervised.ready)
        supervised.signal(signal.SIGHUP)
        assert ["RELOADING=1", "READY=1"] == [await told(), await told()]
        supervised.signal(signal.SIGTERM)
        assert "STOPPING=1" == await told()
        assert await supervised.exited(15.0) == 0
