"""Errors that say what came, what was expected, and the line that fixes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

WORD, LINE = 200, 2000  # letters of a word that a near one is looked for, and of a line that is shown


def nearest(word: object, options: Iterable[object]) -> str:
    """The hint ' Did you mean "x"?' for the option closest to `word` in any case, or the empty string.

    An option that begins with the word, or with which the word begins ("cats" and "cat"), is closer than any other.
    """
    text = str(word)[:WORD].casefold()
    names = {str(option).casefold(): str(option) for option in reversed(list(options))}
    begun = [
        name for name in names if min(len(name), len(text)) > 2 and (name.startswith(text) or text.startswith(name))
    ]
    begun.sort(key=lambda name: abs(len(name) - len(text)))
    match = [n for n in begun if abs(len(n) - len(text)) < 3] or get_close_matches(text, list(names), n=1, cutoff=0.5)
    return f' Did you mean "{names[match[0]]}"?' if match else ""


def printable(text: str, keep: str = "") -> str:
    """The text with every character that a terminal would obey or hide (escape codes, line ends, marks of direction)
    written as a backslash code, but for those in `keep`. Names of files are a stranger's text.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(line: str) -> str:
    """A line without its middle where it is very long: what came may be a text of a million letters."""
    return line if len(line) <= LINE else f"{line[: LINE // 2]} ... {line[-LINE // 3 :]}"


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends in a mark already."""
    text = text.strip()
    return text if not text or text[-1] in '.?!:`"' else text + "."


def joined(got: str, expected: str) -> str:
    """Both as one sentence where `expected` begins in lower case: "x got n=0; expected a positive number"."""
    got, expected = got.strip(), expected.strip()
    if not expected[:1].islower() or not got or (sentence(got) == got and not got.endswith(".")):
        return " ".join(sentence(part) for part in (got, expected) if part)
    says = expected.partition(" ")[0] in ("it", "its", "they", "as", "e.g.", "so", "there")
    return sentence(f"{got.removesuffix('.')}; {'' if says else 'expected '}{expected}")


class GendiffError(Exception):
    """The base of all errors gendiff raises for bad input.

    Args:
        got: What came.
        expected: What was expected instead.
        fix: The line, command or value that mends it; may be empty.
    """

    def __init__(self, got: str, expected: str = "", fix: str = "") -> None:
        self.got, self.expected, self.fix = got, expected, fix
        said = " ".join(part for part in (joined(got, expected), sentence(fix)) if part)
        super().__init__("\n".join(map(shortened, printable(said, keep="\n").split("\n"))))

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


class RequestWarning(UserWarning):
    """What was asked for is done, but hardly what was meant: outside the trained range, nothing to guide, NaN drawn."""


class DataError(GendiffError):
    """Data that is missing, unreadable, empty or not finite."""


class RecipeError(GendiffError):
    """A recipe, option or config key that does not exist or does not fit."""


@dataclass(frozen=True)
class Range:
    """The numbers a field may hold; NaN is in none.

    Args:
        low: The least number.
        high: The largest.
        ends: Which of the two belong to the range: "[]", "[)", "(]" or "()".
        text: What an error calls it, by default "a number in [low, high]".
    """

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"
    text: str = ""

    def __contains__(self, value: object) -> bool:
        if not is_number(value):
            return False
        above = self.low < value or (self.ends[0] == "[" and value == self.low)  # type: ignore[operator]
        return above and (value < self.high or (self.ends[1] == "]" and value == self.high))  # type: ignore[operator]

    def __str__(self) -> str:
        return self.text or f"a number in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


FINITE = Range(ends="()", text="a finite number")
NUMBER = Range(text="a number, infinity allowed")
POSITIVE = Range(0, ends="()", text="a positive number")
POSITIVE_OR_INFINITE = Range(0, ends="(]", text="a positive number, infinity allowed")
NOT_NEGATIVE = Range(0, ends="[)", text="zero or a positive number")
NOT_NEGATIVE_OR_INFINITE = Range(0, text="zero or a positive number, infinity allowed")
SHARE = Range(0, 1)
PROPER_SHARE = Range(0, 1, "()")


def at_least(least: float) -> Range:
    """Finite numbers from `least` on."""
    return Range(least, ends="[)", text=f"a number of at least {least:g}")


def is_number(value: object) -> bool:
    """Whether a value is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check(owner: Any, /, error: type[GendiffError] | None = None, **ranges: Range) -> None:
    """Refuses a dataclass whose fields do not have the kinds that they declare, or hold numbers out of range.

    Args:
        owner: The dataclass; call this in its `__post_init__`.
        ranges: By field. Other numbers must be finite. The numbers of tuples, and of settings by part (a mapping), are
            checked one by one; tensors are not looked into, for that would wait for the device.
        error: What to raise; RecipeError by default.

    Raises:
        GendiffError: For the first field that does not fit: what came, what was expected, and the default.
    """
    from torch.compiler import is_compiling

    if is_compiling():  # what a graph makes anew was made and checked before
        return
    hints = kinds(type(owner))
    for name, hint in hints.items():
        value = getattr(owner, name)
        if not fits(value, hint):
            refuse(owner, name, named(hint), error=error)
        allowed = ranges.get(name, FINITE)
        for number in numbers_in(value):
            if number not in allowed:
                refuse(owner, name, str(allowed), error=error)


@cache
def kinds(owner: type) -> dict[str, Any]:
    """The kinds that the fields of a dataclass declare."""
    try:
        hints = get_type_hints(owner)
    except NameError:  # a name that only type checkers see
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(owner) if field.init}


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of a declared kind: an int is a float, a bool is no number; what cannot be told passes.

    What has all the names of a protocol is of it. A sequence is a tuple or a list, never a string.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (Any, object) or isinstance(hint, TypeVar):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if hint is None or hint is NoneType:
        return value is None
    if hint in (int, float):
        return is_number(value) and (hint is float or isinstance(value, Integral))
    if origin is Literal:
        return value in arguments
    if origin is Annotated:
        return fits(value, arguments[0])
    if origin is tuple and arguments[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(fits, value, arguments))
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in vars(kind) if name == "__call__" or not name.startswith("_"))
    if arguments and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(
            fits(key, arguments[0]) and fits(one, arguments[1]) for key, one in value.items()
        )
    if arguments and issubclass(kind, Iterable):
        return (
            isinstance(value, kind)
            and isinstance(value, tuple | list)
            and all(fits(one, arguments[0]) for one in value)
        )
    return isinstance(value, kind)


def numbers_in(value: object) -> Iterator[object]:
    """The numbers of a field: itself, or those of a tuple or a mapping."""
    if is_number(value):
        yield value
    elif isinstance(value, tuple | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from numbers_in(one)


def named(hint: Any) -> str:
    """A declared kind in words."""
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(named, arguments))
    if origin is tuple:
        return f"a tuple, each {named(arguments[0])}"
    if origin is Mapping and arguments:
        return f"a mapping from names to {named(arguments[1])}"
    return words.get(hint) or f"an instance of {getattr(origin or hint, '__name__', hint)}"


def positive(owner: Any, *names: str, zero: bool = False) -> None:
    """Refuses fields of a dataclass that are no positive, finite numbers; with `zero`, 0 passes.

    Raises:
        RecipeError: For the first such field, with its default.
    """
    allowed = NOT_NEGATIVE if zero else POSITIVE
    for name in names:
        if getattr(owner, name) not in allowed:
            refuse(owner, name, str(allowed))


def rising(owner: Any, low: str, high: str) -> None:
    """Refuses two fields of a dataclass unless 0 < low < high.

    Raises:
        RecipeError: For the first field that is out of order.
    """
    positive(owner, low, high)
    ordered(owner, low, high)


def ordered(owner: Any, low: str, high: str, *, equal: bool = False) -> None:
    """Refuses two fields of a dataclass unless low < high, or with `equal` low <= high.

    Raises:
        RecipeError: For the first field, if they are out of order.
    """
    a, b = getattr(owner, low), getattr(owner, high)
    if not (a < b or (equal and a == b)):
        refuse(owner, low, f"{'at most' if equal else 'less than'} {high}={b!r}")


def refuse(owner: Any, name: str, expected: str, fix: str = "", error: type[GendiffError] | None = None) -> None:
    """Raises RecipeError, or another error, for the value of a field; its default is the fix, unless one is given."""
    kind, fields = type(owner).__name__, {field.name: field for field in dataclasses.fields(owner)}
    field, required = fields[name], [f for f in fields.values() if is_required(f)]
    if not fix and not is_required(field):
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
        fix = f"{kind}({'..., ' if required else ''}{name}={default!r})"
    raise (error or RecipeError)(f"{kind} got {name}={getattr(owner, name)!r}", expected, fix)


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is field.default_factory is dataclasses.MISSING


def whole(kind: str, name: str, value: object, least: int = 1) -> None:
    """Refuses an argument of a function or class that is no whole number of at least `least`.

    Raises:
        RecipeError: With the name of the argument.
    """
    if not isinstance(value, Integral) or value not in at_least(least):
        raise RecipeError(
            f"{kind} got {name}={value!r}", f"a whole number, at least {least}", f"{kind}({name}={least})"
        )


def number(kind: str, name: str, value: object, allowed: Range) -> None:
    """Refuses an argument of a function or class that is outside of a range.

    Raises:
        RecipeError: With the name of the argument.
    """
    if value not in allowed:
        raise RecipeError(f"{kind} got {name}={value!r}", str(allowed))


def named_parts(owner: str, kind: type, parts: Any, named: Mapping[str, Any], fix: str) -> dict[str, Any]:
    """The parts of a bundle, given as a mapping or as keywords.

    Raises:
        RecipeError: For none at all, or one that is not of its kind.
    """
    found = {**parts, **named} if isinstance(parts, Mapping) else named
    if not found or (parts is not None and not isinstance(parts, Mapping)):
        got = "no parts" if parts is None or parts == {} else repr(parts)
        raise RecipeError(f"{owner} got {got}", f"at least one part by name, each a {kind.__name__}", fix)
    for name, part in found.items():
        if not isinstance(part, kind):
            raise RecipeError(f"{owner} got {name}={part!r}", f"an object of the type {kind.__name__}", fix)
    return dict(found)


class CheckpointError(GendiffError):
    """A model file that cannot be loaded: damaged, of another version, or with keys nobody reads."""


class WorkerError(GendiffError):
    """Work that the workers of an executor lose again and again."""


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
