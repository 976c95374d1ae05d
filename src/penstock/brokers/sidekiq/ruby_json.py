"""JSON as Ruby writes it (a first version; the real one is on its way)."""

from __future__ import annotations

import json
from typing import Any


def dumps(value: Any) -> bytes:
    """The text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
