"""The fields of the form, from what a model's conditions say of themselves, whatever the domain.

classes     Domain.labels                   menu
files       Condition.files                 a file, which is uploaded
a span      Condition.span, Domain.ranges   slider with a number beside it
the rest    Condition.read                  a line of text
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gendiff.conditions import Condition
from gendiff.errors import GendiffError, printable
from gendiff.model import Model


@dataclass(frozen=True)
class FormField:
    """A field.

    Attributes:
        name: Of the condition, or of what else the domain's request takes.
        kind: "menu", "slider", "line" or "file".
        hint: What it takes, in a line.
        condition: Whether it is a condition's, which guidance may strengthen.
        turn: Whether all values are asked for in turn where nothing is said.
        none: Whether it can be said that nothing is asked.
        classes: Of a menu.
        span: Of a slider: the smallest and largest value, and a first one.
        log: Whether the slider is told by ratios.
        whole: Whether its numbers are whole.
        unit: Of its numbers.
        example: A value, as typed.
        accept: The endings of files.
        guidance: The model's own, in words; empty without one of its own.
    """

    name: str
    kind: str
    hint: str
    condition: bool = False
    turn: bool = False
    none: bool = False
    classes: tuple[str, ...] = ()
    span: tuple[float, float, float] | None = None
    log: bool = False
    whole: bool = False
    unit: str = ""
    example: str = ""
    accept: tuple[str, ...] = ()
    guidance: str = ""


def fields(model: Model) -> list[FormField]:
    """A field for each condition, then one for everything else that the domain's request takes by name."""
    conditions = model.domain.conditions
    others = {name: facts for name, facts in model.info()["request"].items() if name not in conditions}
    return [*(of_condition(model, name, own) for name, own in conditions.items()), *of_request(others)]


def of_condition(model: Model, name: str, own: Condition) -> FormField:
    """The field of a condition."""
    classes, turn, guidance = model.domain.labels.get(name), own.turn(), own_guidance(model)
    known: dict[str, Any] = {
        "name": name,
        "hint": printable(own.describe()) if classes is None else f"one of {len(classes)} classes",
        "condition": True,
        "turn": bool(turn),
        "none": says_none(own),
        "guidance": guidance.get(name, "") if isinstance(guidance, dict) else guidance,
    }
    if classes is not None:
        return FormField(kind="menu", classes=tuple(classes), **known)
    if own.files:
        return FormField(kind="file", accept=own.files, **known)
    if own.span is not None and own.span[0] < own.span[1]:
        log = getattr(own, "transform", "linear") == "log"
        return FormField(kind="slider", **known, **slider(own.span, log), unit=str(getattr(own, "unit", "")))
    return FormField(kind="line", **known, example=str(turn[0]) if turn else "")


def of_request(others: Mapping[str, Mapping[str, Any]]) -> Iterator[FormField]:
    """The fields of what a request takes beside conditions: lengths, seconds."""
    for name, facts in others.items():
        low, high = facts.get("trained", (0, 0))
        if low < high:
            yield FormField(name, "slider", f"{low:.4g} to {high:.4g} in training", **slider((low, high), False))
        elif "trained" in facts:
            yield FormField(name, "line", f"{low:.4g} in training", example=f"{low:.4g}")
        else:
            default = facts["default"]
            yield FormField(name, "line", "" if default is None else f"{default} if not said")


def slider(span: tuple[float, float], log: bool) -> dict[str, Any]:
    """Span, scale and a first value, the middle."""
    low, high = span
    whole = isinstance(low, int) and isinstance(high, int)
    middle = math.sqrt(low * high) if log and low > 0 else (low + high) / 2
    first = round(middle) if whole else float(f"{middle:.3g}")
    return {"span": (low, high, first), "log": log and low > 0, "whole": whole}


def says_none(own: Condition) -> bool:
    """Whether "none" is nothing asked, and not a class of that name."""
    try:
        return own.read("none") is None
    except GendiffError:
        return False


def own_guidance(model: Model) -> str | dict[str, str]:
    """The guidance that a model was judged with, in words: one for all conditions, or by condition."""
    own = model.guidance
    if isinstance(own, Mapping):
        return {name: repr(value) for name, value in own.items()}
    return f"{own:g}" if isinstance(own, int | float) else repr(own)
