"""Codecs, and which one a payload type gets when none is named."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from ..codec import Codec

T = TypeVar("T")


def codec_for(payload_type: type[T] | Any) -> Codec[Any]:
    """JSON by pydantic for pydantic models and what contains them, JSON by msgspec for everything else."""
    if _is_pydantic(payload_type):
        from .pydantic import PydanticCodec

        return PydanticCodec(payload_type)
    from .json import JsonCodec

    return JsonCodec(payload_type)


def _is_pydantic(payload_type: Any) -> bool:
    if hasattr(payload_type, "__pydantic_validator__"):
        return True
    return any(_is_pydantic(part) for part in get_args(payload_type))
