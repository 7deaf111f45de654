"""Errors that say what came, what was expected, and the line that fixes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def nearest(word: object, options: Iterable[object]) -> str:
    """The hint ' Did you mean "x"?' for the option closest to `word`, or the empty string."""
    names = [str(option) for option in options]
    match = get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f' Did you mean "{match[0]}"?' if match else ""


def printable(text: str, keep: str = "") -> str:
    """The text with every character that a terminal would obey or hide (escape codes, line ends, marks of direction)
    written as a backslash code, but for those in `keep`. Names of files are a stranger's text.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends in a mark already."""
    text = text.strip()
    return text if not text or text[-1] in '.?!:`"' else text + "."


class GendiffError(Exception):
    """The base of all errors gendiff raises for bad input.

    Args:
        got: What came.
        expected: What was expected instead.
        fix: The line, command or value that mends it; may be empty.
    """

    def __init__(self, got: str, expected: str = "", fix: str = "") -> None:
        self.got, self.expected, self.fix = got, expected, fix
        super().__init__(printable(" ".join(sentence(part) for part in (got, expected, fix) if part), keep="\n"))

    def __reduce__(self) -> tuple[type[GendiffError], tuple[str, str, str]]:
        return type(self), (self.got, self.expected, self.fix)


class UnknownName(GendiffError):
    """A name that nobody registered; the message offers the nearest one."""

    def __init__(self, kind: str, name: object, options: Iterable[object] = (), fix: str = "") -> None:
        known = sorted(str(option) for option in options)
        self.kind, self.name, self.options = kind, name, known
        listed = ", ".join(known) if known else "none is registered"
        super().__init__(f"There is no {kind} {name!r}", f"Known: {listed}.{nearest(name, known)}", fix)

    def __reduce__(self) -> tuple[type[GendiffError], tuple]:
        return type(self), (self.kind, self.name, self.options, self.fix)


class RequestError(GendiffError):
    """A request for samples that the domain cannot answer."""


class DataError(GendiffError):
    """Data that is missing, unreadable, empty or not finite."""


class RecipeError(GendiffError):
    """A recipe, option or config key that does not exist or does not fit."""


def positive(owner: Any, *names: str, zero: bool = False) -> None:
    """Refuses fields of a dataclass that are no positive, finite numbers; with `zero`, 0 passes.

    Raises:
        RecipeError: For the first such field, with its default.
    """
    for name in names:
        value = getattr(owner, name)
        if not (0 < value < math.inf or (zero and value == 0)):
            refuse(owner, name, "zero or a positive number" if zero else "a positive number")


def rising(owner: Any, low: str, high: str) -> None:
    """Refuses two fields of a dataclass unless 0 < low < high.

    Raises:
        RecipeError: For the first field that is out of order.
    """
    positive(owner, low, high)
    if not getattr(owner, low) < getattr(owner, high):
        refuse(owner, low, f"less than {high}={getattr(owner, high)!r}")


def refuse(owner: Any, name: str, expected: str, fix: str = "") -> None:
    """Raises RecipeError for the value of a dataclass's field; its default is the fix, unless another is given."""
    kind, fields = type(owner).__name__, {field.name: field for field in dataclasses.fields(owner)}
    required = [f for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    if not fix and fields[name] not in required:
        fix = f"{kind}({'..., ' if required else ''}{name}={fields[name].default!r})"
    raise RecipeError(f"{kind} got {name}={getattr(owner, name)!r}", expected, fix)


class CheckpointError(GendiffError):
    """A model file that cannot be loaded: damaged, of another version, or with keys nobody reads."""


class SamplerError(GendiffError):
    """A sampler, grid, head and process that do not fit together."""


class MissingExtra(GendiffError):
    """A package of an optional extra that is not installed."""

    def __init__(self, needs: str, package: str, extra: str) -> None:
        self.arguments = (needs, package, extra)
        super().__init__(
            f"{needs} needs the package {package}", "it is not installed", f'pip install "gendiff[{extra}]"'
        )

    def __reduce__(self) -> tuple[type[GendiffError], tuple]:
        return type(self), self.arguments
