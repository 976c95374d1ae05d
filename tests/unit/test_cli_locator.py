"""What ``penstock worker`` finds under a name, and what it says when it finds nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock import Worker
from penstock.cli.locator import locate
from penstock.errors import ConfigurationError

HEAD = """
from penstock import Consumer, Worker, open_broker

async def handle(payload):
    pass

def make(stream):
    return Consumer(open_broker("memory://"), stream, dict, handle)

"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the current directory, which is not on ``sys.path`` yet; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written: list[str] = []

    def write(body: str) -> str:
        name = f"located_{tmp_path.name.replace('-', '_')}_{len(written)}"
        (tmp_path / f"{name}.py").write_text(HEAD + body)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def streams(names: list[str], *, factory: bool = False) -> list[str]:
    found = locate(names, factory=factory)
    assert not isinstance(found, Worker)
    return [consumer.subscription.source for consumer in found]


def test_a_module_stands_for_every_consumer_in_it_once(write: Write) -> None:
    module = write("a = make('a')\nb = make('b')\nagain = a\n")

    assert ["a", "b"] == streams([module])


@pytest.mark.parametrize(
    ("body", "attribute", "expected"),
    [
        ("a = make('a')", "a", ["a"]),
        ("several = [make('a'), make('b')]", "several", ["a", "b"]),
        ("several = (make('a'),)", "several", ["a"]),
        ("class App:\n    consumers = [make('a'), make('b')]\napp = App()", "app", ["a", "b"]),
        ("class Holder:\n    inner = make('a')", "Holder.inner", ["a"]),
    ],
)
def test_an_attribute_may_be_a_consumer_several_or_something_that_has_them(
    write: Write, body: str, attribute: str, expected: list[str]
) -> None:
    assert expected == streams([f"{write(body)}:{attribute}"])


def test_what_is_named_twice_runs_once(write: Write) -> None:
    module = write("a = make('a')\nb = make('b')")

    assert ["b", "a"] == streams([f"{module}:b", module])


def test_a_factory_is_called_only_when_asked_for(write: Write) -> None:
    module = write("def create():\n    return [make('made')]")

    assert ["made"] == streams([f"{module}:create"], factory=True)
    with pytest.raises(ConfigurationError, match="add --factory"):
        locate([f"{module}:create"])


def test_a_worker_alone_is_found_as_it_is(write: Write) -> None:
    module = write("a = make('a')\nworker = Worker(a, drain=1.5)")

    assert isinstance(locate([module]), Worker)
    assert isinstance(locate([f"{module}:worker"]), Worker)


@pytest.mark.parametrize(
    "body", ["w = Worker(make('a'))\nb = make('b')", "v = Worker(make('a'))\nw = Worker(make('b'))"]
)
def test_a_worker_beside_others_is_ambiguous(write: Write, body: str) -> None:
    with pytest.raises(ConfigurationError, match="say which"):
        locate([write(body)])


def test_a_worker_runs_alone(write: Write) -> None:
    module = write("a = make('a')\nw = Worker(a)")

    with pytest.raises(ConfigurationError, match="runs alone"):
        locate([f"{module}:w", f"{module}:a"])


@pytest.mark.parametrize(
    ("body", "attribute", "message"),
    [
        ("", "", "has no Consumer"),
        ("a = make('a')", ":b", "has no 'b'; there is a"),
        ("a = 1", ":a", "is a int; expected a Consumer"),
        ("a = []", ":a", "it is empty"),
        ("a = [make('a'), 1]", ":a", "a int in it"),
        ("1 / 0", ":a", "ZeroDivisionError: division by zero .*py:10"),
        ("import no_such_library", "", "No module named 'no_such_library'"),
        ("open_broker('nope://')", "", "no broker for nope://"),
        ("syntax error", "", "SyntaxError"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(write: Write, body: str, attribute: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        locate([f"{write(body)}{attribute}"])

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("async def create():\n    return make('a')", "coroutine function"),
        ("def create():\n    raise OSError('no disk')", "OSError: no disk"),
        ("create = 3", "not a function"),
        ("def create():\n    return 3", "is a int"),
    ],
)
def test_a_wrong_factory_is_refused(write: Write, body: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        locate([f"{write(body)}:create"], factory=True)


@pytest.mark.parametrize("name", ["nowhere_at_all", "nowhere_at_all.jobs:consumer", "json.nowhere"])
def test_a_missing_module_is_named(write: Write, name: str) -> None:
    with pytest.raises(ConfigurationError, match="no module named"):
        locate([name])


@pytest.mark.parametrize("name", ["myapp/jobs.py", "myapp/jobs", "./myapp/jobs.py:consumer"])
def test_a_path_is_answered_with_the_modules_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"such as myapp\.jobs"):
        locate([name])
