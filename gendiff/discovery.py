"""Finding domains, recipes and commands: entry points, ours exactly as a stranger's, loaded when used.

gendiff.domains    name -> Domain class            images = "gendiff_images:Images"
gendiff.recipes    name -> module of recipes       images = "gendiff_recipes.images"
gendiff.commands   name -> function(arguments)     train = "gendiff_recipes.commands:train"
gendiff.parts      name -> module, or one class    mine = "mine.parts"

Parts are the classes that model and recipe files may name: solvers, schedules, heads, networks, domains. Those of a
package come from its entry point, those of a script from `@gendiff.register`.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from gendiff.errors import GendiffError, RecipeError, UnknownName

REINSTALL = "A package of yours is not listed? Install it: pip install -e ."
UNINSTALLED = "A domain of yours, not installed: gendiff.load(path, parts=[MyDomain]), or @gendiff.register above it"

Part = TypeVar("Part", bound=type)
REGISTERED: dict[str, type] = {}
RECORD = ("__dataclass_fields__", "__init__")


def is_record(cls: type) -> bool:
    """Whether a class is a dataclass in its constructor too: no __init__ of its own takes what no field keeps."""
    makers = [next((i for i, base in enumerate(cls.__mro__) if name in vars(base)), -1) for name in RECORD]
    return 0 <= makers[0] <= makers[1]


def is_part(item: Any) -> bool:
    """Whether a model file may name it: a dataclass, or a torch module (torch itself is not imported to know)."""
    return isinstance(item, type) and (
        is_record(item)
        or any((base.__module__, base.__name__) == ("torch.nn.modules.module", "Module") for base in item.__mro__)
    )


def register(part: Part) -> Part:
    """Makes a class known by its name to model and recipe files; a decorator.

        @gendiff.register
        @dataclass(frozen=True)
        class Square(Schedule): ...

    Raises:
        RecipeError: For what is neither a dataclass nor a network, and for a second class of a name.
    """
    name = getattr(part, "__name__", repr(part))
    if not is_part(part):
        raise RecipeError(
            f"register got {name}", "a dataclass or a network",
            f"@gendiff.register above @dataclass(frozen=True) above class {name}",
        )  # fmt: skip
    before = REGISTERED.get(name, part)
    if (before.__module__, before.__qualname__) != (part.__module__, part.__qualname__):
        raise RecipeError(
            f"register got {part.__module__}.{name} beside {before.__module__}.{name}", "one class of a name",
            "Rename one of them",
        )  # fmt: skip
    REGISTERED[name] = part
    return part


def registered_parts() -> tuple[type, ...]:
    """The classes of `register`."""
    return tuple(REGISTERED.values())


def parts_of_packages() -> list[type]:
    """The classes that the entry points gendiff.parts give, a class or all of a module's own; loads them."""
    found: list[type] = []
    for name in registered("parts"):
        given = load_point("parts", "part", name)
        items = [given] if isinstance(given, type) else vars(given).values()
        found += [item for item in items if is_part(item)]
    return found


def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of `gendiff.<group>`, by name, not loaded."""
    return {point.name: point for point in entry_points(group=f"gendiff.{group}")}


def load_point(group: str, kind: str, name: str) -> Any:
    """What the entry point `name` of `gendiff.<group>` names, loaded."""
    found = registered(group)
    if name not in found:
        raise UnknownName(kind, name, found, UNINSTALLED if group == "domains" else REINSTALL)
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
