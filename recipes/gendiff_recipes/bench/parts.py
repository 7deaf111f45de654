"""Classes of a person's own, from files that the person names: solvers, losses, networks, domains.

Such a file is run, because it was named; nothing in a model's file ever is. What it defines is registered
(`gendiff.register`), so that expressions, recipes and model files may name it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from gendiff.discovery import REGISTERED, is_part, register
from gendiff.errors import RecipeError, nearest


def split(text: str) -> tuple[str, str]:
    """ "my.py:MySolver" as file and name; the name may be missing."""
    path, colon, name = text.rpartition(":")
    return (path, name) if colon and name.isidentifier() else (text, "")


def module_of(path: Path) -> ModuleType:
    """The module of a file, run once in a process.

    Raises:
        RecipeError: For a file that is not there, or that cannot be run.
    """
    if not path.is_file() or path.suffix != ".py":
        raise RecipeError(
            f"There is no file {path} of parts", "a Python file, and perhaps a name in it", '"my.py:MySolver"'
        )
    name = path.stem
    there = sys.modules.get(name)
    if there is not None:
        if same_text(there, path):
            return there
        name = f"parts_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{name}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise RecipeError(
            f"{path} cannot be run ({type(error).__name__}: {error})", "a Python file that can"
        ) from error
    return module


def same_text(module: ModuleType, path: Path) -> bool:
    """Whether a module is that of a file, or of an installed copy of it."""
    file = getattr(module, "__file__", None)
    return bool(file) and Path(str(file)).is_file() and Path(str(file)).read_bytes() == path.read_bytes()


def use_parts(texts: Sequence[str]) -> dict[str, type]:
    """The classes that texts name, registered; by their names.

    Args:
        texts: "/full/path/my.py:MySolver", or the file alone for all parts that it defines.

    Raises:
        RecipeError: For a file that cannot be run, a name that is not in it, or that is no part.
    """
    found: dict[str, type] = {}
    for text in texts:
        path, name = split(text)
        module = module_of(Path(path))
        own = {k: v for k, v in vars(module).items() if is_part(v) and v.__module__ == module.__name__}
        if name and name not in own:
            other = f"{name!r} there is no dataclass or network" if hasattr(module, name) else f"it has no {name!r}"
            raise RecipeError(f"{path}: {other}", f"one of {', '.join(own) or 'its own'}.{nearest(name, own)}")
        for key, part in own.items():
            if not name or key == name:
                REGISTERED.pop(key, None)  # the file of this run's, whatever an earlier one of this process named
                found[key] = register(part)
    return found


def digests(texts: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each file that texts name."""
    files = dict.fromkeys(split(text)[0] for text in texts)
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if Path(file).is_file()}
