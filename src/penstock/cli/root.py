"""``penstock``: finds the command, runs it, and turns whatever comes out of it into an exit code and one clear line."""

from __future__ import annotations

import os
import sys
import traceback
from asyncio import CancelledError
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import cast

import click

from ..config import mask_url
from ..errors import AccessDenied, ConfigurationError, ConnectionFailed, PenstockError
from ..version import __version__
from . import codes
from .terminal import printable

COMMANDS = {
    "demo": "demo:demo",
    "worker": "worker:worker",
    "sidekiq": "sidekiq:sidekiq",
    "monitor": "monitor:monitor",
    "retry-daemon": "retry_daemon:retry_daemon",
    "stats": "stats:stats",
    "dlq": "dlq:dlq",
    "archive": "archive:archive",
    "pause": "pause:pause",
    "resume": "pause:resume",
    "migrate": "migrate:migrate",
    "doctor": "doctor:doctor",
    "import-gravito": "import_gravito:import_gravito",
    "bench": "bench:bench",
}


class Lazy(click.Group):
    """A group that imports a command when somebody asks for it: a worker does not pay for the demo."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of ``COMMANDS``: as a newcomer would want them."""
        return [name for name in COMMANDS if find_spec(f"{__package__}.{_home(name)[0]}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it; a command of this version that is not installed is not there."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, attribute = _home(cmd_name)
        command = getattr(import_module(f".{module}", __package__), attribute)
        return cast("click.Command", command)


@click.command(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failed, 2 wrong usage or configuration, 3 unhealthy, 130 interrupted.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--config", metavar="FILE", help="Settings file, instead of penstock.toml or [tool.penstock] in pyproject.toml."
)
@click.version_option(__version__, "--version", prog_name="penstock", message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context, debug: bool, config: str | None) -> None:  # noqa: ARG001 run() looks for --debug everywhere
    """Typed background jobs that are never lost."""
    ctx.obj = config


def run(arguments: Sequence[str]) -> int:
    """Run the command in ``arguments``; its exit code."""
    debug = "--debug" in arguments
    arguments = [each for each in arguments if each != "--debug"]  # wherever it stands
    try:
        result = root.main(args=arguments, prog_name="penstock", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return codes.USAGE
    except (click.Abort, KeyboardInterrupt, CancelledError):
        return codes.INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.FAILED
    except Exception as error:  # noqa: BLE001 whatever it is becomes one line and an exit code
        if debug:
            traceback.print_exc()
        else:
            print(f"penstock: {describe(error)}", file=sys.stderr)
        return code_of(error)
    return int(result or 0)


def describe(error: Exception) -> str:
    """An error as one line, without passwords."""
    text = " ".join(printable(mask_url(str(error))).split())
    if isinstance(error, PenstockError):
        return text
    return f"{type(error).__name__}: {text} (penstock --debug … shows where)"


def code_of(error: Exception) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, ConfigurationError):
        return codes.USAGE
    return codes.UNHEALTHY if isinstance(error, ConnectionFailed | AccessDenied) else codes.FAILED


def _home(name: str) -> tuple[str, str]:
    module, _, attribute = COMMANDS[name].partition(":")
    return module, attribute
