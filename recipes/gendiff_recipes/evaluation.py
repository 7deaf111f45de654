"""Judging a model: every metric of its domain, on samples and, as the floor, on real data against real data."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.conditions import Label
from gendiff.domain import Domain, Examples, length_of
from gendiff.errors import DataError
from gendiff.model import Model

from .recipe import Recipe

NEAR = 0.1  # a real example is alike if its length is within this share of one that was asked for


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        generated: Metric name to its value between samples and the reference.
        floor: The same between training examples and the reference: what a perfect model would reach.
        samples: The artifacts drawn.
        reference: Test artifacts, of the classes and lengths that were asked for.
        seconds: Time for drawing all samples.
        interval: Metric name to the ends of its 95 % interval over samples.
        compared: What was compared with what, in a sentence.
        raw: `generated` of the samples before the domain finished them (`Domain.finish`), where it does.
    """

    generated: dict[str, float]
    floor: dict[str, float]
    samples: list[Any] = field(repr=False)
    reference: list[Any] = field(repr=False)
    seconds: float
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    compared: str = ""
    raw: dict[str, float] = field(default_factory=dict)


def default_request(domain: Domain, n: int) -> dict[str, Any]:
    """What to ask for when n samples shall cover a domain: its preview, and what may be asked in turn."""
    return {**domain.preview(n), **domain.in_turn(n)}


def subset(artifacts: Sequence[Any], n: int, seed: int) -> list[Any]:
    """n of the artifacts, drawn without replacement; all if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(artifacts))[:n]
    return [artifacts[i] for i in order]


def about_examples(recipe: Recipe, examples: Examples) -> list[str]:
    """What a training run tells of its examples at its start: how many, of which classes."""
    said = f"{recipe.name}: {len(examples)} examples"
    conds = examples.conds if recipe.domain.conditions else []
    notes = [] if examples.rejected else list(examples.notes)  # with rejections they stand in the report
    for name, own in recipe.domain.conditions.items():
        values = [cond.get(name) for cond in conds]
        if isinstance(own, Label):
            counts = Counter(own.number(value) for value in values if value is not None)
            listed = [f"{kind} {counts[k]}" for k, kind in enumerate(own.classes)]
            said += f"; {name}: {', '.join(listed[:20])}{', ...' if len(listed) > 20 else ''}"
        else:
            said += f"; {name}: {own.describe()}"
        notes += [f"{name}: {note}" for note in own.audit(values)]
    return [said + ".", *(f"{recipe.name}: {note}." for note in notes)]


def about_warmup(recipe: Recipe) -> list[str]:
    """What a training run tells of a warm-up that is too long."""
    warmup, steps = recipe.optimizer.warmup, recipe.trainer.steps
    slow = f"The warm-up of {warmup} steps is longer than the run of {steps}; optimizer.warmup={steps // 10} is not."
    return [slow] if warmup > steps else []


def asked_lengths(domain: Domain, n: int, request: Mapping[str, Any], what: Mapping[str, Any]) -> set[int]:
    """The lengths (sites of a state) that `what` asks for in words of `Domain.ranges`; none where it asks for none."""
    if not domain.ragged or not any(what.get(name) is not None for name in domain.ranges()):
        return set()
    mask = domain.request(n, **request).cond.get("mask")
    return set() if mask is None else set(mask.sum(1).tolist())


def asked_for(domain: Domain, examples: Examples, what: Mapping[str, Any], lengths: Collection[int] = ()) -> list[Any]:
    """The artifacts of the examples that have the classes asked for, and a length within `NEAR` of one asked for.

    All where no class, or no length, is asked for.
    """
    wanted: dict[str, set[int]] = {}
    labels = {name: own for name, own in domain.conditions.items() if isinstance(own, Label)}
    for name, own in labels.items():
        values = what.get(name)
        values = list(values) if isinstance(values, list | tuple) else [values]
        if None not in values:
            wanted[name] = {own.number(value) for value in values}
    found = [
        examples[i].artifact
        for i, said in enumerate(examples.conds)
        if all(labels[k].number(said.get(k)) in numbers for k, numbers in wanted.items())
    ]
    if not lengths:
        return found
    sizes = [length_of(domain.encode(artifact), domain.process.space) for artifact in found]
    near = [any(abs(size - length) <= NEAR * length for length in lengths) for size in sizes]
    return [artifact for artifact, is_near in zip(found, near, strict=True) if is_near]


def half_interval(
    metric: Callable[[list[Any], list[Any]], float], samples: list[Any], reference: list[Any], halves: int, seed: int
) -> tuple[float, float]:
    """A 95 % interval of a metric over samples: the value, 1.96 deviations of it over random halves to each side.

    The deviation over halves without replacement is that of the whole (delete-d jackknife, d = n/2); unlike a
    bootstrap it shows a metric no sample twice, which distances between points would take for structure.
    """
    rng, value = np.random.default_rng(seed), float(metric(samples, reference))
    n, halves = len(samples), halves if len(samples) > 3 else 0
    found = [float(metric([samples[i] for i in rng.permutation(n)[: n // 2]], reference)) for _ in range(halves)]
    spread = 1.96 * float(np.std(found)) if found else float("nan")
    return value - spread, value + spread


def evaluate(
    model: Model,
    n: int = 256,
    *,
    guidance: Any = None,
    seed: int = 0,
    data: Path | None = None,
    halves: int = 0,
    progress: Callable[[float], None] | None = None,
    **what: Any,
) -> Evaluation:
    """Draws n samples and compares them by every metric of the domain with test examples that are asked for alike.

    Those are of the same classes and, where a length is asked for (residues, seconds), of one within 10 % of it.

    Args:
        guidance: The model's own by default.
        halves: Random halves of the samples for intervals; 0 for none. Each costs a metric's time again.
        what: Keywords for the domain's request; the rest is planned (`Model.plan`).

    Raises:
        DataError: Without two training and two test examples of what was asked for.
    """
    domain = model.domain
    plan = model.plan(n, **what)
    lengths = asked_lengths(domain, n, domain.sized(n, plan), what)
    test = asked_for(domain, domain.dataset("test", data), what, lengths)
    training = asked_for(domain, domain.dataset("train", data), what, lengths)
    words = [f"{name}={value}" for name, value in what.items() if name in domain.labels]
    words += [f"{name}={value}, lengths within {NEAR:.0%}" for name, value in what.items() if name in domain.ranges()]
    said = ", ".join(words) or "all classes"
    if len(test) < 2 or len(training) < 2:
        raise DataError(
            f"The data of {domain.name} hold {len(training)} training and {len(test)} test examples of {said}",
            "At least two of each are compared",
            "Ask for something more common, or for nothing, which compares with all",
        )
    since = time.perf_counter()
    raw: list[Any] = []
    samples = model.sample(n, guidance=guidance, seed=seed, progress=progress, plan=plan, raw=raw.extend)
    seconds = time.perf_counter() - since
    reference, floor = subset(test, n, seed), subset(training, n, seed)
    metrics = domain.metrics()
    return Evaluation(
        {name: float(f(samples, reference)) for name, f in metrics.items()},
        {name: float(f(floor, reference)) for name, f in metrics.items()},
        samples,
        reference,
        seconds,
        {name: half_interval(f, samples, reference, halves, seed) for name, f in metrics.items()} if halves else {},
        f"{n} samples and, as real data, {len(floor)} training examples, each against {len(reference)} test examples "
        f"({said}).",
        {name: float(f(raw, reference)) for name, f in metrics.items()} if raw else {},
    )
