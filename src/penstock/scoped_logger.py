"""Loggers whose level may be another within a block, for this task or thread alone: a job that asks for ``debug``."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_level: ContextVar[int | None] = ContextVar("penstock_log_level", default=None)

_usual = logging.Logger.isEnabledFor


class ScopedLogger(logging.Logger):
    """A logger that minds ``at_level``."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 logging's name
        own = _level.get()
        if own is None:
            return _usual(self, level)  # asked for each job: super() would be seen there
        return level >= own and not self.disabled


@contextmanager
def at_level(name: str) -> Generator[None]:
    """Within the block scoped loggers have the level ``name``, such as ``debug``. An unknown one changes nothing."""
    level = logging.getLevelNamesMapping().get(name.upper())
    token = _level.set(_level.get() if level is None else level)
    try:
        yield
    finally:
        _level.reset(token)


def scoped_logger(name: str) -> logging.Logger:
    """The logger ``name``, minding ``at_level`` from now on; one of somebody's own class stays as it is."""
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:
        logger.__class__ = ScopedLogger  # whoever asked for it before has the same one
    return logger
