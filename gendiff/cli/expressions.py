"""Objects from text, written as in Python: `Heun(18, times=PowerGrid(1.1))`, `V`, `(64, 128)`, `2e-4`, `none`.

Literals, and calls of kinds that a config file may name (`gendiff.config.Kinds`), and nothing else: no attribute, no
operator, no function. The `repr` of a solver, schedule or process can be pasted back.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from gendiff.errors import GendiffError, RecipeError, UnknownName, nearest

WORDS: dict[str, Any] = {"none": None, "null": None, "true": True, "false": False, "inf": math.inf, "-inf": -math.inf}
LONGEST = 10_000  # characters


def known_kinds(*packages: ModuleType) -> dict[str, type]:
    """The kinds that may be called, by name: gendiff's, the registered parts, and those of the packages."""
    from gendiff.config import Kinds, core_kinds

    return {kind.__name__: kind for kind in Kinds(*packages).own} | core_kinds()


def parse_object(text: str, known: Mapping[str, type], where: str) -> Any:
    """The value that a text writes; a kind's bare name gives the class itself, and what is no expression is text.

    Args:
        text: From the command line.
        known: The kinds that may be called, by name.
        where: What is being read, for messages.

    Raises:
        UnknownName: For a call of an unknown kind, with the nearest.
        RecipeError: For arguments that the kind does not take.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        tree = ast.parse(text[:LONGEST], mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
    if isinstance(tree, ast.Name):
        return known.get(tree.id, text)
    return _value(tree, text, known, where)


def parse_kind(
    text: str, known: Mapping[str, type], bases: tuple[type, ...], where: str, *, like: object = None
) -> Any:
    """An object of a kind, such as the solver that `Heun(18)` writes.

    Args:
        text: From the command line; a bare name stands for the kind with what it shares with `like`.
        known: The kinds that may be named.
        bases: The interfaces of which it shall be.
        where: What is being read, for messages.
        like: What it takes the place of.

    Raises:
        RecipeError, UnknownName: For a text that is none, with the kinds that are.
    """
    name = text.partition("(")[0].strip()
    if name in known or not name.isidentifier():
        value = parse_object(text, known, where)
        value = similar(value, like, bases, where) if isinstance(value, type) else value
        if isinstance(value, bases):
            return value
    raise UnknownName(where, name, kinds_of(bases, known))


def similar(kind: type, old: object, bases: tuple[type, ...], where: str) -> Any:
    """An object of a kind, with those fields of an old one that the interface of both declares: a solver's steps and
    grid.
    """
    if not issubclass(kind, bases) or not dataclasses.is_dataclass(kind):
        return make(kind, (), {}, where)
    declared = {name for base in bases for b in base.__mro__ for name in vars(b).get("__annotations__", {})}
    fields = {f.name for f in dataclasses.fields(kind) if f.init}
    return make(kind, (), {name: getattr(old, name) for name in declared & fields if hasattr(old, name)}, where)


def kinds_of(base: type | tuple[type, ...], known: Mapping[str, type]) -> list[str]:
    """The names of the known kinds that are a `base` and can be made."""
    return sorted(name for name, kind in known.items() if issubclass(kind, base) and not inspect.isabstract(kind))


def make(kind: type, arguments: tuple[Any, ...], named: Mapping[str, Any], where: str) -> Any:
    """An object of a kind from its arguments; mistakes are told in the words of its fields.

    Raises:
        RecipeError: For too many, unknown or missing arguments, or values that the kind refuses.
    """
    name = kind.__name__
    if inspect.isabstract(kind):
        raise RecipeError(f"{where} got {name}, which is the interface", "one of its kinds")
    if dataclasses.is_dataclass(kind):
        fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
        listed = f"{name}({', '.join(fields)})"
        for key in named:
            if key not in fields:
                raise RecipeError(f"{where}: {name} has no {key!r}", f"It has {listed}.{nearest(key, fields)}")
        said = {*list(fields)[: len(arguments)], *named}
        missing = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
        missing = [key for key in missing if key not in said]
        if len(arguments) > len(fields) or missing:
            got = f"{len(arguments)} values" if not missing else f"nothing for {missing[0]!r}"
            raise RecipeError(f"{where}: {name} got {got}", f"It takes {listed}")
    try:
        return kind(*arguments, **named)
    except GendiffError:
        raise
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RecipeError(f"{where}: {name} refused its values ({error})", "values that fit its fields") from error


def _value(tree: ast.expr, text: str, known: Mapping[str, type], where: str) -> Any:
    match tree:
        case ast.Constant(value=value) if isinstance(value, bool | int | float | str | None):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, text, known, where) for item in items)
        case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
            pairs = zip(keys, values, strict=True)
            return {str(k.value): _value(v, text, known, where) for k, v in pairs if isinstance(k, ast.Constant)}
        case ast.Name(id=name) if name.lower() in WORDS:
            return WORDS[name.lower()]
        case ast.Name(id=name) if name in known:
            return make(known[name], (), {}, where)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=named) if all(k.arg for k in named):
            if name not in known:
                raise UnknownName(f"kind in {where}", name, get_close_matches(name, known, n=6, cutoff=0.4))
            inner = f"{where}: {name}"
            values = tuple(_value(item, text, known, inner) for item in arguments)
            return make(known[name], values, {str(k.arg): _value(k.value, text, known, inner) for k in named}, where)
        case ast.Name(id=name):
            return name
    raise RecipeError(
        f"{where} got {text!r}", "a number, a text, a list, or a kind such as Heun(18, times=PowerGrid(1.1))"
    )
