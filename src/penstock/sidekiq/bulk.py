"""Many jobs of one class: the rules of ``push_bulk``, and its batches of payloads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from random import Random
from typing import Any, Final, cast

from ..errors import ArgumentError
from ..job_moment import moment
from .payload import Payload, new_jids, normalised

AT_ONCE: Final = 1000
SCHEDULED: Final = 100
LEAST_SPREAD: Final = 5.0  # seconds


class Bulk:
    """The items of one ``push_bulk``. Raises ``ArgumentError`` for what is wrong with them as a whole.

    ``job``: the class or name that the caller gave.
    """

    def __init__(self, items: Mapping[str, Any], now: float, created_at: float, random: Random) -> None:
        common = {**items} if _has_both(items) else {}
        if not common:
            raise ArgumentError(f"jobs must be a mapping with 'class' and 'args', got {items!r:.100}")
        self.job: Any = common["class"]
        args: Any = common["args"]
        at, spread = common.pop("at", None), common.pop("spread_interval", None)
        jid, size = common.pop("jid", None), common.pop("batch_size", None)
        if isinstance(args, str | bytes | Mapping) or not isinstance(args, Iterable):
            raise ArgumentError(f"Bulk arguments must be a list of lists: [[1], [2]], got {args!r:.100}")
        if isinstance(args, list):
            _check_lists(cast("Any", args))  # all of them before the first is sent
        lazy = jid is None and not isinstance(at, list)  # nobody needs to know how many there are
        self._args: Iterable[Any] = cast("Any", args) if lazy else [*cast("Any", args)]
        if jid is not None and len(cast("list[Any]", self._args)) > 1:
            raise ArgumentError("Explicitly passing 'jid' when pushing more than one job is not supported")
        self._jid: str | None = jid
        self._times = _times(at, spread, self._args, now, random)
        self._size = _size(size, scheduled=self._times is not None)
        self._common = normalised({**common, "args": []}, created_at)

    def batches(self) -> Iterator[list[Payload]]:
        """Payloads, batch by batch; arguments are taken from an iterator only when they are come to."""
        args = iter(self._args)
        while batch := [*islice(args, self._size)]:
            yield self._payloads(batch)

    def _payloads(self, batch: list[Any]) -> list[Payload]:
        _check_lists(batch)
        jids = new_jids(len(batch)) if self._jid is None else [self._jid]
        common = self._common
        payloads: list[Payload] = [{**common, "args": args, "jid": jid} for args, jid in zip(batch, jids, strict=True)]
        if self._times is not None:
            for payload in payloads:
                at = self._times()
                if at is not None:
                    payload["at"] = at
        return payloads


def _times(at: Any, spread: Any, args: Any, now: float, random: Random) -> Callable[[], float | None] | None:
    """What gives each job in turn its moment."""
    if spread is not None:
        if at is not None:
            raise ArgumentError("spread_interval and 'at' are two ways to say when; give one of them")
        if not _is_number(spread) or spread <= 0:
            raise ArgumentError(f"spread_interval must be a positive number of seconds, got {spread!r}")
        interval = max(spread, LEAST_SPREAD)
        return lambda: now + random.random() * interval
    if at is None:
        return None
    if not isinstance(at, list):
        _check_at(at)
        single = moment(at, now)
        return lambda: single
    times: list[Any] = [*cast("Iterable[Any]", at)]
    if not times:
        raise ArgumentError("'at' must be a numeric timestamp or a list of them, got an empty list")
    for each in times:
        _check_at(each)
    if len(times) != len(args):
        raise ArgumentError(f"the list 'at' must have the same size as 'args', got {len(times)} for {len(args)}")
    following = iter([moment(each, now) for each in times])
    return lambda: next(following)


def _check_lists(batch: Iterable[Any]) -> None:
    for args in batch:
        if type(args) is not list:
            raise ArgumentError(f"Bulk arguments must be a list of lists: [[1], [2]], got {args!r:.100} in it")


def _has_both(items: Any) -> bool:
    return isinstance(items, Mapping) and "class" in items and "args" in items


def _check_at(at: Any) -> None:
    if not _is_number(at):
        raise ArgumentError(f"'at' must be a numeric timestamp or a list of them, got {at!r:.100}")


def _size(size: Any, *, scheduled: bool) -> int:
    if size is None:
        return SCHEDULED if scheduled else AT_ONCE
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ArgumentError(f"batch_size must be a whole number of at least 1, got {size!r}")
    return size


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
