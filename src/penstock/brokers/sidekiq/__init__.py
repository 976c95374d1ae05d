"""Sidekiq's schema on Redis: jobs that Ruby may push and run as well. ``broker`` is where to begin."""

from __future__ import annotations

from .broker import SidekiqBroker
from .options import SidekiqOptions

__all__ = ["SidekiqBroker", "SidekiqOptions"]
