"""Addresses of SQL databases: what is understood, and what a wrong one is told."""

from __future__ import annotations

import importlib
import sys

import pytest

from penstock.clients.sql import SqlOptions
from penstock.errors import ConfigurationError, InvalidURL, MissingExtra


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///jobs.db", "jobs.db"),
        ("sqlite:///data/my%20jobs.db", "data/my jobs.db"),
        ("sqlite:////var/lib/jobs.db", "/var/lib/jobs.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_an_address_names_a_file_or_memory(url: str, path: str | None) -> None:
    assert path == SqlOptions.from_url(url).path


def test_options_may_stand_in_the_query() -> None:
    options = SqlOptions.from_url("sqlite:///jobs.db?timeout=2.5&durability=full&prefix=shop_")
    assert (2.5, "full", "shop_") == (options.timeout, options.durability, options.prefix)


def test_an_argument_wins_over_the_query() -> None:
    assert 1.0 == SqlOptions.from_url("sqlite:///jobs.db?timeout=2.5", timeout=1.0).timeout


def test_the_address_is_told_as_it_was_given() -> None:
    for url in ("sqlite:///jobs.db", "sqlite:////var/lib/jobs.db", "sqlite://"):
        assert url == SqlOptions.from_url(url).url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jobs.db",
        "postgre://localhost/jobs",
        "sqlite://jobs.db",
        "sqlite:///jobs.db?timeout=soon",
        "sqlite:///jobs.db?timeout=0",
        "sqlite:///jobs.db?timeout=nan",
        "sqlite:///jobs.db?durability=perhaps",
        "sqlite:///jobs.db?colour=blue",
        "sqlite:///jobs.db?prefix=a;b",
        "sqlite:///jobs.db#part",
    ],
)
def test_a_wrong_address_is_told_what_was_expected(url: str) -> None:
    with pytest.raises(InvalidURL, match=r"expected sqlite:///relative/path\.db") as caught:
        SqlOptions.from_url(url)
    assert repr(url) in str(caught.value)


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(InvalidURL, match="colour"):
        SqlOptions.from_url("sqlite:///jobs.db", colour="blue")
    with pytest.raises(ConfigurationError, match="durability is 'normal' or 'full'"):
        SqlOptions(path=None, durability="perhaps")  # type: ignore[arg-type]


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for name in [name for name in sys.modules if name.startswith(("penstock.clients.sql", "penstock.brokers.sql"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"pip install 'penstock\[sqlite\]'"):
        importlib.import_module("penstock.brokers.sql")
