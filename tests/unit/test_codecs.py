"""Codecs: every kind of payload type goes out and comes back, and what does not fit is refused on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from penstock.codecs import codec_for
from penstock.codecs.json import JsonCodec
from penstock.codecs.msgpack import MsgpackCodec
from penstock.codecs.pydantic import PydanticCodec
from penstock.errors import ConfigurationError, DecodeError, EncodeError, ValidationError


class Struct(msgspec.Struct):
    n: int
    text: str = ""


class Model(pydantic.BaseModel):
    n: int
    text: str = ""


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    n: int


@dataclass
class Plain:
    n: int


class Typed(TypedDict):
    n: int


class Aliased(pydantic.BaseModel):
    user_id: int = pydantic.Field(alias="userId")


class Finite(msgspec.Struct):
    x: float


KINDS = [
    (Aliased, Aliased(userId=1)),
    (Struct, Struct(1, "ü")),
    (Model, Model(n=1, text="ü")),
    (PydanticDataclass, PydanticDataclass(n=1)),
    (Plain, Plain(1)),
    (Typed, {"n": 1}),
    (dict[str, int], {"n": 1}),
    (list[Model], [Model(n=1)]),
    (dict, {"n": [1, None, "ü"]}),
    (Any, {"n": 1}),
    (int, 7),
]


@pytest.mark.parametrize(("kind", "payload"), KINDS)
def test_a_payload_comes_back_as_it_went_out(kind: Any, payload: Any) -> None:
    codec = codec_for(kind)
    assert payload == codec.decode(codec.encode(payload))


@pytest.mark.parametrize("kind", [Struct, Model, PydanticDataclass, Plain, Typed, dict[str, int]])
@pytest.mark.parametrize("body", [b'{"n":"x"}', b"[]", b'{"n":null}'])
def test_the_wrong_shape_is_told_apart_from_bytes_that_are_no_json(kind: Any, body: bytes) -> None:
    with pytest.raises(ValidationError):
        codec_for(kind).decode(body)
    for broken in (b"", b"{", b"\xff\xfe", b'{"n":1'):
        with pytest.raises(DecodeError):
            codec_for(kind).decode(broken)


@pytest.mark.parametrize("kind", [Struct, Model, Plain, Typed])
def test_what_the_other_side_could_not_read_is_not_sent(kind: Any) -> None:
    payload = {"n": "x"} if kind is Typed else kind.model_construct(n="x") if kind is Model else kind("x")
    with pytest.raises((ValidationError, EncodeError)):
        codec_for(kind).encode(payload)


@pytest.mark.parametrize("kind", [Struct, Model, Any])
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"x":' * 100_000])
def test_deep_nesting_is_an_error_and_no_crash(kind: Any, body: bytes) -> None:
    with pytest.raises((DecodeError, ValidationError)):
        codec_for(kind).decode(body)


@pytest.mark.parametrize(("kind", "payload"), [(dict, [1]), (list, {}), (dict, "x"), (Finite, Finite(float("nan")))])
def test_a_loose_type_is_held_to_what_it_says(kind: Any, payload: Any) -> None:
    with pytest.raises(ValidationError):
        codec_for(kind).encode(payload)


def test_an_aliased_field_travels_by_its_alias() -> None:
    assert b'{"userId":1}' == codec_for(Aliased).encode(Aliased(userId=1))


def test_what_is_no_json_value_is_not_sent() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for payload in (object(), {1: object()}, deep, {"s": "\ud800"}):
        with pytest.raises(EncodeError):
            codec_for(Any).encode(payload)
    while deep:  # unnested by hand: the interpreter would recurse
        deep = deep.pop()


def test_the_codec_follows_from_the_type() -> None:
    assert isinstance(codec_for(Struct), JsonCodec)
    assert isinstance(codec_for(dict[str, Model]), PydanticCodec)


def test_a_type_that_cannot_be_a_payload_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="payload type"):
        codec_for(msgspec.Struct | Struct | Plain)


def test_message_pack_holds_what_json_cannot() -> None:
    class Blob(msgspec.Struct):
        data: bytes

    codec = MsgpackCodec(Blob)
    assert Blob(b"\x00\xff") == codec.decode(codec.encode(Blob(b"\x00\xff")))
    with pytest.raises(ValidationError):
        codec.decode(msgspec.msgpack.encode({"data": 1}))
    with pytest.raises(DecodeError):
        codec.decode(b"\xc1")
    with pytest.raises(EncodeError):
        codec.encode(object())
