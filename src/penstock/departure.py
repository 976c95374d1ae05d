"""What a broker does when an owner stops reading one of its subscriptions and goes on with the others."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .broker import Subscription


@runtime_checkable
class SupportsDeparture(Protocol):
    """Keeps something for each subscription that an owner reads: a connection, a place in its group."""

    async def depart(self, subscription: Subscription) -> None:
        """Read this subscription no more: hand back what is held of it, leave the group, drop its connection.

        The group itself and its messages stay. Idempotent; ``fetch`` joins again. Raises ``ConnectionFailed``: then what
        was held lapses with its lease.
        """
        ...
