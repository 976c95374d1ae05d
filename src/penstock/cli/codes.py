"""Exit codes of every command."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2  # wrong usage or configuration
UNHEALTHY = 3  # the broker cannot be used, or the doctor found danger
INTERRUPTED = 130
