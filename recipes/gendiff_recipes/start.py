"""Beginning from weights that are there, and adapting them (see `gendiff.adaptation`).

What is taken, new and left is said, and written to the run's start.json, with where the source was: an adapter that is
resumed finds its base there.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import gendiff
from gendiff.adaptation import begin, begun_text
from gendiff.config import read_json
from gendiff.denoisers import Denoiser
from gendiff.domain import Domain
from gendiff.errors import CheckpointError, RecipeError
from gendiff.model import Model
from gendiff.modelfile import digest
from gendiff.training import Begun

from .recipe import Recipe

BASE = "base.safetensors"
"""The base of an adapter, in its run's folder, where it was in no file."""


def begin_from(model: Model, source: Model) -> dict[str, Any]:
    """Copies into `model` the weights of `source` that fit it; those of an adapted one as it computes with them.

    Returns:
        What was "taken" (names), what is "new" (names with shapes), what was "left" of the source, and by label the
        "new_classes" (or words); "said" is the same in one sentence.

    Raises:
        CheckpointError: If nothing fits.
    """
    source = source.merged()
    network, other = model.denoiser.network, source.denoiser.network
    begun = begin(model.domain, network, source.domain, other)
    if not begun.taken:
        own = network.state_dict()
        first = f"{begun.new[0]} {list(own[begun.new[0]].shape)}" if begun.new else ""
        raise CheckpointError(
            f"None of the {len(begun.left)} weights to begin from fits the network",
            f"weights like {first}" if first else "",
        )
    said = ""
    for what in ("process", "head"):
        a, b = getattr(source.denoiser, what), getattr(model.denoiser, what)
        if repr(a) != repr(b):
            said += f"; they were trained with another {what}, {a!r}, and are now trained with {b!r}"
    for name, (a, b) in others_pinned(model.domain, source.domain).items():
        said += f"; they were trained on the states of another {name}, {b}, and are now trained on those of {a}"
    return told(begun, shapes(model), shapes(source), digest(other.state_dict()), said)


def adapt_from(model: Model, recipe: Recipe, base: Model) -> dict[str, Any]:
    """Makes `model` what the recipe's adapter makes of the base; what `begin_from` returns, and how much trains.

    Raises:
        RecipeError, CheckpointError: For an adapter that does not fit the base.
    """
    assert recipe.adapter is not None
    own, other = shapes(model), shapes(base)
    begun = model.adapt(recipe.adapter, base)
    assert model.adaptation is not None
    count = [p.numel() for p in model.denoiser.parameters() if p.requires_grad]
    total = sum(p.numel() for p in base.denoiser.parameters())
    said = f"; {recipe.adapter!r} trains {sum(count):,} numbers beside the {total:,} of the base"
    return told(begun, own, other, model.adaptation.digest, said)


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Of the weights, by name."""
    return {name: tuple(value.shape) for name, value in model.denoiser.network.state_dict().items()}


def told(begun: Begun, own: Mapping[str, Any], other: Mapping[str, Any], source: str, more: str) -> dict[str, Any]:
    """What a beginning is, JSON-able."""
    return {
        "source": source,
        "taken": list(begun.taken),
        "new": [f"{name} {list(own[name])}" for name in begun.new],
        "left": [f"{name} {list(other[name])}" for name in begun.left],
        "new_classes": {name: list(rows) for name, rows in begun.classes.items()},
        "said": f"{begun_text(begun, own, other)}{more}.",
    }


def base_of(recipe: Recipe, out: Path, start: Model | None, resumed: bool) -> Model | None:
    """The whole model that a recipe adapts, or learns few steps from: the one it is given, or that of the run that goes
    on. None where a few-step method learns from data.

    Raises:
        RecipeError: Without one that is needed.
        CheckpointError: For the base of a run, where it is gone or its weights are others.
    """
    facts = read_json(out / "start.json") if resumed and (out / "start.json").is_file() else {}
    if start is None:
        places = [Path(place) for place in (facts.get("path"), str(out / BASE)) if isinstance(place, str) and place]
        found = next((place for place in places if place.is_file()), None)
        if found is None and facts:
            raise CheckpointError(
                f"The base of {out} is not there: {' nor '.join(map(str, places))}",
                "the model that the run adapts or learns from", "train(..., resume=True, start=BASE)",
            )  # fmt: skip
        if found is None and recipe.method is not None and not recipe.method.taught:
            return None
        if found is None:
            raise RecipeError(
                f"{recipe.name} has {recipe.adapter or recipe.method!r} and no model to "
                f"{'adapt' if recipe.adapter is not None else 'learn from'}",
                "one to begin from",
                "--from MODEL (start=MODEL)",
            )  # fmt: skip
        start = gendiff.load(found)
    base = start.merged()
    own = digest(base.denoiser.network.state_dict())
    if facts.get("source", own) != own:
        raise CheckpointError(
            f"The base of {out} has the digest {own[:12]}..., the run began from {str(facts['source'])[:12]}...",
            "the weights that the run adapts", "train(..., resume=True, start=BASE)",
        )  # fmt: skip
    return base


def others_pinned(domain: Domain, base: Domain) -> dict[str, tuple[str, str]]:
    """What makes the states of both and is not the same (`Domain.pinned`), by name: the beginning of each digest."""
    own, theirs = domain.pinned(), base.pinned()
    return {k: (f"{own[k][:12]}...", f"{theirs[k][:12]}...") for k in own if k in theirs and own[k] != theirs[k]}


def teacher_of(base: Model, recipe: Recipe) -> Denoiser:
    """The denoiser of a model that a student learns from, fixed, as its process and precision are."""
    own = base.denoiser
    precision = torch.bfloat16 if recipe.trainer.precision == "bfloat16" else None
    network = copy.deepcopy(own.network).requires_grad_(False).eval()
    return Denoiser(network, own.head, own.process, precision=precision)


def check_teacher(model: Model, recipe: Recipe, base: Model | None) -> None:
    """Refuses a few-step method for this network or process, or by a teacher of another noise.

    Raises:
        RecipeError: With the line that fixes it.
    """
    assert recipe.method is not None
    own = model.denoiser
    recipe.method.expect(own.network, own.process, base is not None)
    if base is not None and repr(base.denoiser.process) != repr(own.process):
        raise RecipeError(
            f"{recipe.name} learns from a teacher of {base.denoiser.process!r}, on {own.process!r}",
            "the teacher's process", f"process={base.denoiser.process!r}",
        )  # fmt: skip
    for name, (ours, theirs) in others_pinned(model.domain, base.domain).items() if base is not None else ():
        raise RecipeError(f"{recipe.name} learns from a model of the {name} {theirs} on that of {ours}", "the same")


def like_base(recipe: Recipe, base: Model) -> tuple[Recipe, list[str]]:
    """The recipe with the base's network, process and head, which an adapter does not choose; and what that changes.

    Raises:
        RecipeError: For states of another codec than the base's.
    """
    for name, (own, theirs) in others_pinned(recipe.domain, base.domain).items():
        raise RecipeError(f"{recipe.name} adapts a model of the {name} {theirs} on that of {own}", f"the base's {name}")
    own = {"network": base.size, "process": base.denoiser.process, "head": base.denoiser.head}
    before = recipe.domain.with_process(recipe.process, recipe.head)
    was = {"network": dict(recipe.network), "process": before.process, "head": before.head}
    said = [
        f"The {name} is the base's, {value!r}, not the recipe's, {was[name]!r}."
        for name, value in own.items()
        if repr(was[name]) != repr(value)
    ]
    return dataclasses.replace(recipe, **own), said
