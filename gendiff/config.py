"""Objects to JSON and back, without pickle: what a model file and a recipe file hold.

A frozen dataclass becomes {"kind": class name, field: value, ...}; tuples become lists; `Joint`, `Product` and `Heads`
hold their parts; {"kind": MyNet, "width": 64} names a network's class and what it is built with. Reading is strict: a
key that no field takes is an error that offers the nearest one, a value fits the type that its field declares, and a
kind is looked up in gendiff, in the domain's own package and among the registered parts only, so a file can name no
other code. A class of another package that shares its name with one of gendiff's is written with its module before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gendiff.denoisers import Head, Heads
from gendiff.discovery import domain_class, is_part, is_record, parts_of_packages, registered, registered_parts
from gendiff.errors import GendiffError, RecipeError, UnknownName, fits, nearest
from gendiff.processes import Joint, Process
from gendiff.spaces import Product, Space

CORE = (
    "spaces", "processes", "processes.schedules", "denoisers", "sampling", "sampling.grids", "sampling.solvers",
    "guidance", "training", "conditions", "latents",
)  # fmt: skip
BUNDLES: dict[str, tuple[type, type]] = {"Joint": (Joint, Process), "Product": (Product, Space), "Heads": (Heads, Head)}
LONGEST, DEEPEST, LARGEST = 4 * 2**20, 64, 2**63  # characters of a config, its nesting, and its integers
LONGEST_NAME = 200
TABLE = "dict"
"""The kind of a table that has a name "kind" itself."""


def to_config(value: Any) -> Any:
    """JSON-able form of a frozen dataclass, a bundle, a network's class, or a plain value.

    Raises:
        RecipeError: For a value that has none.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value).__name__ in BUNDLES and type(value) is BUNDLES[type(value).__name__][0]:
        return {"kind": type(value).__name__, "parts": {k: to_config(v) for k, v in value.parts.items()}}
    if not isinstance(value, type) and is_record(type(value)):
        skip = ("mask",) if isinstance(value, Space) else ()
        fields = {
            f.name: to_config(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name not in skip and f.init
        }
        return {"kind": kind_name(type(value)), **fields}
    if isinstance(value, type) and issubclass(value, nn.Module):
        return kind_name(value)
    if isinstance(value, Mapping):
        written = value.get("kind") == TABLE and isinstance(
            value.get("items"), Mapping
        )  # a config's config is the same
        items = {str(k): to_config(v) for k, v in (value["items"] if written else value).items()}
        named = not written and isinstance(
            value.get("kind", ""), str | type
        )  # else it is a name in the table, a condition's say
        return items if named else {"kind": TABLE, "items": items}
    if isinstance(value, list | tuple):
        return [to_config(v) for v in value]
    name = type(value).__name__
    if isinstance(value, nn.Module):
        fix = f'network={{"kind": {name}, ...}} with the arguments that it is built with'
    elif type(value).__module__.partition(".")[0] in ("builtins", "torch", "numpy"):
        fix = ""
    else:
        fix = f"@dataclass(frozen=True) above class {name}, with all that it needs as fields"
    raise RecipeError(
        f"A config holds {value!r} of type {name}", "numbers, strings, lists, dicts or frozen dataclasses", fix
    )


@functools.cache
def core_kinds() -> dict[str, type]:
    """Every dataclass and bundle of gendiff that a config may name, and its networks."""
    found: dict[str, type] = {name: bundle for name, (bundle, _) in BUNDLES.items()}
    for module in (importlib.import_module(f"gendiff.{name}") for name in CORE):
        found.update({k: v for k, v in vars(module).items() if isinstance(v, type) and dataclasses.is_dataclass(v)})
    networks = importlib.import_module("gendiff.nn")
    return {k: v for k, v in vars(networks).items() if isinstance(v, type) and issubclass(v, nn.Module)} | found


def kind_name(cls: type) -> str:
    """What a config calls a class: its name, with its module where gendiff has another class of this name."""
    own = core_kinds().get(cls.__name__, cls)
    return cls.__name__ if own is cls else f"{cls.__module__}.{cls.__qualname__}"


def parts_in(package: str) -> list[type]:
    """The dataclasses and networks of a package, as far as it is imported."""
    modules = [m for name, m in list(sys.modules.items()) if name == package or name.startswith(package + ".")]
    return [item for m in modules for item in vars(m).values() if is_part(item)]


def parts_of_domains() -> list[type]:
    """The dataclasses and networks of all installed domains, for a config that names another domain; loads them."""
    found: list[type] = []
    for name in registered("domains"):
        with contextlib.suppress(GendiffError):  # one whose packages are missing has nothing to give
            package = domain_class(name).__module__.partition(".")[0]
            found += parts_in(package) if package != "gendiff" else []  # of which `core_kinds` says what may be named
    return found


class Kinds:
    """The classes that a config may name.

    Args:
        packages: Whose dataclasses and networks are known beside gendiff's, as far as they are imported.
        parts: More classes, as `gendiff.load` is given them; those of `gendiff.register` and of the entry points
            gendiff.parts are known always.
    """

    def __init__(self, *packages: ModuleType, parts: Sequence[type] = ()) -> None:
        self.parts = tuple(parts)
        self.own = [*parts, *registered_parts()]
        for package in packages:
            self.own += parts_in(package.__name__) if package.__name__ != "gendiff" else []

    def find(self, kind: Any, where: str) -> type:
        """The class of this name.

        Raises:
            UnknownName: For a name that nobody has.
            RecipeError: For one that two classes have.
        """
        core = core_kinds()
        check_name(kind, f"the kind in {where}")
        if kind in core:
            return core[kind]
        name = kind.rpartition(".")[2]
        found = list(dict.fromkeys(cls for cls in self.own if cls.__name__ == name and cls is not core.get(name)))
        for more in (parts_of_packages, parts_of_domains):
            found = found or list(dict.fromkeys(cls for cls in more() if cls.__name__ == name))
        exact = [cls for cls in found if f"{cls.__module__}.{cls.__qualname__}" == kind]
        if len(exact or found) > 1:
            both = " and ".join(f"{cls.__module__}.{cls.__qualname__}" for cls in found)
            raise RecipeError(f"The kind {kind!r} in {where} means {both}", "one class of a name", "Rename one of them")
        if found:
            return (exact or found)[0]
        raise UnknownName(
            f"kind in {where}", kind, {*core, *(cls.__name__ for cls in self.own)},
            f"If {name} is a class of yours: gendiff.load(path, parts=[{name}]), or @gendiff.register above the class"
            if name.isidentifier() else "",
        )  # fmt: skip


def check_name(value: Any, where: str) -> None:
    """Raises RecipeError for what is no name: another type, or far too long."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise RecipeError(f"{where} is {value!r:.80}", "a name")


def classes_in(value: Any) -> Iterator[type]:
    """The classes that the config of a value names, in order."""
    if isinstance(value, type):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from classes_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from classes_in(item)
    elif hasattr(value, "parts") and type(value) in [bundle for bundle, _ in BUNDLES.values()]:
        yield from (type(value), *classes_in(value.parts))
    elif dataclasses.is_dataclass(value):
        yield type(value)
        for field in dataclasses.fields(value):
            yield from classes_in(getattr(value, field.name)) if field.init else ()


def parse_json(text: str, where: str, longest: int = LONGEST) -> Any:
    """JSON from a file that may be hostile, as plain values.

    Raises:
        RecipeError: For text that is no JSON, is too long or nested too deeply, says a key twice, or holds an integer
            of more than 64 bits.
    """

    def integer(digits: str) -> int:
        if len(digits) > 20 or not -LARGEST <= int(digits) < LARGEST:
            raise RecipeError(f"{where} holds an integer of {len(digits)} digits", "integers of at most 64 bits")
        return int(digits)

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            raise RecipeError(f"{where} says a key twice", f"each of {', '.join(list(out)[:8])} once")
        return out

    if len(text) > longest:
        raise RecipeError(f"{where} is {len(text):,} characters long", f"at most {longest:,}")
    try:
        data = json.loads(text, parse_int=integer, object_pairs_hook=table)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{where} is not JSON ({error})", "an undamaged file") from error
    except RecursionError as error:
        raise RecipeError(f"{where} is nested too deeply", f"at most {DEEPEST} levels") from error
    level, depth = [data], 0
    while level:
        level = [v for x in level if isinstance(x, dict | list) for v in (x.values() if isinstance(x, dict) else x)]
        depth += 1
        if depth > DEEPEST:
            raise RecipeError(f"{where} is nested too deeply", f"at most {DEEPEST} levels")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The table of a JSON file that may be damaged or a stranger's.

    Raises:
        RecipeError: For what is no text, or as `parse_json` does.
    """
    try:
        text = path.read_text(encoding="utf8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not text ({error.reason})", "a JSON file that gendiff wrote") from error
    data = parse_json(text, str(path))
    check_type(data, Mapping, str(path))
    return data


def from_config(
    data: Any,
    *packages: ModuleType,
    where: str = "config",
    means: type | None = None,
    kinds: Kinds | None = None,
    hint: Any = Any,
) -> Any:
    """The object that `to_config` described.

    Args:
        data: Parsed JSON.
        packages: Packages beside gendiff whose dataclasses may be named.
        where: What is being read, for messages.
        means: The class that the outermost kind means, whatever else has its name.
        kinds: The classes that may be named, instead of gendiff's and those of the packages.
        hint: The type that the object must have.

    Raises:
        RecipeError: For a key that nobody reads, with the nearest name, or a value that does not fit.
        UnknownName: For an unknown kind.
    """
    value = build(data, kinds or Kinds(*packages), where, means)
    check_type(value, hint, where)
    return value


def build(data: Any, kinds: Kinds, where: str, means: type | None = None, infinite: bool = False) -> Any:
    """`from_config` with the kinds already found; `infinite` admits infinite numbers."""
    if isinstance(data, list):
        return tuple(build(v, kinds, where, infinite=infinite) for v in data)
    if isinstance(data, float) and not (math.isfinite(data) or (infinite and not math.isnan(data))):
        raise RecipeError(f"{where} is {data}", "a finite number")
    if not isinstance(data, Mapping):
        return data
    if "kind" not in data:
        return {k: build(v, kinds, f"{where}.{k}", infinite=infinite) for k, v in data.items()}
    if data["kind"] == TABLE:
        unread(data, ["kind", "items"], where)
        complete(data, ["items"], where)
        check_type(data["items"], Mapping, f"{where}.items")
        return {k: build(v, kinds, f"{where}.{k}", infinite=infinite) for k, v in data["items"].items()}
    cls = means or kinds.find(data["kind"], where)
    kind, rest = cls.__name__, {k: v for k, v in data.items() if k != "kind"}
    named = f"{where} ({kind})"
    if kind in BUNDLES and cls is BUNDLES[kind][0]:
        unread(rest, ["parts"], named)
        complete(rest, ["parts"], named)
        check_type(rest["parts"], Mapping, f"{where}.parts")
        parts = {k: build(v, kinds, f"{where}.{k}") for k, v in rest["parts"].items()}
        check_type(parts, Mapping[str, BUNDLES[kind][1]], f"{where}.parts")
        return made(cls, (parts,), {}, named)
    if issubclass(cls, nn.Module):
        return {"kind": cls, **{k: build(v, kinds, f"{where}.{k}") for k, v in rest.items()}}
    missing = dataclasses.MISSING
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    unread(rest, list(fields), named)
    complete(rest, [k for k, f in fields.items() if f.default is missing and f.default_factory is missing], named)
    hints, values = field_types(cls), {}
    for name, item in rest.items():
        default = fields[name].default
        open_ended = isinstance(default, float) and math.isinf(default)
        values[name] = build(item, kinds, f"{where}.{name}", infinite=open_ended)
        check_type(values[name], hints.get(name, Any), f"{where}.{name}")
    return made(cls, (), values, named)


def made(cls: type, args: tuple[Any, ...], fields: Mapping[str, Any], where: str) -> Any:
    """cls(*args, **fields); whatever its constructor raises becomes an error of the config.

    Raises:
        GendiffError: The class's own, or a RecipeError with what it raised.
    """
    try:
        return cls(*args, **fields)
    except GendiffError:
        raise
    except Exception as error:
        raise RecipeError(f"{where} cannot be made ({type(error).__name__}: {error})", "values that fit") from error


@functools.lru_cache(maxsize=512)
def field_types(cls: type) -> dict[str, Any]:
    """The declared type of each field, `Any` where an annotation names what only a type checker imports."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names = vars(sys.modules.get(base.__module__, types.ModuleType("gone")))
        for name, text in vars(base).get("__annotations__", {}).items():
            try:
                found[name] = typing.get_type_hints(types.SimpleNamespace(__annotations__={name: text}), names)[name]
            except (NameError, TypeError, AttributeError, SyntaxError):
                found[name] = Any
    return found


def check_type(value: Any, hint: Any, where: str) -> None:
    """Raises RecipeError unless the value has the declared type."""
    if not fits(value, hint):
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise RecipeError(f"{where} is {value!r:.200}", f"a value of type {wanted}")


def unread(data: Mapping[str, Any], fields: list[str], where: str) -> None:
    """Raises RecipeError for the first key that is no field."""
    for key in data:
        if key not in fields:
            check_name(key, f"A key of {where}")
            raise RecipeError(f"{where} has no {key!r}", f"It has {', '.join(fields)}.{nearest(key, fields)}")


def complete(data: Mapping[str, Any], fields: list[str], where: str) -> None:
    """Raises RecipeError for the first field that the data lack."""
    for name in fields:
        if name not in data:
            raise RecipeError(f"{where} lacks {name!r}", f"It has {', '.join(list(data)[:20]) or 'nothing'}"[:400])
