"""Finding domains, recipes and commands: entry points, ours exactly as a stranger's, loaded when used.

gendiff.domains    name -> Domain class            images = "gendiff_images:Images"
gendiff.recipes    name -> module of recipes       images = "gendiff_recipes.images"
gendiff.commands   name -> function(arguments)     train = "gendiff_recipes.commands:train"
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from gendiff.errors import GendiffError, UnknownName

REINSTALL = "A package of yours is not listed? Install it: pip install -e ."


def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of `gendiff.<group>`, by name, not loaded."""
    return {point.name: point for point in entry_points(group=f"gendiff.{group}")}


def load_point(group: str, kind: str, name: str) -> Any:
    """What the entry point `name` of `gendiff.<group>` names, loaded."""
    found = registered(group)
    if name not in found:
        raise UnknownName(kind, name, found, REINSTALL)
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gendiff"):
            raise
        raise GendiffError(
            f"The {kind} {name!r} needs the package {error.name}",
            "it is not installed",
            f'pip install "gendiff[{name}]"',
        ) from error


def domain_class(name: str) -> type:
    """The Domain class registered under a name.

    Raises:
        UnknownName: With the nearest name.
    """
    return load_point("domains", "domain", name)


def recipes_in(module: ModuleType) -> dict[str, Any]:
    """The recipe functions of a module: public functions it defines itself."""
    return {
        name: item
        for name, item in vars(module).items()
        if inspect.isfunction(item) and item.__module__ == module.__name__ and not name.startswith("_")
    }


def recipe_function(name: str) -> Any:
    """The recipe function named like "images.fashion".

    Raises:
        UnknownName: With the nearest name.
    """
    family, _, variant = name.partition(".")
    found = registered("recipes")
    if family not in found:
        raise UnknownName("recipe", name, all_recipes(), REINSTALL)
    functions = recipes_in(load_point("recipes", "recipe", family))
    if variant not in functions:
        raise UnknownName("recipe", name, [f"{family}.{v}" for v in functions])
    return functions[variant]


def all_recipes() -> dict[str, Any]:
    """Every recipe function, by full name; loads the recipe modules."""
    return {
        f"{family}.{name}": function
        for family in registered("recipes")
        for name, function in recipes_in(load_point("recipes", "recipe", family)).items()
    }
