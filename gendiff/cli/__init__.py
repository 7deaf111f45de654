"""The command line: `gendiff sample | info | calibrate | ...`, and what packages register.

A package registers commands as entry points of gendiff.commands.

    gendiff train images.fashion optimizer.lr=2e-4 --out runs/fashion
    gendiff sample runs/fashion -n 16 label=bag --sampler "Heun(18)" --out samples

A command is an object with `help`, `arguments(parser, words)` and `run(args)`, and perhaps `explain(words)`, printed
under its --help; it is loaded when used. The same program runs as `python -m gendiff` (another package also installs a
command named gendiff on some systems). `words` reads what is asked for, `expressions` objects such as a sampler.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn, Protocol

from gendiff.discovery import load_point, registered
from gendiff.errors import GendiffError, UnknownName, nearest

HELP = ("-h", "--help")


class Command(Protocol):
    """What an entry point of gendiff.commands gives."""

    help: str

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        """Adds the command's arguments; `words` are those it was called with, for arguments that depend on them."""

    def run(self, args: argparse.Namespace) -> None: ...


def command(name: str) -> Command:
    """A command by name, built in or registered.

    Raises:
        UnknownName: With the nearest name.
    """
    from gendiff.cli.commands import BUILT_IN

    if name in BUILT_IN:
        return BUILT_IN[name]
    names = [*BUILT_IN, *registered("commands")]
    if name not in names:
        raise UnknownName("command", name, names)
    return load_point("commands", "command", name)()


def usage() -> str:
    """All commands, a line each."""
    from gendiff.cli.commands import BUILT_IN

    names = [*sorted(registered("commands")), *BUILT_IN]
    lines = [f"  {name:10} {command(name).help}" for name in names]
    return "\n".join(["usage: gendiff COMMAND ...   (gendiff COMMAND --help says more)", "", *lines])


class Parser(argparse.ArgumentParser):
    """A parser that answers a wrong option with the nearest right one."""

    def error(self, message: str) -> NoReturn:
        wrong = message.rpartition("unrecognized arguments: ")[2].split(" ")[0] if "unrecognized" in message else ""
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        super().error(message + (nearest(wrong.partition("=")[0], options) if wrong.startswith("--") else ""))


def tell(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    """A warning as a line for a person, without the place in the code."""
    print(f"{category.__name__}: {message}", file=sys.stderr)


@contextlib.contextmanager
def stopped_by_term() -> Iterator[list[int]]:
    """SIGTERM stops a command as Ctrl-C does, for a while; the list then holds its number. Only the main thread can."""
    got: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        got.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield got
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield got
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, 2 after an error of the user's, told in one line, or 130 where Ctrl-C stopped it, 143
    where SIGTERM did.
    """
    with stopped_by_term() as got:
        status = run(arguments)
    return 128 + got[0] if got and status == 130 else status


def run(arguments: Sequence[str] | None = None) -> int:
    """`main`, but for SIGTERM."""
    from gendiff import __version__

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in (*HELP, "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"gendiff {__version__}")
        return 0
    name, *words = arguments
    try:
        chosen = command(name)
        parser = Parser(prog=f"gendiff {name}", description=chosen.help)
        chosen.arguments(parser, words)
        if any(word in HELP for word in words):
            print(parser.format_help().rstrip())
            explain = getattr(chosen, "explain", None)
            if explain is not None:
                print(f"\n{explain([word for word in words if word not in HELP])}")
            return 0
        with warnings.catch_warnings():
            warnings.showwarning = tell
            line = shlex.join(["gendiff", *arguments])
            chosen.run(parser.parse_intermixed_args(words, argparse.Namespace(command=line)))
    except GendiffError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe, such as `head`, has seen enough
        return 0
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nStopped. {stop}".rstrip(), file=sys.stderr)
        return 130
    return 0
