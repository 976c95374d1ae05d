"""The registry: which handler runs what, and which handlers it refuses."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from penstock.codecs.json import JsonCodec
from penstock.errors import ConfigurationError
from penstock.registry import Registry

CODEC: Any = JsonCodec(dict)


async def one(payload: Any) -> None: ...
async def two(payload: Any, context: Any) -> None: ...
def plain(payload: Any) -> None: ...


@functools.wraps(plain)
async def async_around_plain(payload: Any) -> None: ...


@functools.wraps(one)
def plain_around_async(payload: Any) -> Any:
    return one(payload)


class Callable:
    async def __call__(self, payload: Any, context: Any) -> None: ...


class Bound:
    async def method(self, payload: Any) -> None: ...
    def plain(self, payload: Any, context: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "wants_context", "threaded"),
    [
        (one, False, False),
        (two, True, False),
        (plain, False, True),
        (Callable(), True, False),
        (Bound().method, False, False),
        (Bound().plain, True, True),
        (functools.partial(two, context=None), False, False),
        (functools.partial(Callable(), context=None), False, False),
        (async_around_plain, False, False),
        (plain_around_async, False, True),
        (lambda payload: None, False, True),
        (lambda payload, context=None: None, False, True),
    ],
)
def test_what_a_handler_wants_is_read_off_its_signature(handler: Any, wants_context: bool, threaded: bool) -> None:
    registry = Registry()
    registry.add(handler, CODEC)
    route = registry.resolve("anything")
    assert route is not None
    assert (route.wants_context, route.threaded, registry.threaded) == (wants_context, threaded, threaded)


def test_a_type_finds_its_handler_by_all_its_names_and_others_find_the_default() -> None:
    registry = Registry()
    registry.add(one, CODEC, ["email.send", "mail.send"])
    assert registry.resolve("sms.send") is None
    registry.add(two, CODEC)
    for name, call in (("email.send", one), ("mail.send", one), ("sms.send", two)):
        route = registry.resolve(name)
        assert route is not None
        assert route.call is call
    assert registry.types == ("email.send", "mail.send", "*")


def test_two_handlers_for_one_type_are_refused() -> None:
    registry = Registry()
    registry.add(one, CODEC, ["a"])
    registry.add(one, CODEC)
    with pytest.raises(ConfigurationError, match="'a'"):
        registry.add(two, CODEC, ["b", "a"])
    with pytest.raises(ConfigurationError, match="every type"):
        registry.add(two, CODEC)


@pytest.mark.parametrize(
    "handler",
    [lambda: None, lambda payload, context, more: None, lambda payload, *, needed: None, 7, None],
    ids=["nothing", "three", "keyword", "a number", "None"],
)
def test_a_handler_that_cannot_be_called_with_a_payload_is_refused(handler: Any) -> None:
    with pytest.raises(ConfigurationError, match="payload"):
        Registry().add(handler, CODEC)
