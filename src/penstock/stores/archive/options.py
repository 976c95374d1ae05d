"""What an archive is told when it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...checks import at_least_one, finite, one_of, positive
from ...errors import ConfigurationError

AuditMode: TypeAlias = Literal["async", "sync"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveOptions:
    """How an archive records, and what.

    ``audit``: ``async`` lets nobody wait for a row; with ``sync`` a push returns when its row is there, and a consumer
    goes on when those of its outcomes are. ``archive_enqueued``, ``archive_completed``, ``archive_failed``: which
    events get a row; the last covers what was discarded or has expired.
    ``batch`` rows, or those of ``interval`` seconds, are written at once. ``buffer_rows`` and ``buffer_bytes``: most
    that may wait; what comes to a full buffer is dropped in ``async`` mode, counted and logged, and waits in ``sync``.
    ``retention``: seconds after which workers delete rows. ``timeout``: seconds for one transaction.
    ``table``, ``logs_table``: names of the tables.
    """

    audit: AuditMode = "async"
    archive_enqueued: bool = True
    archive_completed: bool = True
    archive_failed: bool = True
    batch: int = 500
    interval: float = 1.0
    buffer_rows: int = 20_000
    buffer_bytes: int = 64 * 1024 * 1024
    retention: float | None = None
    timeout: float = 10.0
    table: str = "flux_job_archive"
    logs_table: str = "flux_system_logs"

    def __post_init__(self) -> None:
        one_of("audit", self.audit, ("async", "sync"))
        for name in ("batch", "buffer_rows", "buffer_bytes"):
            at_least_one(name, getattr(self, name))
        for name in ("interval", "timeout"):
            positive(f"{name}, in seconds,", getattr(self, name))
            finite(name, getattr(self, name))
        if self.retention is not None:
            positive("retention, in seconds,", self.retention)
            finite("retention", self.retention)
        for name in ("table", "logs_table"):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", getattr(self, name)):
                raise ConfigurationError(
                    f"{name} is up to 41 letters, digits and underscores, got {getattr(self, name)!r}"
                )
        if self.table == self.logs_table:
            raise ConfigurationError(f"table and logs_table are two tables, got {self.table!r} for both")
