"""From what a caller gives to Sidekiq's payload: checked, complete, in Sidekiq's order of fields."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

from ..errors import ArgumentError, ConfigurationError
from ..job import FunctionJob, Job
from ..job_options import RELATIVE_MAX, HasOptions
from ..job_registry import check_name

Payload: TypeAlias = dict[str, Any]

# Said to the client, not to the worker
TRANSIENT: Final = ("pool", "client_class", "batch_size", "spread_interval")


def new_jid() -> str:
    """24 hex digits, as Ruby makes them."""
    return os.urandom(12).hex()


def new_jids(count: int) -> list[str]:
    """Many at once."""
    digits = os.urandom(12 * count).hex()
    return [digits[start : start + 24] for start in range(0, 24 * count, 24)]


def normalised(item: Mapping[str, Any], created_at: float) -> Payload:
    """The payload of an item. Raises ``ArgumentError`` for the first thing that is wrong with it."""
    item = validated(item)
    target = item["class"]
    payload: Payload = {**(Job if isinstance(target, str) else target).sidekiq_options}
    wrapped = item.get("wrapped")
    if isinstance(wrapped, HasOptions):
        payload |= wrapped.sidekiq_options
    payload |= item
    if not _is_name(payload["queue"]):
        raise ArgumentError(
            f"a job must include a valid queue name, a text that is not empty, got {payload['queue']!r}"
        )
    for name in TRANSIENT:
        payload.pop(name, None)
    payload["class"] = _wire_name(target)
    if isinstance(wrapped, HasOptions):
        payload["wrapped"] = wrapped.wire_name
    if payload.get("retry_for"):
        payload["retry_for"] = int(payload["retry_for"])
    if not payload.get("jid"):
        payload["jid"] = new_jid()
    elif not isinstance(payload["jid"], str):
        raise ArgumentError(f"a jid is a text, got {payload['jid']!r}")
    payload.setdefault("created_at", created_at)
    return payload


def validated(item: Any) -> dict[str, Any]:
    """A copy of an item that passes every check, in Sidekiq's order of checks."""
    if not isinstance(item, Mapping) or "class" not in item or "args" not in item:
        raise ArgumentError(f"a job must be a mapping with 'class' and 'args', got {item!r:.100}")
    copy: dict[Any, Any] = {**cast("Any", item)}
    copy["class"] = target = job_of(copy["class"])
    if not isinstance(copy["args"], list):
        raise ArgumentError(f"the args of a job must be a list, got {copy['args']!r:.100}")
    if not isinstance(target, type | str):
        raise ArgumentError(f"the class of a job must be either a class or a text, got {target!r:.100}")
    if "at" in copy and not (_is_number(copy["at"]) and math.isfinite(copy["at"])):
        raise ArgumentError(f"'at' of a job must be a numeric timestamp, in seconds, got {copy['at']!r}")
    if copy.get("tags") and not isinstance(copy["tags"], list):
        raise ArgumentError(f"the tags of a job must be a list, got {copy['tags']!r:.100}")
    _check_retry_for(copy.get("retry_for"))
    if not isinstance(target, str) and not isinstance(target, HasOptions):
        raise ArgumentError(f"a job must include a class of jobs, a subclass of penstock.job.Job, got {target!r}")
    if isinstance(target, str):
        _check_name(target)
    if wrong := [key for key in copy if type(key) is not str]:
        raise ArgumentError(f"a payload should contain no keys but texts, got {wrong[0]!r}")
    return copy


def sound(payload: Payload) -> Payload:
    """What a middleware has made of a payload, if it is one still. Raises ``ArgumentError``."""
    name, queue, args = (payload.get(each) for each in ("class", "queue", "args"))
    if not (_is_name(name) and _is_name(queue) and isinstance(args, list)):
        raise ArgumentError(
            "what a middleware returns for a job must have a class and a queue, which are texts, and args, a list;"
            f" got {payload!r:.200}"
        )
    return payload


def job_of(target: Any) -> Any:
    """The class behind a function job; anything else as it is."""
    return cast("Any", target).job if isinstance(target, FunctionJob) else target


def _check_retry_for(value: Any) -> None:
    if value is not None and (not _is_number(value) or not 0 <= value <= RELATIVE_MAX):
        raise ArgumentError(f"retry_for must be a relative amount of time, in seconds, of at most 1e9, got {value!r}")


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except ConfigurationError as wrong:
        raise ArgumentError(f"the class of a job: {wrong}") from wrong


def _wire_name(target: str | HasOptions) -> str:
    return target if isinstance(target, str) else target.wire_name


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
