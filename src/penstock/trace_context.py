"""W3C Trace Context and Baggage in a message's headers: which of them are to be believed.

``traceparent`` is ``version-trace_id-parent_id-flags`` in lower-case hex. One that is malformed is as good as none, and
takes its ``tracestate`` with it (Trace Context, 3.2.2.5 and 3.3.1.6); it is never an error. Other headers are nobody's business here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII
)
LONGEST = 8192  # characters of one value, as W3C Baggage allows them


def trace_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Those headers that carry a trace on: ``traceparent``, ``tracestate``, ``baggage``; only what is well-formed.

    To hand a trace on to what a handler sends: ``send(payload, headers=trace_headers(context.headers))``.
    """
    found = {
        name: value
        for name in ("traceparent", "tracestate", "baggage")
        if isinstance(value := headers.get(name), str) and 0 < len(value) <= LONGEST
    }
    parent = _TRACEPARENT.fullmatch(found.get("traceparent", ""))
    if parent is None or (parent[1] == "00" and parent[2]):  # only later versions may say more
        found.pop("traceparent", None)
        found.pop("tracestate", None)
    return found
