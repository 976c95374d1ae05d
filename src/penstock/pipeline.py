"""Middleware: one callable protocol, one chain, the same for publishing and for consuming.

A middleware takes the value and the rest of the chain, and returns what the rest returns, or something else of that
type. First in the list is outermost. An empty chain costs nothing: ``compose`` returns the endpoint itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from .message import Envelope
from .outcome import Outcome

In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Middleware(Protocol[In, Out]):
    """One layer of the onion."""

    async def __call__(self, value: In, call_next: Callable[[In], Awaitable[Out]], /) -> Out:
        """Do something before, after or instead of ``await call_next(value)``."""
        ...


ConsumeMiddleware: TypeAlias = Middleware[Envelope[Any], Outcome]


def compose(
    chain: Iterable[Middleware[In, Out]], endpoint: Callable[[In], Awaitable[Out]]
) -> Callable[[In], Awaitable[Out]]:
    """Nest ``chain`` around ``endpoint``, first item outermost."""
    call = endpoint
    for link in reversed(tuple(chain)):
        call = partial(_step, link, call)
    return call


async def _step(link: Middleware[In, Out], call_next: Callable[[In], Awaitable[Out]], value: In) -> Out:
    return await link(value, call_next)
