"""Objects to JSON and back, without pickle: what a model file and a recipe file hold.

A frozen dataclass becomes {"kind": class name, field: value, ...}; tuples become lists; `Joint`, `Product` and `Heads`
hold their parts. Reading is strict: a key that no field takes is an error that offers the nearest one, and a kind is
looked up in gendiff and in the domain's own package only, so a file can name no other code.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import typing
from collections.abc import Mapping
from types import ModuleType, UnionType
from typing import Any

from gendiff.denoisers import Heads
from gendiff.errors import RecipeError, UnknownName, nearest
from gendiff.processes import Joint
from gendiff.spaces import Product, Space

CORE = (
    "spaces", "processes", "processes.schedules", "denoisers", "sampling", "sampling.grids", "sampling.solvers",
    "guidance", "training",
)  # fmt: skip
BUNDLES = {"Joint": Joint, "Product": Product, "Heads": Heads}


def to_config(value: Any) -> Any:
    """JSON-able form of a frozen dataclass, a bundle, or a plain value.

    Raises:
        RecipeError: For a value that has none.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value).__name__ in BUNDLES:
        return {"kind": type(value).__name__, "parts": {k: to_config(v) for k, v in value.parts.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        skip = ("mask",) if isinstance(value, Space) else ()
        fields = {
            f.name: to_config(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name not in skip and f.init
        }
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(k): to_config(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_config(v) for v in value]
    raise RecipeError(
        f"A config holds {value!r} of type {type(value).__name__}",
        "numbers, strings, lists, dicts or frozen dataclasses",
    )


def kinds(*packages: ModuleType) -> dict[str, type]:
    """Every dataclass and bundle that a config may name: gendiff's own, and those the given packages define."""
    found: dict[str, type] = dict(BUNDLES)
    modules = [importlib.import_module(f"gendiff.{name}") for name in CORE]
    for package in packages:
        modules += [
            m
            for name, m in list(sys.modules.items())
            if name == package.__name__ or name.startswith(package.__name__ + ".")
        ]
    for module in modules:
        for name, item in vars(module).items():
            if isinstance(item, type) and dataclasses.is_dataclass(item):
                found.setdefault(name, item)
    return found


def from_config(data: Any, *packages: ModuleType, where: str = "config", means: type | None = None) -> Any:
    """The object that `to_config` described.

    Args:
        data: Parsed JSON.
        packages: Packages beside gendiff whose dataclasses may be named.
        where: What is being read, for messages.
        means: A class that is meant by its name, whatever else has it.

    Raises:
        RecipeError: For a key that nobody reads, with the nearest name.
        UnknownName: For an unknown kind.
    """
    known = kinds(*packages)
    return build(data, known if means is None else {**known, means.__name__: means}, where)


def build(data: Any, known: Mapping[str, type], where: str) -> Any:
    """`from_config` with the kinds already found."""
    if isinstance(data, list):
        return tuple(build(v, known, where) for v in data)
    if not isinstance(data, Mapping):
        return data
    if "kind" not in data:
        return {k: build(v, known, f"{where}.{k}") for k, v in data.items()}
    kind, rest = data["kind"], {k: v for k, v in data.items() if k != "kind"}
    if kind not in known:
        raise UnknownName(f"kind in {where}", kind, known)
    if kind in BUNDLES:
        unread(rest, ["parts"], f"{where} ({kind})")
        complete(rest, ["parts"], f"{where} ({kind})")
        return BUNDLES[kind]({k: build(v, known, f"{where}.{k}") for k, v in rest["parts"].items()})
    cls = known[kind]
    fields = [f for f in dataclasses.fields(cls) if f.init]
    unread(rest, [f.name for f in fields], f"{where} ({kind})")
    missing = dataclasses.MISSING
    require_noise = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    complete(rest, require_noise, f"{where} ({kind})")
    return cls(**{k: build(v, known, f"{where}.{k}") for k, v in rest.items()})


def unread(data: Mapping[str, Any], fields: list[str], where: str) -> None:
    """Raises RecipeError for the first key that is no field."""
    for key in data:
        if key not in fields:
            raise RecipeError(f"{where} has no {key!r}", f"It has {', '.join(fields)}.{nearest(key, fields)}")


def complete(data: Mapping[str, Any], fields: list[str], where: str) -> None:
    """Raises RecipeError for the first field that the data lack."""
    for name in fields:
        if name not in data:
            raise RecipeError(f"{where} lacks {name!r}", f"It has {', '.join(data) or 'nothing'}")


def override(value: Any, path: str, text: str, where: str) -> Any:
    """A dataclass (or dict) with one nested field replaced by a value parsed from text.

    Raises:
        RecipeError: For an unknown field, with the nearest, or text that does not fit the field's type.
    """
    key, _, rest = path.partition(".")
    if isinstance(value, Mapping):
        if rest and key in value:
            return {**value, key: override(value[key], rest, text, f"{where}.{key}")}
        if key not in value:
            raise RecipeError(f"{where} has no {key!r}", f"It has {', '.join(map(str, value))}.{nearest(key, value)}")
        return {**value, key: parse(text, type(value[key]), value[key], f"{where}.{key}")}
    names = [f.name for f in dataclasses.fields(value)]
    if key not in names:
        raise RecipeError(f"{where} has no {key!r}", f"It has {', '.join(names)}.{nearest(key, names)}")
    old = getattr(value, key)
    if rest:
        return dataclasses.replace(value, **{key: override(old, rest, text, f"{where}.{key}")})
    hint = typing.get_type_hints(type(value)).get(key, type(old))
    return dataclasses.replace(value, **{key: parse(text, hint, old, f"{where}.{key}")})


def parse(text: str, hint: Any, old: Any, where: str) -> Any:
    """Text as a bool, int, float, str, tuple or None, by the field's type."""
    import ast

    options = (
        typing.get_args(hint) if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    )
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    if text.lower() in ("true", "false") and bool in options:
        return text.lower() == "true"
    if str in options:
        return text.strip("'\"")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise RecipeError(f"{where} got {text!r}", f"a value like {old!r}") from error
    if isinstance(value, list):
        value = tuple(value)
    origin = tuple(typing.get_origin(option) or option for option in options)
    if float in origin and isinstance(value, int) and not isinstance(value, bool) and int not in origin:
        value = float(value)
    plain = tuple(o for o in origin if isinstance(o, type))
    if plain and (not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain)):
        raise RecipeError(f"{where} got {text!r}", f"a value like {old!r}")
    return value
