"""Trace headers: what is well-formed goes on, what is not is as good as absent, and nothing of it is an error."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import Producer, open_broker, trace_headers
from penstock.errors import EncodeError

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_and_its_baggage_go_on_and_nothing_else() -> None:
    trace = {"traceparent": PARENT, "tracestate": "vendor=1", "baggage": "tenant=acme"}
    assert trace == trace_headers({**trace, "tenant": "acme", "expiresAt": 5})


def test_a_later_version_may_say_more() -> None:
    assert {"traceparent": f"01{PARENT[2:]}-more"} == trace_headers({"traceparent": f"01{PARENT[2:]}-more"})


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00-x",
        PARENT.upper(),
        f"{PARENT}-more",
        f"{PARENT}\n",
        f"ff{PARENT[2:]}",
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        5,
        None,
        ["00"],
    ],
)
def test_a_malformed_traceparent_is_as_good_as_none_and_takes_its_state_along(wrong: Any) -> None:
    assert {"baggage": "a=1"} == trace_headers({"traceparent": wrong, "tracestate": "v=1", "baggage": "a=1"})


async def test_a_malformed_traceparent_is_sent_like_any_header() -> None:
    assert await Producer(open_broker("memory://"), "s", dict).send({}, headers={"traceparent": "nonsense"})


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({5: "x"}, "the names of headers are texts, got"),
        ({"": "x"}, "the names of headers are texts, got"),
        ({"a": object()}, "headers must be JSON values"),
        ({"attempt": 3}, r"the headers \['attempt'\] are penstock's own"),
        ([("a", 1)], "headers are a mapping of names to JSON values, got"),
    ],
)
async def test_what_is_no_header_is_refused_before_anything_is_sent(headers: Any, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        await Producer(open_broker("memory://"), "s", dict).send({}, headers=headers)
