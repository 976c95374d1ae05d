"""Globs against what minimatch 10 said of the same patterns and names; and hashes against those of msgpackr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.codecs.javascript import JavaScriptCodec, js_number
from penstock.errors import ConfigurationError, DecodeError, EncodeError
from penstock.glob import Glob, glob
from penstock.notifications.fingerprint import fingerprint, pack

DATA = Path(__file__).parents[1] / "data"
RECORDED = json.loads((DATA / "minimatch.json").read_text("utf-8"))
HASHES = json.loads((DATA / "rotif_dedup_hash.json").read_text("utf-8"))


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["pattern"])
def test_a_pattern_matches_what_minimatch_says(case: dict[str, Any]) -> None:
    found = Glob(case["pattern"])
    assert case["matches"] == [name for name in RECORDED["names"] if found.matches(name)]


def test_a_pattern_is_compiled_once() -> None:
    assert glob("orders.*") is glob("orders.*")


def test_a_pattern_that_stands_for_too_much_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="more than 10000 texts"):
        glob("a{1..100000}")
    with pytest.raises(ConfigurationError, match="at most 65536 characters"):
        glob("a" * 70_000)
    with pytest.raises(ConfigurationError, match="this one has"):
        glob("{1..500}{1..500}")


@pytest.mark.parametrize("case", HASHES, ids=lambda case: case["sha256_of_msgpackr"][:8])
def test_a_payload_has_the_hash_that_typescript_gives_it(case: dict[str, str]) -> None:
    assert case["sha256_of_msgpackr"] == fingerprint(case["json"].encode())


def test_msgpack_is_written_as_msgpackr_writes_it() -> None:
    assert bytes.fromhex("de0001a76f72646572496401") == pack({"orderId": 1})
    assert bytes.fromhex("de0000") == pack({})
    assert pack({"b": 1, "10": 2, "2": 3}) == pack({"2": 3, "10": 2, "b": 1})
    assert b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00" == pack(10**400)
    with pytest.raises(EncodeError, match="65535 members"):
        pack({str(n) + "x": n for n in range(70_000)})


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (-1.25e-10, "-1.25e-10"),
        (1.2345e16, "12345000000000000"),
        (5e-324, "5e-324"),
        (float("nan"), "null"),
        (float("inf"), "null"),
    ],
)
def test_numbers_are_written_as_javascript_writes_them(number: float, text: str) -> None:
    assert text == js_number(number)
    assert f'{{"n":{text}}}'.encode() == JavaScriptCodec().encode({"n": number})


def test_half_a_character_is_written_as_an_escape_and_read_again() -> None:
    codec = JavaScriptCodec()
    assert b'{"a":"\\ud800","f":1.5}' == codec.encode({"a": "\ud800", "f": 1.5})
    assert {"a": "\ud800"} == codec.decode(b'{"a":"\\ud800"}')
    with pytest.raises(DecodeError):
        codec.decode(b'{"a":"\\u00')


def test_what_holds_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(EncodeError, match="nested too deeply"):
        JavaScriptCodec().encode(circle)
