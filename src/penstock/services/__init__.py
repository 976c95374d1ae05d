"""Background roles: one file each, named for the role.

A role has a ``run_once`` that does a bounded piece of work and says after how many seconds it wants to be called again,
so that the loop around it is trivial and the work can be tested without it.
"""

from __future__ import annotations

import random
from typing import Protocol

from ..clock import Clock
from ..outage import LONGEST_PAUSE, OutageLog, Outages
from ..telemetry import Telemetry


class Service(Protocol):
    """A background role."""

    @property
    def name(self) -> str:
        """The role, for logs."""
        ...

    @property
    def stream(self) -> str:
        """What it works on, for logs."""
        ...

    async def run_once(self) -> float:
        """Do what is to be done now; the seconds until the next time (0: there is more)."""
        ...


async def run_forever(
    service: Service,
    clock: Clock,
    dice: random.Random,
    telemetry: Telemetry,
    *,
    jitter: float = 0.2,
    longest: float = LONGEST_PAUSE,
    outages: Outages | None = None,
) -> None:
    """Call ``run_once`` until cancelled, through every outage.

    ``jitter``: share of the pause that varies; ``longest``: seconds between two tries during an outage, at most;
    ``outages``: what the other roles on this broker know.
    """
    outage = OutageLog(service.name, service.stream, clock, dice, telemetry, longest, outages)
    while True:
        try:
            pause = await service.run_once()
        except Exception as error:  # noqa: BLE001 whatever is wrong, the role goes on
            pause = outage.failed(error)
        else:
            outage.recovered()
            pause *= 1.0 + jitter * dice.uniform(-1.0, 1.0)
        await clock.sleep(pause)
