"""Names of queues, and the routing keys of the ladder of delays.

The ``*`` of a pattern is ``+`` in names. ``emails@workers`` is the queue of group ``workers`` of ``emails``. ``emails@@dead``, ``emails@@backlog`` (published
while there was no group) and ``emails@@due`` (delayed messages whose time has come) belong to the source, as do the
steps of its ladder: ``emails@@delay-00`` keeps what is in it for 25 ms, each further step twice as long.

A delay is a number of 25 ms ticks in binary. Its routing key has a word for each bit, highest first, then two words
that say where to: ``0.1.0.….emails.workers``. A message enters the exchange of its highest step and falls through the
exchanges ``penstock.delay-NN``: into the step's queue where the bit is 1, straight on where it is 0. Longer delays
than all bits can say begin with laps of the length of the highest step.
"""

from __future__ import annotations

import re

from ...errors import ConfigurationError

TICK = 0.025  # seconds
BITS = 28
LAP = 2 ** (BITS - 1)  # ticks: 38.8 days, the most that the server takes as a queue's time to live
LAPS = 93
MAX_DELAY = float((LAPS - 1) * LAP) * TICK  # ten years, almost

END = "penstock.delay-end"
UNROUTED = "penstock.unrouted"
DUE = "@due"
LEGAL = re.compile(r"[A-Za-z0-9_.:,/ -][A-Za-z0-9_.:,/ #*-]*")  # what client libraries take as names of queues
LONGEST = 180  # bytes of source and group together: bits, words and all must fit in a routing key of 255


def step_exchange(step: int) -> str:
    return f"penstock.delay-{step:02}" if step >= 0 else END


def group_queue(source: str, group: str) -> str:
    return f"{source}@{group}".replace("*", "+")


def beside(source: str, role: str) -> str:
    return f"{source}@@{role}".replace("*", "+")


def step_queue(source: str, step: int) -> str:
    return beside(source, f"delay-{step:02}")


def check(source: str, group: str = "x") -> None:
    """Names that fit into queue names and routing keys; raises ``ConfigurationError``.

    A source may be a pattern of a topic exchange: ``orders.*``, ``orders.#``.
    """
    pattern = source[:1] in {"*", "#"}
    legal = LEGAL.fullmatch("." + source if pattern else source) and LEGAL.fullmatch(group)
    if not legal or source.startswith("amq.") or len(word(source)) + len(word(group)) > LONGEST:
        raise ConfigurationError(
            "on RabbitMQ a queue and a group have names of letters, digits and _ - . : , / or spaces, not beginning with"
            f" amq., and of at most {LONGEST} bytes together; got {source!r:.200} and {group!r:.200}"
        )


def word(name: str) -> str:
    """One word of a routing key: what separates words and what stands for others is escaped."""
    for char in "%.*#":
        name = name.replace(char, f"%{ord(char):02X}")
    return name


def steps(delay: float) -> list[int]:
    """The steps a message takes that is to wait this long, highest first; never less than asked for."""
    ticks = -int(-delay / TICK // 1)
    laps = max(0, ticks // LAP - 1)
    ticks -= laps * LAP
    above = list(range(BITS + laps - 1, BITS - 1, -1))
    return above + [bit for bit in range(BITS - 1, -1, -1) if ticks >> bit & 1]


def delay_key(chosen: list[int], source: str, target: str) -> str:
    """The routing key of a message that takes these steps."""
    bits = ".".join("1" if bit in chosen else "0" for bit in range(BITS - 1, -1, -1))
    return f"{bits}.{word(source)}.{target if target == DUE else word(target)}"


def step_pattern(step: int, source: str) -> str:
    """What falls into a step's queue."""
    if step >= BITS:
        return f"#.{word(source)}.*"
    return f"{'*.' * (BITS - 1 - step)}1.{'*.' * step}{word(source)}.*"


def pass_pattern(step: int) -> str:
    """What goes past a step."""
    return f"{'*.' * (BITS - 1 - step)}0.#"


def end_pattern(source: str, target: str) -> str:
    """What has come to the end of the ladder and is for ``target``."""
    return f"#.{word(source)}.{target if target == DUE else word(target)}"
