r"""Measures: one number of a set of samples S beside a set of real artifacts R, with an interval over the samples.

    m(S, R) = compare(f(S), f(R))

f describes every artifact by itself, so that it is computed once, in pieces, anywhere; compare looks at descriptions
alone. Where what counts is each sample beside all of R (its nearest training example), rows(f(S), f(R)) are those
numbers, and compare sees them alone. The interval of a measure is

    m +- 1.96 sd over random halves H of S of m(H, R),

the delete-d jackknife with d = n/2, whose factor (n - d) / d is 1 (Shao & Wu 1989). Unlike a bootstrap it shows a
distance no sample twice, which it would take for structure. Of a share of samples it is Wilson's interval, which is
not empty where none or all are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from gendiff.errors import DataError, Range, check, refuse

Features = Callable[[Sequence[Any]], Sequence[Any]]
Compare = Callable[[Any, Any], float]
Rows = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
Better = Literal["lower", "higher", "real"]
Against = Literal["test", "training", "nothing"]

Z = 1.959964  # of a 95 % interval
HALVES = 100


@dataclass(frozen=True)
class Estimate:
    """A measured number: its 95 % interval over n artifacts, NaN where it has none."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Measure:
    """A number of samples, beside real artifacts.

    Args:
        name: Names all that it depends on: extractor, filter, threshold.
        compare: m of the descriptions of samples and of real artifacts.
        features: A description of each artifact, which depends on that artifact alone.
        unit: Of the number.
        better: "lower" or "higher", or "real" if the value of real data is what to reach.
        against: What samples are compared with: test artifacts, those of training, or nothing.
        least: Artifacts that each set needs.
        rows: Of descriptions of samples and of real artifacts, a number for each sample; `compare` is then of these.
        within: The least and the largest value that it can have, to which its interval is cut.
        counts: Whether `compare` is the share of samples whose description is true.
        about: What it sees and what it cannot see, in a sentence.
    """

    name: str
    compare: Compare
    features: Features = field(default=list, repr=False)
    unit: str = ""
    better: Better = "real"
    against: Against = "test"
    least: int = 1
    rows: Rows | None = field(default=None, repr=False)
    within: tuple[float, float] = (-math.inf, math.inf)
    counts: bool = False
    about: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check(self, least=Range(1, math.inf), within=Range())
        if not self.name:
            refuse(self, "name", "a name")

    def __call__(self, samples: Sequence[Any], reference: Sequence[Any] = ()) -> float:
        """m(samples, reference).

        Raises:
            DataError: For fewer than `least` in a set that is looked at.
        """
        self.enough(samples, reference)
        alone = self.against == "nothing"
        return self.estimate(self.features(samples), () if alone else self.features(reference), 0).value

    def enough(self, samples: Sequence[Any], reference: Sequence[Any]) -> None:
        """Refuses sets that are too small.

        Raises:
            DataError: Saying which.
        """
        sets = {"samples": samples} if self.against == "nothing" else {"samples": samples, "real ones": reference}
        few = [f"{len(own)} {name}" for name, own in sets.items() if len(own) < self.least]
        if few:
            raise DataError(f"{self.name} got {' and '.join(few)}", f"at least {self.least}", "Draw more: -n")

    def estimate(self, own: Sequence[Any], other: Sequence[Any], halves: int = HALVES, seed: int = 0) -> Estimate:
        """m and its interval, of descriptions.

        Args:
            own: Of samples.
            other: Of real artifacts.
            halves: Random halves; 0 for no interval.
            seed: Of the halves.
        """
        if self.rows is not None:
            own, other = self.rows(own, other), ()
        value, n = float(self.compare(own, other)), len(own)
        if not halves or not math.isfinite(value):
            return Estimate(value, n=n)
        if self.counts:
            return Estimate(value, *wilson(value, n), n)
        if n < 4:
            return Estimate(value, n=n)
        rng = np.random.default_rng(seed)
        picks = [rng.permutation(n)[: n // 2] for _ in range(halves)]
        sd = float(np.std([self.compare([own[i] for i in pick], other) for pick in picks]))
        return Estimate(value, max(value - Z * sd, self.within[0]), min(value + Z * sd, self.within[1]), n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n (1927)."""
    if n < 1:
        return math.nan, math.nan
    scale = 1 + Z**2 / n
    middle, half = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
    return min(low, share), max(high, share)  # which rounding may have passed


def each(describe: Callable[[Any], Any], artifacts: Sequence[Any]) -> list[Any]:
    """What a function says of every artifact."""
    return [describe(artifact) for artifact in artifacts]


def finite_mean(own: Sequence[float], other: Sequence[float] = ()) -> float:
    """The mean of the numbers that are finite; NaN without any."""
    values = np.asarray(own, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def ratio(own: Sequence[tuple[float, float]], other: Sequence[Any] = ()) -> float:
    """The sum of the first numbers over that of the second ones; NaN over nothing."""
    hits, total = np.asarray(own, dtype=np.float64).reshape(-1, 2).sum(0)
    return float(hits / total) if total else math.nan


def of_pool(statistic: Callable[[Any], float], own: Sequence[Any], other: Sequence[Any] = ()) -> float:
    """A statistic of the arrays of all artifacts, one behind the other."""
    return float(statistic(np.concatenate([np.asarray(one) for one in own]) if len(own) else np.zeros(0)))


def of_pools(distance: Callable[[Any, Any], float], own: Sequence[Any], other: Sequence[Any]) -> float:
    """A distance between the arrays of all artifacts of two sets."""
    return float(distance(*(np.concatenate([np.asarray(one) for one in rows]) for rows in (own, other))))


def of_rows(distance: Callable[[Any, Any], float], own: Sequence[Any], other: Sequence[Any]) -> float:
    """A distance between two sets of vectors, one of each artifact."""
    return float(distance(np.asarray(own), np.asarray(other)))


def mean(name: str, describe: Callable[[Any], float], **told: Any) -> Measure:
    """The mean over samples of a number of each; one that is not finite counts nothing."""
    return Measure(name, finite_mean, partial(each, describe), **{"against": "nothing", **told})


def share(name: str, is_so: Callable[[Any], bool], **told: Any) -> Measure:
    """The share of samples of which something is so."""
    return Measure(name, finite_mean, partial(each, is_so), **{"against": "nothing", "counts": True, **told})


def share_within(name: str, count: Callable[[Any], tuple[float, float]], **told: Any) -> Measure:
    """The share, over all samples, of what is counted in each: `count` gives how many, and out of how many."""
    return Measure(name, ratio, partial(each, count), **{"against": "nothing", "within": (0.0, 1.0), **told})


def pooled(name: str, describe: Callable[[Any], Any], statistic: Callable[[Any], float], **told: Any) -> Measure:
    """A statistic of numbers of which every sample has some: bond lengths, frames."""
    return Measure(name, partial(of_pool, statistic), partial(each, describe), **{"against": "nothing", **told})


def between_pools(
    name: str, describe: Callable[[Any], Any], distance: Callable[[Any, Any], float], **told: Any
) -> Measure:
    """A distance to real artifacts of such numbers."""
    told = {"better": "lower", "within": (0.0, math.inf), **told}
    return Measure(name, partial(of_pools, distance), partial(each, describe), **told)


def between(name: str, features: Features, distance: Callable[[Any, Any], float], **told: Any) -> Measure:
    """A distance between two sets of vectors [n, d], such as `frechet`; `features` gives those of a list."""
    told = {"better": "lower", "within": (0.0, math.inf), "least": 2, **told}
    return Measure(name, partial(of_rows, distance), features, **told)


def measure_of(name: str, f: Measure | Callable[[Any, Any], float]) -> Measure:
    """A measure by its name in `Domain.metrics`: itself, or a plain function of two lists of artifacts."""
    if isinstance(f, Measure):
        return f if f.name == name else replace(f, name=name)
    said = (getattr(f, "__doc__", None) or "").strip().split("\n")[0].replace("`", "")
    return Measure(name, f, about=said)
