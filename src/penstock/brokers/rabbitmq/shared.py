"""What the working parts of one owner have in common: connections, queues, what is held, the way to publish."""

from __future__ import annotations

from ...clock import Clock
from .holdings import Holdings
from .link import Line
from .options import RabbitmqAddress, RabbitmqOptions
from .publishing import Publisher
from .topology import Topology


class Shared:
    """One owner on one server. ``taking`` fetches, acks and declares; ``publishing`` publishes."""

    def __init__(self, address: RabbitmqAddress, options: RabbitmqOptions, identity: str, clock: Clock) -> None:
        self.address, self.options, self.identity, self.clock = address, options, identity, clock
        self.taking = Line(address, options, f"{identity} taking")
        self.publishing = Line(address, options, f"{identity} publishing")
        self.topology = Topology(self.taking, options)
        self.holdings = Holdings(clock)
        self.publisher = Publisher(self.publishing, self.topology, options, clock)
