"""A job in one of the sorted sets, and what may be done to it. Each act is one step on the server."""

from __future__ import annotations

from datetime import UTC, datetime

from .data import Data
from .job_record import JobRecord
from .repushing import repushed

KILLED = "Job killed by API"


class SortedEntry(JobRecord):
    """A job in ``set_name`` at ``score``: seconds since the epoch.

    Every act says whether the job was still there: somebody else may have been faster.
    """

    def __init__(self, data: Data, set_name: str, score: float, value: bytes) -> None:
        super().__init__(data, value)
        self.set_name, self.score = set_name, float(score)

    @property
    def id(self) -> str:
        """``score|jid``, as in the addresses of the Web UI."""
        return f"{self.score}|{self.jid or ''}"

    @property
    def at(self) -> datetime:
        """When it is due; of a dead one, when it died."""
        return datetime.fromtimestamp(self.score, UTC)

    @property
    def error(self) -> bool:
        """Whether it has failed."""
        return bool(self.item.get("error_class"))

    async def delete(self) -> bool:
        """Remove it for good."""
        return await self._move("v")

    async def reschedule(self, at: float | datetime) -> bool:
        """Have it due at another time."""
        score = at.timestamp() if isinstance(at, datetime) else float(at)
        moved = await self._move("s", repr(score))
        if moved:
            self.score = score
        return moved

    async def add_to_queue(self) -> bool:
        """Put it into its queue now. Raises ``DecodeError`` for what is no job, and leaves it where it is."""
        return await self._move(*await repushed(self._data, self.value))

    async def retry(self) -> bool:
        """The same, and this time does not count as one of its retries."""
        return await self._move(*await repushed(self._data, self.value, uncounted=True))

    async def kill(self, *, notify_failure: bool = True, error: BaseException | None = None) -> bool:
        """Move it to the dead jobs, and tell the death handlers, with ``error`` or one that says that it was killed."""
        (there,) = await self._data.move([(self.set_name, self.value, "d")], trim=True)
        if there and notify_failure:
            await self._data.died(self.item, error or RuntimeError(KILLED))
        return there

    async def _move(self, *act: str | bytes) -> bool:
        (there,) = await self._data.move([(self.set_name, self.value, *act)])
        return there
