"""Ratchets: what the project promises about its own sources, and what is easily broken unseen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("src/**/*.py"))
FILE_LINES, CLASS_LINES, BODY_LINES = 400, 250, 40
OPTIONAL = [
    "aiobotocore",
    "aiosqlite",
    "botocore",
    "click",
    "glide",
    "hiredis",
    "jsonschema",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "redis",
    "rich",
    "sqlalchemy",
    "starlette",
    "uvloop",
]

# Written so that this file does not match itself
HOSTS = re.compile(
    "pypi[.]org|pythonhosted[.]org|registry[.]npmjs|deb[.]debian|repo1?[.]maven|static[.]crates|index[.]crates"
    "|proxy[.]golang",
    re.IGNORECASE,
)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wor[k]|far[m])/|/roo[t]/|/hom[e]/[a-z]+/|/User[s]/[a-z]+/")


def test_no_source_file_is_longer_than_its_noun():
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}

    assert {} == {name: lines for name, lines in lengths.items() if lines > FILE_LINES}


def test_no_class_is_longer_than_can_be_read_at_once():
    long = {
        f"{_name(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef)
    }
    # The shipped suites are classes of tests: a list, not an object
    assert {} == {name: lines for name, lines in long.items() if lines > CLASS_LINES and "/testing/" not in name}


def test_no_function_body_is_longer_than_a_screen():
    bodies = {
        f"{_name(path)}:{node.lineno} {node.name}": _body_lines(node)
        for path in SOURCES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {} == {name: lines for name, lines in bodies.items() if lines > BODY_LINES}


def test_every_source_file_says_its_job():
    undescribed = [_name(path) for path in SOURCES if path.stat().st_size and not ast.get_docstring(_tree(path))]

    assert [] == undescribed


def test_nothing_in_the_sources_is_left_for_later():
    later = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")  # a port is a Protocol: it needs no such error

    assert [] == [_name(path) for path in SOURCES if later.search(path.read_text(encoding="utf-8"))]


def test_importing_penstock_imports_no_optional_library():
    """The core is light: drivers, command line and terminal output are imported when they are used."""
    program = f"import sys, penstock; print(*[name for name in {OPTIONAL} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert [] == done.stdout.split()


def test_the_extra_named_all_has_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")

    del extras["glide"]  # there is no wheel of it for every platform, and `all` is for every platform
    assert set(extras) == set(everything.removeprefix("penstock[").removesuffix("]").split(","))


def test_pins_name_no_place_to_fetch_from():
    for path in ROOT.glob("constraints/*.txt"):
        assert [] == [line for line in path.read_text(encoding="utf-8").splitlines() if "://" in line or "@" in line]


@pytest.mark.parametrize("pattern", [HOSTS, MACHINE_PATHS], ids=["registry hosts", "paths of one machine"])
def test_no_file_names(pattern: re.Pattern[str]):
    found = [
        f"{_name(path)}:{number}: {line.strip()[:120]}"
        for path, text in _project_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert [] == found


def _project_texts() -> Iterator[tuple[Path, str]]:
    """The text files that are in the repository or would be added to it."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, capture_output=True, text=True, timeout=60, check=True).stdout.split("\0")
    except (FileNotFoundError, subprocess.CalledProcessError):  # a source distribution, or no git here
        names = [_name(path) for folder in ("src", "tests", "docs", "examples") for path in (ROOT / folder).rglob("*")]
    for path in (ROOT / name for name in names if name):
        if path.is_file():
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # binary


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first, *rest = function.body
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    body = rest if documented else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))
