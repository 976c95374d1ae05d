"""How often something may happen: so many times in any window of so many seconds, whoever does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from .checks import at_least_one, finite, positive
from .errors import ConfigurationError

EXPECTED = "Rate(limit=10, window=60), {'limit': 10, 'window': seconds} or {'max': 10, 'duration': milliseconds}"


@dataclass(frozen=True, slots=True)
class Rate:
    """``limit`` times in ``window`` seconds: in whichever such window one looks, not only from one minute to the next."""

    limit: int
    window: float

    def __post_init__(self) -> None:
        at_least_one("limit, of a rate,", self.limit)
        positive("window, of a rate, in seconds,", self.window)
        finite("window, of a rate,", self.window)


def rate_of(given: Any) -> Rate:
    """A rate as people write it. Raises ``ConfigurationError``."""
    if isinstance(given, Rate):
        return given
    if isinstance(given, Mapping):
        said = cast("Mapping[str, Any]", given)
        names = {*said}
        if names == {"limit", "window"}:
            return Rate(said["limit"], said["window"])
        if names == {"max", "duration"}:
            positive("duration, in milliseconds,", said["duration"])
            return Rate(said["max"], said["duration"] / 1000)
    raise ConfigurationError(f"a rate is {EXPECTED}; got {given!r:.100}")
