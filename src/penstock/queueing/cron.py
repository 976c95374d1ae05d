"""Cron expressions: when they are due next, in a time zone of their own.

Five fields, or six with seconds in front; ``@hourly``, ``@daily`` and their like. Where a clock is put forward, what was
due in the hour that is missing is due right after it; where it is put back, what is due at a given hour is due once.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from ..errors import ConfigurationError, MissingExtra

WORDS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def next_due(cron: str, timezone: str, after: float) -> float | None:
    """The first moment after ``after``, in seconds since the epoch; ``None`` if there is none. Raises ``ConfigurationError``."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as error:
        raise MissingExtra("cronsim", "cron") from error
    zone = _zone(timezone)
    try:
        moments = CronSim(WORDS.get(cron.strip(), cron), datetime.fromtimestamp(after, UTC).astimezone(zone))
    except CronSimError as error:
        raise ConfigurationError(
            f"a cron expression has 5 fields such as '0 9 * * MON-FRI', or 6 with seconds; got {cron!r} ({error})"
        ) from error
    due: datetime | None = next(moments, None)
    return None if due is None else due.timestamp()


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(f"a time zone is a name such as 'Europe/Berlin' or 'UTC'; got {name!r}") from error
