"""Jobs that are pushed when the database has committed, and not at all when it has not.

A job that is pushed within a transaction may run before the commit, and find nothing; or after a rollback, and find
nothing for ever. This client keeps each job until the transaction commits. It knows no database: it is told how to be
called after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from ..brokers.sidekiq.ruby_json import loads
from ..checks import instance
from ..errors import ConfigurationError
from ..job_route import install
from .client import Client
from .payload import new_jid, validated
from .strict_args import encoded

OnCommit: TypeAlias = Callable[[Callable[[], None]], bool | None]


class _Deferring:
    """What both sides share: which jobs wait for a commit, and as what."""

    def __init__(self, client: Client, on_commit: OnCommit) -> None:
        self._client, self._on_commit = client, on_commit

    def deferred(self, item: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Whether the job waits for a commit now, and the job, with its id and with arguments as they are now."""
        copy = validated(item)
        if not copy.get("jid"):
            copy["jid"] = new_jid()
        body = encoded(
            copy["args"],
            {**copy, "class": getattr(copy["class"], "wire_name", copy["class"])},
            self._client.strict_args,
        )
        copy["args"] = loads(body)

        def push() -> None:
            self._client.sync.push(copy)

        return self._on_commit(push) is not False, copy


class TransactionSyncClient:
    """``TransactionClient`` for code without a loop."""

    def __init__(self, client: Client, deferring: _Deferring) -> None:
        self._client, self._deferring = client, deferring

    def push(self, item: Mapping[str, Any]) -> str | None:
        waits, copy = self._deferring.deferred(item)
        return cast("str", copy["jid"]) if waits else self._client.sync.push(copy)

    def push_bulk(self, items: Mapping[str, Any]) -> list[str | None]:
        return self._client.sync.push_bulk(items)

    def perform_inline(self, item: Mapping[str, Any]) -> bool | None:
        return self._client.sync.perform_inline(item)


class TransactionClient:
    """Pushes with ``client`` once the open transaction has committed; at once if none is open.

    ``on_commit(push)``: have ``push`` called after the commit, once, and never if there is none; return ``False``, and
    do not call it, if no transaction is open. Django's ``transaction.on_commit``, which calls it at once then, is one.
    ``push`` waits for the broker; what it raises is the commit's caller's to see. ``push_bulk`` and ``perform_inline``
    do not wait for a commit. A middleware's veto is not known yet when ``push`` returns the id.
    """

    def __init__(self, client: Client, on_commit: OnCommit) -> None:
        instance("the client of a TransactionClient", client, Client)
        if not callable(on_commit):
            raise ConfigurationError(
                f"on_commit is a function that takes one to call after the commit, got {on_commit!r}"
            )
        self.client = client
        self._deferring = _Deferring(client, on_commit)

    async def push(self, item: Mapping[str, Any]) -> str | None:
        """The jid; the job is in the broker after the commit. Raises ``ArgumentError`` at once."""
        waits, copy = self._deferring.deferred(item)
        return cast("str", copy["jid"]) if waits else await self.client.push(copy)

    async def push_bulk(self, items: Mapping[str, Any]) -> list[str | None]:
        """At once."""
        return await self.client.push_bulk(items)

    async def perform_inline(self, item: Mapping[str, Any]) -> bool | None:
        """At once."""
        return await self.client.perform_inline(item)

    def now(self) -> float:
        return self.client.now()

    def install(self) -> TransactionClient:
        """As ``Client.install``."""
        install(self)
        return self

    @property
    def sync(self) -> TransactionSyncClient:
        """The same for code without a loop."""
        return TransactionSyncClient(self.client, self._deferring)
