"""Iterators of (object, cursor) for iterable jobs, each from a cursor on; a first cursor is ``None``.

A saved cursor names what has not been worked on, so each begins with its cursor's own object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar

from .errors import ConfigurationError

T = TypeVar("T")


def array_enumerator(items: Sequence[T], cursor: int | None) -> Iterator[tuple[T, int]]:
    """The items of a list; the cursor is an index."""
    if isinstance(items, str | bytes) or not hasattr(items, "__getitem__"):
        raise ConfigurationError(f"array_enumerator takes a list, got {type(items).__name__}")
    return ((items[index], index) for index in range(cursor or 0, len(items)))


def row_enumerator(rows: Iterable[T], cursor: int | None) -> Iterator[tuple[T, int]]:
    """What can only be read from its beginning, such as ``csv.reader(file)``; the cursor counts rows."""
    return ((row, number) for number, row in enumerate(islice(rows, cursor or 0, None), cursor or 0))


def batch_enumerator(rows: Iterable[T], cursor: int | None, *, size: int = 100) -> Iterator[tuple[list[T], int]]:
    """The same in lists of ``size``; the cursor counts lists."""
    _check(size)
    number, source = cursor or 0, islice(rows, (cursor or 0) * size, None)
    while batch := list(islice(source, size)):
        yield batch, number
        number += 1


def record_enumerator(
    page: Callable[[Any, int], Sequence[T]],
    cursor: Any,
    *,
    size: int = 100,
    key: Callable[[T], Any] = attrgetter("id"),
) -> Iterator[tuple[T, Any]]:
    """Records of a database; the cursor is a record's ``key``.

    ``page(start, limit)``: the first ``limit`` records whose key is at least ``start``, by key; from the first on if
    ``start`` is ``None``.
    """
    return (
        (record, key(record))
        for batch, _ in record_batch_enumerator(page, cursor, size=size, key=key)
        for record in batch
    )


def record_batch_enumerator(
    page: Callable[[Any, int], Sequence[T]],
    cursor: Any,
    *,
    size: int = 100,
    key: Callable[[T], Any] = attrgetter("id"),
) -> Iterator[tuple[list[T], Any]]:
    """The same in lists of ``size``; the cursor is the key of a list's first record, so that one is done again whole."""
    _check(size)
    batch = list(page(cursor, size))
    while batch:
        yield batch, key(batch[0])
        last = key(batch[-1])
        batch = [record for record in page(last, size + 1) if key(record) != last][:size]


def _check(size: int) -> None:
    if size < 1:
        raise ConfigurationError(f"size is a whole number and at least 1, got {size!r}")
