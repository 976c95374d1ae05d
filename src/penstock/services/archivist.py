"""The archivist: deletes from an archive what is older than its retention, a bounded number of rows at a time.

Any number of workers may have one: rows that another one has deleted are simply not there.
"""

from __future__ import annotations

from ..audit import Audit


class Archivist:
    """``interval``: seconds between sweeps; ``pause``: seconds between the steps of one."""

    name = "archivist"
    stream = "archive"

    def __init__(self, archive: Audit, *, interval: float = 600.0, pause: float = 0.2) -> None:
        self._archive, self._interval, self._pause = archive, interval, pause

    async def run_once(self) -> float:
        """One step."""
        return self._pause if await self._archive.prune() else self._interval
