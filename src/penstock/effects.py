"""Effects that happen exactly once: a handler's own writes and the acknowledgement of its message in one transaction.

Only where broker and effects share a database. The acknowledgement deletes the message under the handler's lease: if
that has passed to another worker it refuses, and with it goes the transaction. A crash before the commit leaves nothing
behind but the message; after it there is no message to run again. The engine then has nothing left to settle.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, runtime_checkable

from .broker import Outgoing
from .errors import LostLease
from .message import Delivery


@runtime_checkable
class SupportsTransaction(Protocol):
    """Lives in a SQL database, and can take part in the transactions of others there.

    ``connection`` is a ``Session``, ``Connection``, ``AsyncSession`` or ``AsyncConnection`` of SQLAlchemy's on the same
    database. Nothing is seen before its owner commits, and nothing is left when they roll back.
    """

    async def publish_in(self, connection: Any, messages: Sequence[Outgoing]) -> Sequence[str]:
        """``publish`` in that transaction. Raises ``ConfigurationError`` if it is one of another database."""
        ...

    async def ack_in(self, connection: Any, deliveries: Sequence[Delivery[Any]]) -> Sequence[Delivery[Any]]:
        """``settle`` with ``Ack`` in that transaction; return the deliveries whose lease was lost."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A new ``AsyncConnection`` in a transaction, which is committed when the block ends without an error.

        Raises ``UnsupportedFeature`` where there is no asynchronous client.
        """
        ...


class Effects:
    """Makes the unit of work of each delivery of one consumer. ``settling``: messages whose fate is on its way."""

    __slots__ = ("broker", "settling")

    def __init__(self, broker: SupportsTransaction, settling: set[str]) -> None:
        self.broker, self.settling = broker, settling

    def of(self, delivery: Delivery[Any]) -> Effect:
        """The one of a delivery."""
        return Effect(self, delivery)


class Effect:
    """What ``Context.ack_in`` and ``Context.transaction`` do.

    ``written``: acknowledged in a transaction that may be committed by now. ``committed``: it is known to be.
    """

    __slots__ = ("_delivery", "_effects", "committed", "written")

    def __init__(self, effects: Effects, delivery: Delivery[Any]) -> None:
        self._effects, self._delivery = effects, delivery
        self.written = self.committed = False

    async def ack_in(self, connection: Any) -> None:
        """Acknowledge in somebody's transaction. Raises ``LostLease``."""
        if await self._effects.broker.ack_in(connection, (self._delivery,)):
            raise LostLease
        self.written = True
        # From here on the lease keeper may find it gone, and that is as it should be
        self._effects.settling.add(self._delivery.message.id)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any]:
        """A transaction of the broker's own, with the acknowledgement as its last statement."""
        try:
            async with self._effects.broker.transaction() as connection:
                yield connection
                await self.ack_in(connection)
            self.committed = True
        finally:
            if not self.committed:
                self.undone()

    def undone(self) -> None:
        """The transaction was not committed, as far as anybody knows."""
        self.written = False
        self._effects.settling.discard(self._delivery.message.id)
