"""A simulated machine: runs one process that can be frozen, cut off from the network, or vanish.

Everything that a process does passes its clock or its broker, and both pass ``gate``: a frozen process stays there
until it is thawed, a dead one for ever. What it does between two gates takes no time, so that a freeze or a death
comes at most a step later than asked for, which is a history that could have been as well.
"""

from __future__ import annotations

import asyncio
import random

from ..virtual import VirtualClock


class Machine:
    """``name`` is its owner's name at the broker. ``trouble``: when it last had any, for the referee's judgement."""

    def __init__(self, name: str, dice: random.Random) -> None:
        self.name, self.dice = name, dice
        self.clock = MachineClock(self)
        self.partitioned = self.dead = self.over = False
        self.trouble = float("-inf")
        self._awake = asyncio.Event()
        self._awake.set()
        self._never = asyncio.Event()

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return not self._awake.is_set()

    @property
    def impaired(self) -> bool:
        """Whether it cannot be expected to keep its leases now."""
        return self.dead or self.frozen or self.partitioned

    def troubled(self) -> None:
        """Something happened now that excuses a lost lease or a repetition."""
        self.trouble = asyncio.get_running_loop().time()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.troubled()
        self._awake.clear()

    def thaw(self) -> None:
        """SIGCONT."""
        self.troubled()
        self._awake.set()

    def die(self) -> None:
        """``kill -9``: nothing that it does from now on has an effect."""
        self.troubled()
        self.dead = True

    def end(self) -> None:
        """The world ends: whoever waits at the gate, and whoever comes later, is cancelled."""
        self.over = True
        self._awake.set()
        self._never.set()

    async def gate(self) -> None:
        """Pass if it runs; wait while it is frozen, for ever if it is dead."""
        while not self.over and (self.dead or self.frozen):
            await (self._never if self.dead else self._awake).wait()
            if not self.dead:
                await asyncio.sleep(0.01 * self.dice.random())  # who runs first after a thaw is chance
        if self.over:
            raise asyncio.CancelledError


class MachineClock(VirtualClock):
    """The clock of a machine's process: its sleeps last as long as the process stands still."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(drift=machine.dice.uniform(-0.5, 0.5), dice=machine.dice)
        self._machine = machine

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await self._machine.gate()
