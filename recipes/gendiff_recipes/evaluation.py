"""Judging a model: every measure of its domain and of judges, on samples and, as the floor, on real data.

Where something was asked, whether it is found; beside it, whether it would be found if requests were shuffled.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.conditions import Label, listed
from gendiff.domain import Domain, Example, Examples, length_of
from gendiff.drawing import draw
from gendiff.errors import DataError, RequestError, UnknownName
from gendiff.evaluation import Judge, MeasureScore, Scores, measure_of, obeyed, score
from gendiff.evaluation.measures import HALVES
from gendiff.model import Model

from .recipe import Recipe

NEAR = 0.1  # a real example is alike if its length is within this share of one that was asked for


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        scores: A row for each measure, with what was compared among its facts.
        samples: The artifacts drawn.
        reference: Test artifacts, of the classes and lengths that were asked for.
        seconds: Time for drawing all samples.
    """

    scores: Scores
    samples: list[Any] = field(repr=False)
    reference: list[Any] = field(repr=False)
    seconds: float

    @property
    def generated(self) -> dict[str, float]:
        """Each measure of the samples, by name."""
        return self.scores.values("samples")

    @property
    def floor(self) -> dict[str, float]:
        """The same of real artifacts in the samples' place: what a perfect model would reach."""
        return self.scores.values("real")

    @property
    def raw(self) -> dict[str, float]:
        """The same of the samples before the domain finished them (`Domain.finish`); empty where it does not."""
        return self.scores.values("raw") if "raw" in self.scores.columns else {}

    @property
    def compared(self) -> str:
        """What was compared with what, in a sentence."""
        return str(self.scores.facts["compared"])


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


def asked_for(
    domain: Domain, examples: Examples, what: Mapping[str, Any], lengths: Collection[int] = ()
) -> list[Example]:
    """The examples that have the classes asked for, and a length within `NEAR` of one asked for.

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
        examples[i]
        for i, said in enumerate(examples.conds)
        if all(labels[k].number(said.get(k)) in numbers for k, numbers in wanted.items())
    ]
    if not lengths:
        return found
    sizes = [length_of(domain.encode(example.artifact), domain.process.space) for example in found]
    near = [any(abs(size - length) <= NEAR * length for length in lengths) for size in sizes]
    return [example for example, is_near in zip(found, near, strict=True) if is_near]


def judges_of(domain: Domain, names: Sequence[str | Judge], train: Examples, test: Examples) -> list[Judge]:
    """Judges by their names in `Domain.judges`, made of real examples.

    Raises:
        UnknownName: For one that the domain does not have.
    """
    makers, found = domain.judges(), []
    for name in names:
        if isinstance(name, Judge):
            found.append(name)
        elif name not in makers:
            raise UnknownName(f"judge of {domain.name}", name, makers)
        else:
            found.append(makers[name](train, test))
    return found


def obedience(
    domain: Domain,
    plan: Mapping[str, Any],
    samples: Sequence[Any],
    real: Sequence[Example],
    judges: Sequence[Judge],
    **how: Any,
) -> list[MeasureScore]:
    """Rows for every condition that was asked and of which the domain or a judge can tell what artifacts show."""
    rows: list[MeasureScore] = []
    for by, observers in [("", domain.observed()), *((judge.name, judge.observed) for judge in judges)]:
        for name, observe in observers.items():
            own = domain.conditions.get(name)
            if own is None or plan.get(name) is None:
                continue
            wishes = list(zip(listed(plan[name], own, len(samples)), samples, strict=True))
            wishes = [(value, one) for value, one in wishes if value is not None]
            if not wishes:
                continue
            asked, shown = [value for value, _ in wishes], [one for _, one in wishes]
            said = [example for example in real if example.cond.get(name) is not None]
            pairs = [(e.cond[name], one) for e, one in zip(said, observe([e.artifact for e in said]), strict=True)]
            rows += obeyed(own.agreement(name), asked, observe(shown), real=pairs, by=by, **how)
    return rows


def evaluate(
    model: Model,
    /,
    n: int = 256,
    *,
    guidance: Any = None,
    seed: int = 0,
    data: Path | None = None,
    halves: int = HALVES,
    judges: Sequence[str | Judge] = (),
    executor: Executor | None = None,
    progress: Callable[[float], None] | None = None,
    **what: Any,
) -> Evaluation:
    """Draws n samples and compares them by every measure of the domain with test examples that are asked for alike.

    Those are of the same classes and, where a length is asked for (residues, seconds), of one within 10 % of it. Texts,
    numbers and the like choose none: where they are asked for, `Evaluation.compared` says so.

    Args:
        guidance: The model's own by default.
        halves: Random halves of the samples for intervals; 0 for none. Artifacts are described once.
        judges: Names of `Domain.judges`, or judges of your own, who measure beside the domain.
        executor: Where samples are drawn and artifacts described, in pieces; the numbers are the same.
        what: Keywords for the domain's request; the rest is planned (`Model.plan`).

    Raises:
        DataError: Without two training and two test examples of what was asked for.
        UnknownName: For a judge that the domain does not have.
    """
    if not isinstance(halves, int) or halves < 0:
        raise RequestError(f"evaluate got halves={halves!r}", "a whole number of half-samples, 0 for no intervals")
    domain = model.domain
    plan = model.plan(n, **what)
    lengths = asked_lengths(domain, n, domain.sized(n, plan), what)
    known, unseen = domain.dataset("train", data), domain.dataset("test", data)
    test, training = asked_for(domain, unseen, what, lengths), asked_for(domain, known, what, lengths)
    words = [f"{name}={value}" for name, value in what.items() if name in domain.labels]
    words += [f"{name}={value}, lengths within {NEAR:.0%}" for name, value in what.items() if name in domain.ranges()]
    said = ", ".join(words) or "all classes"
    free = [name for name in what if name in domain.conditions and name not in domain.labels]
    said += f"; with any {', '.join(free)}" if free else ""
    if len(test) < 2 or len(training) < 2:
        raise DataError(
            f"The data of {domain.name} hold {len(training)} training and {len(test)} test examples of {said}",
            "At least two of each are compared",
            "Ask for something more common, or for nothing, which compares with all",
        )
    who = judges_of(domain, judges, known, unseen)
    since = time.perf_counter()
    raw: list[Any] = []
    samples = draw(
        model, n, executor=executor, guidance=guidance, seed=seed, progress=progress, plan=plan, raw=raw.extend
    )
    seconds = time.perf_counter() - since
    chosen = subset(training, n, seed)
    reference, floor = [e.artifact for e in subset(test, n, seed)], [e.artifact for e in chosen]
    own = [measure_of(name, f) for name, f in domain.metrics().items()]
    sets: dict[str, Any] = {"real": floor, "raw": raw, "halves": halves, "executor": executor}
    if any(measure.against == "training" for measure in [*own, *(m for judge in who for m in judge.measures)]):
        sets["training"] = [e.artifact for e in training]
    rows = score(own, samples, reference, **sets)
    for judge in who:
        rows += score(judge.measures, samples, reference, by=judge.name, **sets)
    rows += obedience(domain, plan, samples, chosen, who, halves=halves)
    facts = {
        "compared": f"{n} samples and, as real data, {len(floor)} training examples, each against {len(reference)} "
        f"test examples ({said}); what is against training, with all of it, test examples as real data.",
        "n": n,
        "reference": len(reference),
        "seed": seed,
        "seconds": seconds,
        "sampler": repr(model.sampler),
        "guidance": repr(model.guidance if guidance is None else guidance),
        "halves": halves,
        "judges": {judge.name: dict(judge.facts) for judge in who},
    }
    return Evaluation(Scores(tuple(rows), facts), samples, reference, seconds)
