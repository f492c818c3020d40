"""The command line: ``python -m tim_trio``.

One module per group of commands; `runner` runs a command's Trio part and
turns whatever goes wrong into one line and an exit code.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from tim_trio._version import __version__
from tim_trio.cli.exit_codes import INTERRUPTED, PIPE_CLOSED

PROGRAM: Final = "tim_trio"
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


#: Modules by command. Only the one that is asked for is loaded: a server needs nothing of
#: the client library, which would be a third of its start.
_COMMANDS: Final = {
    "account": "account",
    "ban": "ban",
    "cluster": "cluster",
    "config": "serve",
    "contact": "contact",
    "message": "message",
    "push": "push",
    "receive": "receive",
    "room": "room",
    "send": "send",
    "serve": "serve",
    "status": "status",
    "token": "signed_token",
    "version": "serve",
    "watch": "watch",
}


class _Program(click.Group):
    """Without a command, or with an option in its place, serve."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(
            importlib.import_module(f"tim_trio.cli.{module}"), cmd_name
        )
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for option in self.get_params(ctx) for name in option.opts}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Here, for click would make it exit code 1.
            _give_up_output()
            return PIPE_CLOSED
        except OSError as error:
            # Such as a full disk under standard output.
            _give_up_output()
            raise click.ClickException(_what_failed(error)) from error
        return result


def _give_up_output() -> None:
    """Let Python, which flushes once more at exit, find a file to do it to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _what_failed(error: OSError) -> str:
    why = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {why}" if error.filename else why


@click.group(cls=_Program, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """A relay for live streams. Without a command it serves.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 the
    reader of standard output has gone; `watch --help` lists its own.
    """


def main() -> None:
    """Run the command line and exit."""
    _open_standard_streams()
    sys.exit(_run())


def _open_standard_streams() -> None:
    """Put nothing in the place of standard streams that are closed (``<&-``).

    Else the next socket would be standard output.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def _run() -> int:
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        message = error.format_message()
        if message.startswith("Usage:"):
            click.echo(message, err=True)  # a group without a command: its help
            return error.exit_code
        path = error.ctx.command_path if error.ctx is not None else PROGRAM
        _complain(f"{_plainly(message)} (see `{path} --help`)")
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _plainly(text: str) -> str:
    """Return a complaint of click's about a number in words for anyone."""
    for theirs, ours in (("integer", "whole number"), ("float", "number")):
        text = text.replace(f"is not a valid {theirs} range.", f"is not a {ours}.")
        text = text.replace(f"is not a valid {theirs}.", f"is not a {ours}.")
    return text


def _complain(text: str) -> None:
    """Write one line for a person, whatever the text holds."""
    click.echo(f"error: {' '.join(text.split())}", err=True)
