"""The faults: what each does to a stage, and what is to be expected of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from penstock.testing import crash
from tests.faults.stage import GROUP, WORKERS, Stage
from tests.faults.topologies import ALWAYS, EVERYSEC, STREAM, Cluster, Replicated, Sentinels, SingleServer, Topology

NTH = {"before_settle": 5, "after_settle": 5, "mid_handler": 50, "after_effect": 50}


@dataclass(frozen=True, slots=True)
class Fault:
    """``red``: every worker's readiness turns red meanwhile. ``loses``: the server itself may lose what it had
    acknowledged. ``options``: of the server. ``on``: what it befalls.
    ``short``: belongs to the short run.
    """

    name: str
    strike: Callable[[Stage], Awaitable[None]]
    red: bool = False
    loses: bool = False
    options: tuple[str, ...] = ALWAYS
    on: Callable[[str, tuple[str, ...]], Topology] = SingleServer
    short: bool = True


def one(stage: Stage) -> SingleServer:
    assert isinstance(stage.topology, SingleServer)
    return stage.topology


# ---------------------------------------------------------------------------------------------------------- of a worker


async def crash_at(point: str, stage: Stage) -> None:
    """A worker dies at the named point, and is replaced."""
    (victim,) = stage.fleet.start(crash_at=f"{point}:{NTH.get(point, 1)}")
    await stage.until(lambda: not victim.alive)
    stage.fleet.killed.add(victim.pid)
    stage.ended()
    assert victim.exit_code == -signal.SIGKILL, victim.log
    await stage.fleet.start_ready()


async def crash_during_reclaim(stage: Stage) -> None:
    """All workers are killed. Two come to take over what they left and die of it, then others come."""
    fleet = stage.fleet
    for member in list(fleet.members):
        fleet.kill(member)
    victims = fleet.start(2, crash_at="during_reclaim")
    for victim in victims:
        await stage.until(lambda victim=victim: not victim.alive)
        fleet.killed.add(victim.pid)
        assert victim.exit_code == -signal.SIGKILL, victim.log
    fleet.start(WORKERS)
    stage.ended()


async def freeze(stage: Stage) -> None:
    """SIGSTOP for longer than the lease, then SIGCONT."""
    frozen = stage.fleet.ready[0]
    stage.frozen.add(frozen.pid)
    await stage.fleet.freeze(frozen)
    await asyncio.sleep(stage.sizes.outage)
    frozen.signal(signal.SIGCONT)


# ---------------------------------------------------------------------------------------------------------- of a server


async def restart(stage: Stage) -> None:
    """``kill -9`` of the server, and after a while it comes back with its file."""
    await one(stage).kill()
    await asyncio.sleep(stage.sizes.outage)
    stage.remember_acknowledged()  # what was on the way when it died has arrived
    stage.kept = await one(stage).restart(STREAM)


async def restart_without_the_last_second(stage: Stage) -> None:
    """The same, but what was written in the last second had not reached the disk."""
    size = one(stage).log_size()
    await asyncio.sleep(1.0)
    await one(stage).kill()
    one(stage).forget_behind(size)
    await asyncio.sleep(stage.sizes.outage)
    stage.remember_acknowledged()
    stage.kept = await one(stage).restart(STREAM)


async def flush_all(stage: Stage) -> None:
    stage.destroyed = one(stage).flush_all(STREAM)


async def flush_scripts(stage: Stage) -> None:
    one(stage).flush_scripts()


async def destroy_group(stage: Stage) -> None:
    one(stage).destroy_group(STREAM, GROUP)


async def lose_the_primary(stage: Stage) -> None:
    """``kill -9`` of a primary that never comes back; its replica takes over with what it had got."""
    topology = stage.topology
    assert isinstance(topology, Replicated)
    topology.kill_primary()
    await asyncio.sleep(0.3)  # what was on the way has arrived, and nobody has taken over yet
    stage.remember_acknowledged()
    stage.kept = stage.topology.kept(STREAM)
    await stage.until(lambda: topology.promoted)


# ------------------------------------------------------------------------------------------------------- of the network


async def cut(stage: Stage) -> None:
    one(stage).network.cut()


async def reset(stage: Stage) -> None:
    one(stage).network.reset()


async def half_close(stage: Stage) -> None:
    one(stage).network.half_close()


async def blackhole(stage: Stage) -> None:
    one(stage).network.blackhole()
    await asyncio.sleep(stage.sizes.blackhole)
    one(stage).network.heal()


async def slow(stage: Stage) -> None:
    """40 kB a second for each connection, and 50 ms for each piece."""
    one(stage).network.slow(40_000)
    one(stage).network.latency(0.05)
    await asyncio.sleep(stage.sizes.outage)
    one(stage).network.heal()


POINTS = [point for point in crash.POINTS if point != "during_reclaim"]
SHORT = {"after_settle", "after_effect", "during_publish"}  # tests/simulation/test_crashpoints.py has the others too
FAULTS = [
    *(Fault(f"worker killed at `{point}`", partial(crash_at, point), short=point in SHORT) for point in POINTS),
    Fault("workers killed at `during_reclaim`, after all others", crash_during_reclaim),
    Fault("worker stopped for longer than the lease", freeze),
    Fault("server killed, `appendfsync always`", restart, red=True),
    Fault("server killed, `appendfsync everysec`", restart, red=True, options=EVERYSEC, loses=True),
    Fault(
        "server killed, `appendfsync everysec`, the last second not on disk",
        restart_without_the_last_second,
        red=True,
        options=EVERYSEC,
        loses=True,
    ),
    Fault("`FLUSHALL`", flush_all, loses=True),
    Fault("`SCRIPT FLUSH`", flush_scripts),
    Fault("group destroyed", destroy_group),
    Fault("connections closed", cut),
    Fault("connections reset", reset),
    Fault("connections half-closed", half_close),
    Fault("network swallows everything", blackhole, red=True),
    Fault("network slowed", slow),
    Fault("primary killed, its replica takes over", lose_the_primary, red=True, loses=True, on=Sentinels),
    Fault("node killed, its replica takes over", lose_the_primary, red=True, loses=True, on=Cluster),
]
