"""Judging a model: every metric of its domain, on samples and, as the floor, on real data against real data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.domain import Domain
from gendiff.errors import DataError
from gendiff.model import Model


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        generated: Metric name to its value between samples and the reference.
        floor: The same between training examples and the reference: what a perfect model would reach.
        samples: The artifacts drawn.
        reference: Test artifacts.
        seconds: Time for drawing all samples.
    """

    generated: dict[str, float]
    floor: dict[str, float]
    samples: list[Any]
    reference: list[Any]
    seconds: float


def default_request(domain: Domain, n: int) -> dict[str, Any]:
    """What to ask for when n samples shall cover a domain: its preview, and all combinations of labels in turn."""
    asked, period = dict(domain.preview(n)), 1
    for name, classes in domain.labels.items():
        asked[name] = [(i // period) % len(classes) for i in range(n)]
        period *= len(classes)
    return asked


def subset(artifacts: list[Any], n: int, seed: int) -> list[Any]:
    """n of the artifacts, drawn without replacement; all if there are fewer."""
    order = np.random.default_rng(seed).permutation(len(artifacts))[:n]
    return [artifacts[i] for i in order]


def evaluate(
    model: Model,
    n: int = 256,
    *,
    guidance: float = 1.0,
    seed: int = 0,
    data: Path | None = None,
    progress: Callable[[float], None] | None = None,
    **what: Any,
) -> Evaluation:
    """Draws n samples and compares them with the test split by every metric of the domain.

    Args:
        what: Keywords for the domain's request, over what `ask` would ask for.
    """
    domain = model.domain
    test, training = domain.dataset("test", data).artifacts, domain.dataset("train", data).artifacts
    if len(test) < 2 or len(training) < 2:
        raise DataError(
            f"{domain!r} has {len(training)} training and {len(test)} test examples", "two of each at least"
        )
    since = time.perf_counter()
    samples = model.sample(n, guidance=guidance, seed=seed, progress=progress, **{**default_request(domain, n), **what})
    seconds = time.perf_counter() - since
    reference, floor = subset(test, n, seed), subset(training, n, seed)
    metrics = domain.metrics()
    return Evaluation(
        {name: float(f(samples, reference)) for name, f in metrics.items()},
        {name: float(f(floor, reference)) for name, f in metrics.items()},
        samples,
        reference,
        seconds,
    )
