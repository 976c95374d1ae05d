"""The delivery contract, checked. Every driver passes this suite; a third-party driver imports it and does too.

Subclass ``BrokerConformance`` in a test module and give it ``make_broker`` and, where the system keeps its own time,
``lapse``::

    class TestMyBroker(BrokerConformance):
        async def make_broker(self) -> Broker[Any]:
            return MyBroker(self.url)  # every call: one more owner on the same system

What a broker cannot do is skipped by its declared ``Capabilities`` and by the optional protocols that it implements,
never by name. ``StoreConformance`` does the same for stores. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

from .bindings import BindingTests
from .fetching import FetchingTests
from .groups import GroupTests
from .inspection import InspectionTests
from .interruptions import InterruptionTests
from .keyed import KeyedTests
from .leases import LeaseTests
from .lifecycle import LifecycleTests
from .pauses import PauseTests
from .publishing import PublishingTests
from .settling import SettlingTests
from .stores import StoreConformance
from .turns import TurnTests


class BrokerConformance(
    PublishingTests,
    FetchingTests,
    SettlingTests,
    InterruptionTests,
    LeaseTests,
    GroupTests,
    KeyedTests,
    TurnTests,
    InspectionTests,
    PauseTests,
    BindingTests,
    LifecycleTests,
):
    """All of it."""


__all__ = ["BrokerConformance", "StoreConformance"]
