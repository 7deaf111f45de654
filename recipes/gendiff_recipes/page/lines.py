"""The Python lines that draw again what the page shows, bit for bit; the shell line is `Asked.args.command`."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterable
from typing import Any

import gendiff
from gendiff.cli.expressions import known_kinds, parse_object
from gendiff.cli.words import asked as words_asked
from gendiff.errors import GendiffError
from gendiff.model import Model

from .asking import Asked

WIDEST = 88  # letters of a line


def python_lines(model: Model, asked: Asked) -> str:
    """The lines; `artifacts` holds the samples in the end."""
    args, options = asked.args, asked.options
    device = "" if model.device.type == "cpu" else f", device={str(model.device)!r}"
    values = {name: python_value(model, asked, name) for name in asked.typed}
    for name in ("guidance", "sampler", "steps"):
        if options[name] is not None:
            values[name] = repr(options[name])
    if "sampler" in values and not parses_back(options["sampler"]):
        values["sampler"] = f"sampler_of({args.sampler!r}, model)"
    values["seed"] = repr(args.seed)
    plain = {name: text for name, text in values.items() if name.isidentifier() and not keyword.iskeyword(name)}
    odd = ", ".join(f"{name!r}: {text}" for name, text in values.items() if name not in plain)
    given = [str(args.n), *(f"{name}={text}" for name, text in plain.items()), *([f"**{{{odd}}}"] if odd else [])]
    call = f"artifacts = model.sample({', '.join(given)})"
    if len(call) > WIDEST:
        call = "\n    ".join(["artifacts = model.sample(", *(f"{one}," for one in given)]) + "\n)"
    return "\n".join(
        ["import gendiff", *imports(values.values()), "",
         f"model = gendiff.load({str(args.model)!r}{device})", call],
    )  # fmt: skip


def python_value(model: Model, asked: Asked, name: str) -> str:
    """What was typed for a field, as Python."""
    own = model.domain.conditions
    if name not in asked.uploads:
        value = words_asked([f"{name}={asked.typed[name]}"], own)[name]
        try:
            if ast.literal_eval(repr(value)) == value:
                return repr(value)
        except (ValueError, SyntaxError):
            pass
    return f"model.domain.conditions[{name!r}].read({asked.typed[name]!r})"


def parses_back(value: Any) -> bool:
    """Whether the repr of an object makes an equal one."""
    try:
        return parse_object(repr(value), known_kinds(), "sampler") == value
    except GendiffError:
        return False


def imports(expressions: Iterable[str]) -> list[str]:
    """The lines that import what expressions name."""
    trees = [ast.parse(text, mode="eval") for text in expressions]
    names = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = known_kinds()
    core = sorted(name for name in names if name in known and hasattr(gendiff, name))
    lines = [f"from gendiff import {', '.join(core)}"] if core else []
    lines += [f"from {known[name].__module__} import {name}" for name in sorted(names - set(core)) if name in known]
    return [*lines, *(["from gendiff.cli.commands import sampler_of"] if "sampler_of" in names else [])]
