"""What can be said of a recipe by `path=value`: every field by its name, every kind that fits a slot, what it is now.

    head=V   process=VP   process.schedule=VP   sampler=Heun   sampler.steps=18   sampler="Heun(18, times=Karras())"
    network.channels=64,128   domain.source.path=pictures   objective.parts.rot=0.5   trainer.minutes=none
    preset=edm   (published settings, see `gendiff_recipes.presets`; they come first)

Where a recipe leaves a choice to its domain (process, head, sampler), fields are said of the domain's own. A kind's
bare name takes over what the slot's interface shares (steps and grid of a solver); a part put in the place of the whole
(`process=VP`, a schedule) changes that part. Kinds are those a config file may name; plain values are checked against
the field's type by jsonargparse.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import UnionType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gendiff.cli import expressions
from gendiff.cli.expressions import kinds_of, parse_object, similar
from gendiff.config import BUNDLES
from gendiff.errors import RecipeError, UnknownName, fits, nearest
from gendiff.spaces import Space
from gendiff.training import Term

if TYPE_CHECKING:
    from .recipe import Recipe

R = typing.TypeVar("R", bound="Recipe")
# Said first: what else is said of a domain holds, whatever its source says.
SOURCE = re.compile(r"\s*(domain\.)+source\b")


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place that a value can be put in.

    Attributes:
        value: What is in it now.
        hint: Its type.
        about: What its owner's docstring says of it.
        names: Of what a table in it may hold, beside what it holds.
    """

    value: Any
    hint: Any
    about: str = ""
    names: tuple[str, ...] = ()

    @property
    def entry(self) -> Any:
        """The type of what a table in it holds."""
        tables = (o for o in self.options if isinstance(typing.get_origin(o), type))
        held = next((typing.get_args(o)[1] for o in tables if issubclass(typing.get_origin(o), Mapping)), Any)
        return float | None if held is Any else held

    @property
    def options(self) -> tuple[Any, ...]:
        """The members of a union, or the type itself."""
        union = isinstance(self.hint, UnionType) or typing.get_origin(self.hint) is typing.Union
        return typing.get_args(self.hint) if union else (self.hint,)

    @property
    def bases(self) -> tuple[type, ...]:
        """The interfaces of which kinds fit."""
        plain = (bool, int, float, str, type(None))
        found = (o for o in self.options if isinstance(o, type) and not issubclass(o, plain))
        found = (o for o in found if not getattr(o, "_is_protocol", False))
        return tuple(o for o in found if o.__module__.partition(".")[0] not in ("builtins", "collections", "typing"))


def change(recipe: R, *changes: str) -> R:
    """The recipe with fields changed by "path=value" texts, in their order.

    Raises:
        RecipeError, UnknownName: For an unknown field or kind, with the nearest, or a value that does not fit.
    """
    first = set()
    for text in [text for text in changes if text.partition("=")[0].strip() == "preset"]:
        recipe = import_module("gendiff_recipes.presets").apply_preset(recipe, text.partition("=")[2].strip())
        first.add("process")
    changes = tuple(text for text in changes if text.partition("=")[0].strip() != "preset")
    sources = [text for text in changes if SOURCE.match(text)]
    for text in [*sources, *(text for text in changes if text not in sources)]:
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"The override {text!r} is not of the form path=value", "e.g. optimizer.lr=2e-4")
        try:
            recipe = _put(recipe, recipe, keys, value.strip(), recipe.name)
        except RecipeError as error:
            default = re.fullmatch(rf"\w+\((?:\.\.\., )?{re.escape(keys[-1])}=(.*)\)", error.fix)
            if default is None:
                raise
            raise type(error)(error.got, error.expected, f"{path.strip()}={default[1]}") from error
        first.add(keys[0])
        if sources and text is sources[-1]:
            recipe = _sourced(recipe, max(found[0].count("domain") for s in sources if (found := SOURCE.match(s))))
    if first & {"network", "domain", "process"}:
        check_network(recipe)
    return recipe


def _sourced(owner: Any, depth: int) -> Any:
    """The owner, its domain (or the domain inside that) as its source, which was changed, says: sizes, conditions."""
    if depth:
        return dataclasses.replace(owner, domain=_sourced(owner.domain, depth - 1))
    return owner.with_source(owner.source) if hasattr(owner, "with_source") else owner


def check_network(recipe: Recipe) -> None:
    """Builds the recipe's network without memory, so that sizes it refuses are refused before data are read.

    Raises:
        RecipeError: With the network's own fields.
    """
    fields = sizes(recipe)
    for name, size in recipe.network.items():
        if name in fields and fields[name].value == 0:
            continue  # nought is a size of its own: no dropout
        for number in size if isinstance(size, tuple | list) else (size,):
            if isinstance(number, int) and not isinstance(number, bool) and number < 1:
                raise RecipeError(f"{recipe.name}.network got {name}={size!r}", "whole numbers, at least 1")
    try:
        with torch.device("meta"):
            recipe.build()
    except (TypeError, ValueError, ArithmeticError) as error:
        raise RecipeError(
            f"{recipe.name}: the network refused {dict(recipe.network)!r} ({error})",
            f"sizes that fit: {', '.join(fields)}",
        ) from error
    except NotImplementedError:
        return  # what has no meta kernel is built, and refused, by the training itself


def known_kinds(recipe: Recipe) -> dict[str, type]:
    """The kinds that may be named in this recipe: gendiff's, its domain's package's, and the recipes'."""
    packages = (sys.modules[type(recipe.domain).__module__.partition(".")[0]], sys.modules[type(recipe).__module__])
    return expressions.known_kinds(*packages)


def bundles() -> tuple[type, ...]:
    """The classes that hold parts by name."""
    return tuple(bundle for bundle, _ in BUNDLES.values())


def sizes(recipe: Recipe) -> dict[str, Slot]:
    """What a recipe's network takes, from the signature of `Domain.network`, or of the network's own class."""
    own = recipe.network.get("kind")
    make = own if own is not None else recipe.maker
    base, told = getattr(make, "func", make), getattr(make, "keywords", {})  # of what is told some arguments already
    signature, about = inspect.signature(make), described(base)
    hints = typing.get_type_hints(base.__init__ if isinstance(base, type) else base)
    named = [p for p in signature.parameters.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p for p in named if p.name not in told]
    return {p.name: Slot(p.default, hints.get(p.name, Any), about.get(p.name, "")) for p in named}


class Terms(dict[str, Term]):
    """How each auxiliary loss of a recipe counts."""


def slots(owner: Any, recipe: Recipe, place: Slot | None = None) -> dict[str, Slot]:
    """The places of an object that have a name, with what is in them; `place` is where it is itself."""
    if owner is recipe.network:
        found = {"kind": Slot(None, type, "A network's class, in place of the domain's own."), **sizes(recipe)}
        said = {name: dataclasses.replace(slot, value=owner.get(name, slot.value)) for name, slot in found.items()}
        return said | {name: Slot(value, Any) for name, value in owner.items() if name not in found}
    if isinstance(owner, bundles()):
        base = BUNDLES[type(owner).__name__][1]
        return {name: Slot(part, base) for name, part in owner.parts.items()}
    if isinstance(owner, Terms):
        return {name: Slot(term, Term) for name, term in owner.items()}
    if isinstance(owner, Mapping):
        names = place.names if place is not None else ()
        parts = names or getattr(recipe.process or recipe.domain.process, "parts", {})
        hint = float | None if place is None else place.entry
        return {name: Slot(owner.get(name), hint) for name in dict.fromkeys([*owner, *parts])}
    if not dataclasses.is_dataclass(owner):
        return {}
    hints, about = typing.get_type_hints(type(owner)), described(type(owner))
    found = {
        f.name: Slot(getattr(owner, f.name), hints[f.name], about.get(f.name, ""))
        for f in dataclasses.fields(owner)
        if f.init and not (f.name == "mask" and isinstance(owner, Space)) and f.name not in getattr(owner, "unused", ())
    }
    if owner is recipe and not recipe.unused:
        own = {"process": lambda: recipe.domain.process, "head": lambda: recipe.domain.head}
        for name, value in {**own, "sampler": recipe.domain.sampler}.items():
            if found[name].value is None:
                found[name] = dataclasses.replace(found[name], value=value())
        for name, more in (("drop", ["all"]), ("guidance", [])):
            found[name] = dataclasses.replace(found[name], names=(*more, *recipe.domain.conditions))
    if owner is recipe.domain and isinstance(found.get("asked", Slot(None, Any)).value, Mapping):
        own = dict(recipe.domain.conditions)
        found["asked"] = dataclasses.replace(found["asked"], value=own, names=tuple(own))
    return found


def _put(owner: Any, recipe: Recipe, keys: list[str], text: str, where: str, place: Slot | None = None) -> Any:
    """The owner, which is in a `place`, with the value at a path replaced."""
    known, places = known_kinds(recipe), slots(owner, recipe, place)
    key, *rest = keys
    if key not in places:
        having = [
            f"{name}(...)"
            for name, kind in known.items()
            if dataclasses.is_dataclass(kind)
            and key in kind.__dataclass_fields__
            and any(b in kind.__mro__ for b in type(owner).__mro__[1:] if inspect.isabstract(b))
        ]
        what = f"{type(owner).__name__}, which has no {key!r}" if not isinstance(owner, Mapping) else f"no {key!r}"
        got = (
            f"{where} is {what}"
            if not isinstance(owner, Mapping) and owner is not recipe
            else f"{where} has no {key!r}"
        )
        expected = f"It has {', '.join(places) or 'no fields'}.{nearest(key, places)}"
        path = where.removeprefix(f"{recipe.name}.")
        raise RecipeError(got, expected, f"{path}={having[0]}, for one that has it" if having else "")
    slot, here = places[key], f"{where}.{key}"
    if owner is recipe.objective and key == "auxiliary" and rest:  # a number for all, so far
        terms = {name: recipe.objective.term(name, loss.term) for name, loss in recipe.domain.losses.items()}
        slot = dataclasses.replace(slot, value=Terms(terms))
    if rest and owner is recipe and slot.names:
        slot = dataclasses.replace(slot, value=recipe.by_condition(key))
    value = _put(slot.value, recipe, rest, text, here, slot) if rest else read(text, slot, known, here)
    if owner is recipe.domain and key == "asked":
        own = recipe.domain.conditions  # of which only those are written down that the domain has not by itself
        value = {k: v for k, v in value.items() if k in getattr(owner, key) or v != own.get(k)}
    if isinstance(owner, bundles()):
        return type(owner)({**owner.parts, key: value})
    if owner is recipe.network and key == "kind":
        own = owner if "kind" not in owner else {}
        return own if value is None else {"kind": value}
    if isinstance(owner, Mapping):
        return {**owner, key: value}
    return dataclasses.replace(owner, **{key: value})


def read(text: str, slot: Slot, known: Mapping[str, type], where: str) -> Any:
    """A text as the value of a slot.

    Raises:
        RecipeError, UnknownName: If it does not fit, with what does.
    """
    if slot.hint is type:
        networks = [name for name, kind in known.items() if issubclass(kind, nn.Module)]
        if text.lower() == "none" or text in networks:
            return known.get(text)
        raise UnknownName("network", text, networks)
    if str in slot.options:
        empty = text.lower() in ("none", "null") and type(None) in slot.options
        return None if empty else text[1:-1] if text[:1] == text[-1:] and text[:1] in ("'", '"') else text
    name = text.partition("(")[0].strip()
    if slot.bases and name.isidentifier() and name not in known and text.lower() not in ("none", "null"):
        raise _misfit(name, slot, known, where)
    value = parse_object(text, known, where)
    if isinstance(value, type):
        value = similar(value, slot.value, slot.bases, where)
    if any(getattr(option, "_is_protocol", False) for option in slot.options) and fits(value, slot.hint):
        return value
    if slot.bases and not (value is None and type(None) in slot.options):
        return _fitted(value, text, slot, known, where)
    return checked(value, text, slot, where)


def _fitted(value: Any, text: str, slot: Slot, known: Mapping[str, type], where: str) -> Any:
    """An object where it fits, or the old one with it as the one part that it fits."""
    if isinstance(value, slot.bases):
        return value
    old = slot.value
    if dataclasses.is_dataclass(old) and not isinstance(value, bool | int | float | str | tuple | Mapping):
        hints = typing.get_type_hints(type(old))
        places = [
            f.name for f in dataclasses.fields(old) if f.init and isinstance(value, Slot(None, hints[f.name]).bases)
        ]
        if len(places) == 1:
            return dataclasses.replace(old, **{places[0]: value})  # type: ignore[type-var]
    raise _misfit(text, slot, known, where)


def _misfit(text: str, slot: Slot, known: Mapping[str, type], where: str) -> UnknownName:
    """The error for what does not fit a slot, with the kinds that do."""
    path, parts = where.partition(".")[2].partition(".")[2], getattr(slot.value, "parts", {})
    fix = f"Or say it of a part: {', '.join(f'{path}.{name}={text}' for name in parts)}" if parts else ""
    return UnknownName(where.rpartition(".")[2], text, kinds_of(slot.bases, known), fix)


def checked(value: Any, text: str, slot: Slot, where: str) -> Any:
    """A plain value as the field's type has it: 3 as 3.0 where floats are, a list as a tuple.

    Raises:
        RecipeError: If it does not fit, with the type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=slot.hint)
    origins = [typing.get_origin(option) for option in slot.options]
    listed = any(isinstance(origin, type) and issubclass(origin, Sequence) for origin in origins)
    for form in (value, (value,)) if listed and isinstance(value, int | float | str) else (value,):
        try:
            found = parser.parse_object({"value": form}).value
        except ArgumentError:
            continue
        if isinstance(found, str) == isinstance(form, str):
            return tuple(found) if isinstance(found, list) else found
    now = "" if slot.value in (None, inspect.Parameter.empty) else f", like {slot.value!r}"
    raise RecipeError(f"{where} got {text!r}", f"a value of type {type_name(slot.hint)}{now}")


def type_name(hint: Any) -> str:
    """A type as a reader writes it."""
    text = getattr(hint, "__name__", None) if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return str(text).replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")


def described(owner: Any) -> dict[str, str]:
    """What a docstring's "Args:" or "Attributes:" say of each name, on one line."""
    lines = inspect.cleandoc(owner.__doc__ or "").splitlines()
    found: dict[str, str] = {}
    inside, names = False, []
    for line in lines:
        if line and not line.startswith(" "):
            inside = line in ("Args:", "Attributes:")
        elif inside and line.startswith("    ") and line[4:5] != " ":
            head, colon, about = line.strip().partition(":")
            names = [name.strip() for name in head.split(",")] if colon else []
            found.update(dict.fromkeys(names, about.strip()))
        elif inside and line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def listing(recipe: Recipe) -> Iterator[tuple[str, str, str, str]]:
    """All that can be said of a recipe: path, value now, what fits (a type, or kinds), and what it means."""
    known = known_kinds(recipe)

    def walk(owner: Any, prefix: str, depth: int) -> Iterator[tuple[str, str, str, str]]:
        for name, slot in slots(owner, recipe).items():
            path = f"{prefix}{name}"
            if slot.bases:
                fits = " ".join(kinds_of(slot.bases, known))
                inner = depth < 3 and slots(slot.value, recipe) and len(kinds_of(slot.bases, known)) >= 1
                yield path, brief(slot.value), fits if len(kinds_of(slot.bases, known)) > 1 else "", slot.about
                if inner:
                    yield from walk(slot.value, f"{path}.", depth + 1)
            elif slot.value is recipe.network:
                yield from walk(slot.value, f"{path}.", depth + 1)
            else:
                yield path, brief(slot.value), type_name(slot.hint), slot.about

    yield from walk(recipe, "", 0)


def brief(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = "none" if value is None else "" if value is inspect.Parameter.empty else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
