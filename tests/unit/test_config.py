"""Settings: which source wins, what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import UNSET

from penstock.config import Settings, load, mask_url
from penstock.errors import ConfigurationError


def test_without_any_source_there_are_the_defaults(tmp_path: Path) -> None:
    loaded = load(env={}, directory=tmp_path)

    assert Settings() == loaded.settings
    assert {"default"} == set(loaded.origins.values())


def test_explicit_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('drain = 1.0\nlog_level = "error"\nbroker = "sqlite:///file.db"\n')
    env = {"PENSTOCK_DRAIN": "2", "PENSTOCK_LOG_LEVEL": "WARNING"}

    loaded = load({"drain": 3.0}, env=env, directory=tmp_path)

    assert 3.0 == loaded.settings.drain
    assert "warning" == loaded.settings.log_level
    assert "sqlite:///file.db" == loaded.settings.broker
    assert "text" == loaded.settings.log_format
    assert "given explicitly" == loaded.origins["drain"]
    assert "environment: PENSTOCK_LOG_LEVEL" == loaded.origins["log_level"]
    assert f"file: {tmp_path / 'penstock.toml'}" == loaded.origins["broker"]


def test_not_given_hides_nothing_although_it_is_no_default_either(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("drain = 1.5\nscheduler = false\n")

    loaded = load({"drain": UNSET}, env={"PENSTOCK_SCHEDULER": ""}, directory=tmp_path)

    assert 1.5 == loaded.settings.drain
    assert loaded.settings.scheduler is False


def test_an_explicit_value_equal_to_the_default_still_beats_the_environment(tmp_path: Path) -> None:
    loaded = load({"drain": 25.0}, env={"PENSTOCK_DRAIN": "1"}, directory=tmp_path)

    assert 25.0 == loaded.settings.drain


def test_redis_url_is_the_last_resort_of_the_environment_and_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('broker = "sqlite:///file.db"\n')
    env = {"REDIS_URL": "redis://fallback"}

    assert "redis://fallback" == load(env=env, directory=tmp_path).settings.broker
    assert "redis://own" == load(env={**env, "PENSTOCK_BROKER": "redis://own"}, directory=tmp_path).settings.broker


def test_pyproject_is_read_when_there_is_no_file_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.penstock]\ndrain = 4\n')
    assert 4.0 == load(env={}, directory=tmp_path).settings.drain

    (tmp_path / "penstock.toml").write_text("")
    assert 25.0 == load(env={}, directory=tmp_path).settings.drain


def test_a_file_named_by_hand_or_environment_replaces_the_search(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("drain = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("drain = 2\n")

    assert 2.0 == load(env={}, file=other, directory=tmp_path).settings.drain
    assert 2.0 == load(env={"PENSTOCK_CONFIG": str(other)}, directory=tmp_path).settings.drain


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("yes", True), ("off", False), ("0", False)]
)
def test_the_environment_says_yes_and_no_in_the_usual_words(tmp_path: Path, text: str, expected: bool) -> None:
    assert expected is load(env={"PENSTOCK_SCHEDULER": text}, directory=tmp_path).settings.scheduler


@pytest.mark.parametrize(
    "env",
    [
        {"PENSTOCK_DRAIN": "soon"},
        {"PENSTOCK_DRAIN": "-1"},
        {"PENSTOCK_DRAIN": "nan"},
        {"PENSTOCK_LOG_LEVEL": "loud"},
        {"PENSTOCK_SCHEDULER": "perhaps"},
        {"PENSTOCK_METRICS_PORT": "http"},
    ],
)
def test_a_wrong_value_names_its_variable(tmp_path: Path, env: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(env))):
        load(env=env, directory=tmp_path)


@pytest.mark.parametrize("content", ["drian = 1", 'drain = "1"', "drain = [", "drain = true"])
def test_a_wrong_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "penstock.toml").write_text(content)

    with pytest.raises(ConfigurationError, match=r"penstock\.toml"):
        load(env={}, directory=tmp_path)


def test_a_missing_file_named_by_hand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        load(env={}, file=tmp_path / "nowhere.toml")


def test_a_command_without_a_broker_says_how_to_name_one() -> None:
    with pytest.raises(ConfigurationError, match="--broker URL, PENSTOCK_BROKER"):
        Settings().required_broker()


def test_the_description_has_every_setting_its_origin_and_no_password(tmp_path: Path) -> None:
    shown = load({"broker": "redis://ann:sesame@host/0"}, env={}, directory=tmp_path).describe()

    assert "sesame" not in shown
    assert 'broker = "redis://ann:***@host/0"' in shown
    assert all(name in shown for name in Settings.__struct_fields__)
    assert "given explicitly" in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:pw@host:1/0", "redis://:***@host:1/0"),
        ("redis://ann:p@ss:w/rd@host", "redis://ann:***@host"),
        ("rediss://host?password=pw&timeout=1", "rediss://host?password=***&timeout=1"),
        ("no route to redis://u:pw@host here", "no route to redis://u:***@host here"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
    ],
)
def test_passwords_of_urls_are_masked(text: str, expected: str) -> None:
    assert expected == mask_url(text)


def test_processes_are_a_count_or_auto_from_every_source(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('processes = "auto"\nmax_memory = 512\n')

    assert "auto" == load(env={}, directory=tmp_path).settings.processes
    assert 512.0 == load(env={}, directory=tmp_path).settings.max_memory
    loaded = load(env={"PENSTOCK_PROCESSES": "4", "PENSTOCK_MAX_JOBS": "1000"}, directory=tmp_path)
    assert (4, 1000) == (loaded.settings.processes, loaded.settings.max_jobs)


@pytest.mark.parametrize(
    ("name", "value"), [("PROCESSES", "0"), ("PROCESSES", "many"), ("MAX_JOBS", "0"), ("MAX_MEMORY", "0")]
)
def test_no_processes_no_jobs_and_no_memory_are_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name.lower()} .environment: PENSTOCK_{name}"):
        load(env={f"PENSTOCK_{name}": value}, directory=tmp_path)
