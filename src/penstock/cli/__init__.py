"""The command line: a thin shell over workers and the inspector, with nothing of its own to say about messages.

Exit codes: 0 ok · 1 failed · 2 wrong usage or configuration · 3 unhealthy: the broker cannot be reached, refuses the
credentials, or the doctor found danger · 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit. Click is imported here and not before."""
    from .root import run

    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
