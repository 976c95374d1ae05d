"""An inspector for the time of one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from ..app import open_broker
from ..config import Settings
from ..errors import ConfigurationError
from ..inspector import Inspector

T = TypeVar("T")


def inspect(settings: Settings, work: Callable[[Inspector], Awaitable[T]]) -> T:
    """Do ``work`` with an inspector of the broker that the settings name."""
    url = settings.required_broker()
    _refuse_missing_file(url)

    async def session() -> T:
        async with Inspector(open_broker(url)) as inspector:
            return await work(inspector)

    return asyncio.run(session())


def _refuse_missing_file(url: str) -> None:
    """Whoever looks at a database with a mistyped name should hear of it, instead of getting an empty new one."""
    if not url.startswith("sqlite:///"):
        return
    from ..clients.sql import SqlOptions

    path = SqlOptions.from_url(url).path
    if path is not None and not Path(path).exists():
        raise ConfigurationError(f"there is no database {path}; a producer or worker creates it")
