"""The SQL driver: SQLite by SQLAlchemy Core, other databases by dialect."""

from __future__ import annotations

from ...clients.sql import SqlOptions
from .broker import SqlBroker

__all__ = ["SqlBroker", "SqlOptions"]
