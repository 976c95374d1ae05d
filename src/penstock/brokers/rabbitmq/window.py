"""A consumer on the server that takes a bounded number of messages, and is cancelled when it cannot be given more.

A cancellation takes effect at the queue's leader, a moment after the channel has forgotten the consumer. What the leader
assigns in that moment the channel sends back unseen, and each such return counts as a handing-over. A consumer whose
window is full (as many arrived as it may have, none of them settled) is assigned nothing: cancelled then, it costs none.
What is settled on the same channel afterwards comes to the leader behind the cancellation.
"""

from __future__ import annotations


class Window:
    """``size``: messages that may be unsettled at once; ``held``: those that have arrived and are not settled yet."""

    __slots__ = ("held", "size", "tag")

    def __init__(self, tag: str, size: int) -> None:
        self.tag, self.size, self.held = tag, size, 0

    @property
    def full(self) -> bool:
        return self.held >= self.size
