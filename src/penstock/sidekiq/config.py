"""How a Sidekiq process is set up: queues and capsules, limits, handlers, chains. Seed of everything else here.

One ``Config`` describes a process: it is filled in by code (``configure_server``), a file and the command line, checked
once, and read by the client, the processor and the runner.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from ..app import open_broker
from ..broker import Broker
from ..checks import at_least_one, not_negative, one_of, positive
from ..errors import ConfigurationError
from ..queues import Queues
from .chain import Chain
from .handlers import DeathHandler, ErrorHandler
from .job_logger import LogsJobs
from .strict_args import StrictArgs

if TYPE_CHECKING:
    from .processor import Profiles

Event: TypeAlias = Literal["startup", "quiet", "shutdown", "exit", "heartbeat", "beat"]
EVENTS: tuple[Event, ...] = ("startup", "quiet", "shutdown", "exit", "heartbeat", "beat")

_PROPERTIES = ("concurrency", "queues", "redis")
DEFAULT_URL = "redis://localhost:6379/0"
# What a file may say, by the kind of value; the rest is named in a warning
_SPECIAL = frozenset({"queues", "capsules", "redis", "concurrency"})
_TEXTS = frozenset({"url", "tag"})
_LISTS = frozenset({"labels", "logged_job_attributes", "require"})
_FLAGS = frozenset({"skip_default_job_logging", "verbose"})
_VALUES = frozenset(
    {"timeout", "max_retries", "max_iteration_runtime", "dead_max_jobs", "dead_timeout_in_seconds"}
    | {"strict_args", "timestamps"}
)
# Sidekiq's, and without a meaning here: due jobs are looked for four times a second, a beat comes every five seconds
_NEEDLESS = frozenset({"strict", "heartbeat_interval", "poll_interval_average", "average_scheduled_poll_interval"})


class Capsule:
    """A set of queues with slots of its own."""

    def __init__(
        self, name: str, *, concurrency: int = 5, queues: Sequence[Any] = ("default",), chain: Chain | None = None
    ) -> None:
        self.name = name
        self._common = Chain() if chain is None else chain
        self.own_middleware: Chain | None = None
        self.concurrency = concurrency
        self.queues = Queues(*queues)

    @property
    def server_middleware(self) -> Chain:
        """Around the jobs of this capsule: the process's, as it is now, to be changed by itself from here on."""
        if self.own_middleware is None:
            self.own_middleware = self._common.copy()
        return self.own_middleware

    def check(self) -> None:
        """Raise ``ConfigurationError`` for what cannot be run."""
        at_least_one(f"concurrency of the capsule {self.name!r}", self.concurrency)

    def facts(self) -> dict[str, Any]:
        """As other processes see it."""
        weights = {name: 0 if self.queues.mode == "strict" else n for name, n in self.queues.weights.items()}
        return {"concurrency": self.concurrency, "mode": self.queues.mode, "weights": weights}


class Config:
    """See the module. Times are seconds.

    ``timeout``: what running jobs get at a stop. ``max_retries``: for jobs whose ``retry`` is
    ``True``. ``strict_args``: what happens to arguments that are no JSON.
    ``backtrace_cleaner``: shown each backtrace that a job keeps. ``max_iteration_runtime``: after which an iterable job
    makes room for others. ``timestamps``: see ``SidekiqOptions``. ``profiler``: instead of the usual one, for jobs that ask.
    """

    def __init__(self) -> None:
        self.url: str | None = None
        self.timeout = 25.0
        self.max_retries = 25
        self.dead_max_jobs = 10_000
        self.dead_timeout_in_seconds = 180 * 86_400.0
        self.tag = ""
        self.labels: list[str] = []
        self.environment = "development"
        self.skip_default_job_logging = False
        self.logged_job_attributes: list[str] = ["bid", "tags"]
        self.strict_args: StrictArgs = "raise"
        self.max_iteration_runtime: float | None = None
        self.timestamps: Literal["ms", "float"] = "ms"
        self.backtrace_cleaner: Callable[[list[str]], list[str]] | None = None
        self.error_handlers: list[ErrorHandler] = []
        self.death_handlers: list[DeathHandler] = []
        self.client_middleware = Chain(self)
        self.server_middleware = Chain(self)
        self.capsules: dict[str, Capsule] = {"default": Capsule("default", chain=self.server_middleware)}
        self.job_logger: LogsJobs | None = None
        self.profiler: Profiles | None = None
        self.events: dict[Event, list[Callable[[], Any]]] = {name: [] for name in EVENTS}
        self.require: str | list[str] = []
        self.verbose = False
        self.ignored: list[str] = []
        self._complete = True

    def __setattr__(self, name: str, value: Any) -> None:
        if "_complete" in vars(self) and name not in vars(self) and not hasattr(type(self), name):
            names = [each for each in (*vars(self), *_PROPERTIES) if not each.startswith("_")]
            near = get_close_matches(name, names, 1)
            raise ConfigurationError(
                f"a Config has no {name}{f', did you mean {near[0]}?' if near else ''}; there are {', '.join(sorted(names))}"
            )
        super().__setattr__(name, value)

    # --------------------------------------------------------------------------------------------------------- queues

    @property
    def concurrency(self) -> int:
        """Slots of the default capsule."""
        return self.capsules["default"].concurrency

    @concurrency.setter
    def concurrency(self, slots: int) -> None:
        self.capsules["default"].concurrency = slots

    @property
    def queues(self) -> Queues:
        """Queues of the default capsule."""
        return self.capsules["default"].queues

    @queues.setter
    def queues(self, queues: Sequence[Any] | Queues) -> None:
        self.capsules["default"].queues = queues if isinstance(queues, Queues) else Queues(*queues)

    @property
    def redis(self) -> dict[str, str]:
        """The address, as Sidekiq has it: ``{"url": …}``; may be set to that or to a text."""
        return {"url": self.broker_url.removeprefix("sidekiq+")}

    @redis.setter
    def redis(self, given: Mapping[str, Any] | str) -> None:
        url: Any = given.get("url") if isinstance(given, Mapping) else given
        if url is not None and not isinstance(url, str):
            raise ConfigurationError(f'redis is {{"url": "redis://…"}} or its url alone, got {given!r:.100}')
        self.url = url or None

    def capsule(self, name: str, *, concurrency: int = 1, queues: Sequence[Any] = ("default",)) -> Capsule:
        """Add a capsule, or replace the one of this name."""
        made = self.capsules[name] = Capsule(name, concurrency=concurrency, queues=queues, chain=self.server_middleware)
        return made

    @property
    def total_concurrency(self) -> int:
        """Slots of all capsules."""
        return sum(capsule.concurrency for capsule in self.capsules.values())

    # ------------------------------------------------------------------------------------------------------- handlers

    def on(self, event: Event, call: Callable[[], Any]) -> Callable[[], Any]:
        """Call ``call``, a function or a coroutine function, at an event of the process's life."""
        one_of("event", event, EVENTS)
        if not callable(call):
            raise ConfigurationError(f"on({event!r}) takes something to call, got {call!r:.100}")
        self.events[event].append(call)
        return call

    # --------------------------------------------------------------------------------------------------------- values

    @property
    def broker_url(self) -> str:
        """Where the jobs are, as ``open_broker`` takes it: plain Redis addresses mean Sidekiq's schema."""
        url = self.url or _url_of_environment()
        scheme = url.partition("://")[0]
        plain = scheme in {"redis", "rediss", "unix", "valkey", "valkeys", "redis+sentinel", "valkey+sentinel"}
        return f"sidekiq+{url}" if plain else url

    def update(self, settings: Mapping[str, Any]) -> None:
        """Take settings of a file over. Names that mean nothing here are kept in ``ignored``."""
        for name, value in settings.items():
            if name in _SPECIAL:
                self._special(name, value)
            elif name in _TEXTS:
                setattr(self, name, str(value))
            elif name in _LISTS:
                setattr(self, name, [str(each) for each in _list(name, value)])
            elif name in _FLAGS:
                if not isinstance(value, bool):
                    raise ConfigurationError(f"{name} is true or false, got {value!r:.100}")
                setattr(self, name, value)
            elif name in _VALUES:
                setattr(self, name, value)
            elif name not in _NEEDLESS:
                self.ignored.append(name)

    def _special(self, name: str, value: Any) -> None:
        if name == "queues":
            self.queues = _list(name, value)
        elif name == "redis":
            self.redis = value if not isinstance(value, Mapping) else _unmarked(name, value)
        elif name == "concurrency":
            self.concurrency = value
        else:
            for key, given in _mapping(name, value).items():
                options = _unmarked(f"the capsule {key}", given)
                self.capsule(
                    str(key).removeprefix(":"),
                    concurrency=options.get("concurrency", 1),
                    queues=_list("queues", options.get("queues", ["default"])),
                )

    def check(self) -> None:
        """Raise ``ConfigurationError`` for the first thing that cannot be."""
        for capsule in self.capsules.values():
            capsule.check()
        positive("timeout, in seconds,", self.timeout)
        not_negative("max_retries", self.max_retries)
        if self.max_iteration_runtime is not None:
            positive("max_iteration_runtime, in seconds,", self.max_iteration_runtime)
        at_least_one("dead_max_jobs", self.dead_max_jobs)
        positive("dead_timeout_in_seconds", self.dead_timeout_in_seconds)
        one_of("strict_args", self.strict_args, ("raise", "warn", "none"))
        one_of("timestamps", self.timestamps, ("ms", "float"))

    def process_tag(self) -> str:
        """What a process is called: the tag, else the folder it runs in, of a deployed release that of the application."""
        if self.tag:
            return self.tag
        here = Path.cwd()
        released = here.parent.name == "releases" and here.name.isdecimal()
        return (here.parent.parent if released else here).name


def opened(config: Config) -> Broker[Any]:
    """The broker that a configuration names, not connected yet."""
    url = config.broker_url
    if not url.startswith("sidekiq+"):
        return open_broker(url)
    return open_broker(
        url,
        timestamps=config.timestamps,
        dead_max_jobs=config.dead_max_jobs,
        dead_timeout=float(config.dead_timeout_in_seconds),
    )


def _list(name: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"{name} should be a list, got {value!r:.100}")
    return list(cast("Sequence[Any]", value))


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} should hold names and values, got {value!r:.100}")
    return cast("Mapping[str, Any]", value)


def _unmarked(name: str, value: Any) -> dict[str, Any]:
    """With names as ``url``, where Ruby may write ``:url``."""
    return {str(key).removeprefix(":"): each for key, each in _mapping(name, value).items()}


def _url_of_environment() -> str:
    provider = os.environ.get("REDIS_PROVIDER")
    if provider is None:
        return os.environ.get("REDIS_URL") or DEFAULT_URL
    if ":" in provider:
        raise ConfigurationError(
            "REDIS_PROVIDER should name the variable that holds the address, such as MYREDIS_URL, and not be one"
        )
    return os.environ.get(provider) or DEFAULT_URL
