"""JSON as Ruby writes it: ``tests/data/ruby_json_floats.json`` was written by Ruby's json 2.21.1."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.brokers.sidekiq.ruby_json import NESTING, dumps, encode_plain, loads

FLOATS = json.loads((Path(__file__).parent.parent / "data" / "ruby_json_floats.json").read_text("utf-8"))["floats"]

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_every_float_is_written_as_ruby_wrote_it():
    assert [(value, text) for value, text in FLOATS] == [(value, dumps(value).decode()) for value, _ in FLOATS]


def test_the_floats_of_the_recorded_pushes_are_written_as_ruby_wrote_them():
    values = [0.0, -0.0, 1.0, 2.5, 0.1, 1.0 / 3, 1e-5, 1e-7, 123456789.125]
    values += [1e15, 1e16, 1e20, 1.5e300, 5e-324, 1.7976931348623157e308]
    assert (
        b"[0.0,-0.0,1.0,2.5,0.1,0.3333333333333333,0.00001,0.0000001,123456789.125,1e+15,1e+16,1e+20,1.5e+300,"
        b"5e-324,1.7976931348623157e+308]"
    ) == dumps(values)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_reads_back_as_itself(value):
    text = dumps(value)
    assert (value, math.copysign(1, value)) == (loads(text), math.copysign(1, loads(text)))
    assert value == json.loads(text)


@given(VALUES)
def test_any_value_reads_back_as_itself_and_has_the_bytes_of_the_standard_layout(value):
    text = dumps(value)
    assert value == loads(text)
    if b"." not in text and b"e+" not in text and b"e-" not in text:
        assert json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() == text


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_a_value_without_floats_has_the_same_bytes_either_way(value):
    assert encode_plain(value) == dumps(value)
    assert b"[" + encode_plain(value) + b",0.5]" == dumps([value, 0.5])


def test_texts_are_written_raw_but_for_what_must_be_escaped():
    text = 'grö 日本 🚀 \u2028\u2029 "q" \\ / </script> \b\f\n\r\t\x00\x01\x1f\x7f'
    expected = '"grö 日本 🚀 \u2028\u2029 \\"q\\" \\\\ / </script> \\b\\f\\n\\r\\t\\u0000\\u0001\\u001f\x7f"'.encode()
    assert expected == dumps(text)
    assert b"[" + expected + b",0.5]" == dumps([text, 0.5])


def test_integers_of_any_size_are_exact():
    values = [0, -1, 2**53 + 1, -(2**63), 2**64, 10**40]
    assert b"[0,-1,9007199254740993,-9223372036854775808,18446744073709551616,1" + b"0" * 40 + b"]" == dumps(values)
    assert values == loads(dumps(values))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="no number that JSON can hold"):
        dumps({"a": [value]})


def test_half_a_character_is_refused():
    with pytest.raises(ValueError):
        dumps(["\ud800"])
    with pytest.raises(ValueError):
        dumps([0.5, "\ud800"])
    with pytest.raises(ValueError):
        loads(b'"\\ud800"')


@pytest.mark.parametrize("text", [b"{not json", b"", b"NaN", b"[Infinity]", b"01", b'"\xff"', b"[1] 2", b"'a'"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):
        loads(text)


def test_nesting_ends_where_ruby_ends():
    deepest = b"[" * NESTING + b"]" * NESTING
    assert deepest == dumps(nested(NESTING))
    assert nested(NESTING) == loads(deepest)
    for value in (nested(NESTING + 1), [0.5, nested(NESTING)]):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            dumps(value)
    for text in (b"[" + deepest + b"]", b'{"a":' + deepest + b"}", b"[" * 100_000 + b"]" * 100_000):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            loads(text)
    assert [[]] * 200 == loads(dumps([[]] * 200))  # many brackets, but not deep


def test_less_room_may_be_given():
    assert b"[[]]" == dumps([[]], 2)
    with pytest.raises(ValueError, match="deep"):
        dumps([[[]]], 2)


def test_the_last_of_equal_keys_wins():
    assert {"a": 2} == loads(b'{"a":1,"a":2}')


def test_other_types_are_written_as_the_nearest_that_json_has():
    @dataclass
    class Point:
        x: float

    class Name(str):
        __slots__ = ()

    class Ratio(float):
        __slots__ = ()

    when = datetime(2026, 11, 21, tzinfo=UTC)
    assert b'[[1,2],{"x":0.00001},"n",1e+16,"2026-11-21T00:00:00Z",{"1":0.5}]' == dumps(
        [(1, 2), Point(1e-5), Name("n"), Ratio(1e16), when, {1: 0.5}]
    )
    with pytest.raises(TypeError):
        dumps([object()])
