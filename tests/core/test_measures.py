"""Measures: intervals that are honest, tables that say what was measured, obedience that sees shuffling."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, spearmanr

from gendiff.conditions import Label, Number, Sites
from gendiff.errors import DataError, RecipeError
from gendiff.evaluation import (
    Estimate,
    Measure,
    MeasureScore,
    Scores,
    frechet,
    measure_of,
    measures,
    obeyed,
    score,
    wilson,
)
from gendiff.testing import check_measure

RNG = np.random.default_rng(0)


def identity(value: float) -> float:
    return value


def is_positive(value: float) -> bool:
    return value > 0


def counted(values: np.ndarray) -> tuple[int, int]:
    return int((values > 0).sum()), len(values)


def vectors(artifacts: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [artifact[:2] for artifact in artifacts]


MEAN = measures.mean("mean", identity)
SHARE = measures.share("positive", is_positive)
WITHIN = measures.share_within("positive numbers", counted)
POOLED = measures.pooled("median", np.asarray, np.median)
APART = measures.between("frechet", vectors, frechet, least=3)


def test_the_interval_of_a_mean_is_the_known_one() -> None:
    """Of a mean of n normal numbers: 1.96 sqrt(1/n) to each side, from halves of one sample."""
    n, spans = 400, []
    for seed in range(20):
        sample = list(np.random.default_rng(seed).normal(size=n))
        found = MEAN.estimate(sample, (), 60, seed)
        assert found.value == pytest.approx(np.mean(sample)) and found.n == n
        assert (found.low + found.high) / 2 == pytest.approx(found.value)
        spans.append(found.half)
    assert statistics.mean(spans) == pytest.approx(1.96 / n**0.5, rel=0.1)


def test_the_interval_of_a_ratio_counts_samples_and_not_what_is_in_them() -> None:
    """Samples whose numbers are all alike: the interval is that of 50 samples, not of 5,000 numbers."""
    rows = [counted(np.full(100, sign)) for sign in np.random.default_rng(1).choice([-1.0, 1.0], 50)]
    assert WITHIN.estimate(rows, (), 400).half == pytest.approx(1.96 * 0.5 / 50**0.5, rel=0.15)


@pytest.mark.parametrize(("hits", "n"), [(0, 30), (1, 30), (13, 40), (40, 40)])
def test_the_interval_of_a_share_is_wilsons(hits: int, n: int) -> None:
    known = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((known.low, known.high), abs=1e-6)
    found = SHARE.estimate([k < hits for k in range(n)], ())
    assert (found.value, found.low, found.high) == pytest.approx((hits / n, known.low, known.high), abs=1e-6)


def test_intervals_of_a_distance_cover_another_set_of_the_same_kind() -> None:
    """Two sets of the same law differ by no more than their intervals say, in nine of ten splits and more."""
    rng, agree = np.random.default_rng(2), 0
    for k in range(100):
        a, b, r = (rng.normal(size=(80, 2)) for _ in range(3))
        one, other = (APART.estimate(vectors(list(x)), vectors(list(r)), 20, k) for x in (a, b))
        agree += abs(one.value - other.value) <= math.hypot(one.half, other.half)
    assert agree >= 90


@pytest.mark.parametrize(
    ("measure", "artifacts"),
    [
        (MEAN, list(RNG.normal(size=40))),
        (SHARE, list(RNG.normal(size=40))),
        (WITHIN, [RNG.normal(size=k) for k in range(3, 43)]),
        (POOLED, [RNG.normal(size=k) for k in range(3, 43)]),
        (APART, list(RNG.normal(size=(40, 3)))),
    ],
    ids=lambda value: value.name if isinstance(value, Measure) else "",
)
def test_the_law(measure: Measure, artifacts: list[Any]) -> None:
    check_measure(measure, artifacts[:20], artifacts[20:])


@pytest.mark.parametrize(
    "broken",
    [
        Measure("looks around", measures.finite_mean, lambda group: [x - group[0] for x in group], against="nothing"),
        Measure("order", lambda own, other: own[0] - own[-1], against="nothing"),
        Measure("outside", measures.finite_mean, within=(0.9, 1.0), against="nothing"),
    ],
    ids=lambda measure: measure.name,
)
def test_the_law_sees_what_is_broken(broken: Measure) -> None:
    with pytest.raises(AssertionError, match=r"one by one|another order|outside"):
        check_measure(broken, list(np.linspace(0.1, 0.5, 20)), [])


def test_rows_are_made_once_and_halved() -> None:
    """A number of each sample beside all real ones: nearest distances, of which halves are taken."""
    calls = []

    def nearest(own: Sequence[float], other: Sequence[float]) -> list[float]:
        calls.append(len(own))
        return [min(abs(a - b) for b in other) for a in own]

    measure = Measure("nearest", measures.finite_mean, rows=nearest, against="training")
    samples, training = list(RNG.normal(size=30)), list(RNG.normal(size=50))
    (row,) = score([measure], samples, [0.0, 1.0], training=training)
    assert row.samples is not None and row.real is not None and calls == [30, 2]
    assert row.samples.value == pytest.approx(np.mean([min(abs(a - b) for b in training) for a in samples]))
    assert row.samples.low < row.samples.value < row.samples.high
    assert score([measure], samples, [0.0, 1.0]) == []  # without what it is against


def test_artifacts_are_described_once_and_anywhere_with_the_same_numbers() -> None:
    seen: list[int] = []

    def describe(artifacts: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen.append(len(artifacts))
        return list(artifacts)

    both = [measures.between(name, describe, frechet) for name in ("a", "b")]
    samples, reference, real = (list(RNG.normal(size=(150, 2))) for _ in range(3))
    here = score(both, samples, reference, real=real)
    assert sum(seen) == 450 and max(seen) == 64
    with ThreadPoolExecutor(2) as pool:
        there = score(both, samples, reference, real=real, executor=pool)
    assert [(row.samples, row.real) for row in here] == [(row.samples, row.real) for row in there]
    assert here[0].samples == here[1].samples != here[0].real


def test_too_few_are_said_in_the_table_and_refused_alone() -> None:
    samples = list(RNG.normal(size=(2, 2)))
    with pytest.raises(DataError, match=r"frechet got 2 samples and 2 real ones.*at least 3"):
        APART(samples, samples)
    few, enough = score([APART, POOLED], samples, samples)
    assert few.samples is None and few.note == "frechet got 2 samples and 2 real ones: at least 3"
    assert enough.samples is not None and math.isfinite(enough.samples.value)
    table = Scores((few, enough))
    assert math.isnan(table.values()["frechet"]) and "at least 3" in str(table)


@pytest.mark.parametrize(
    "wrong",
    [{"least": 0}, {"least": 1.5}, {"better": "more"}, {"against": "all"}, {"name": ""}, {"within": (math.nan,)}],
)
def test_what_is_no_measure_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        Measure(**{"name": "m", "compare": measures.finite_mean, **wrong})


def test_a_plain_function_is_a_measure() -> None:
    def gap(samples: list[float], reference: list[float]) -> float:
        """How far the means are apart."""
        return abs(float(np.mean(samples) - np.mean(reference)))

    measure = measure_of("gap", gap)
    assert measure([1.0, 2.0], [4.0]) == 2.5 and measure.about == "How far the means are apart."
    assert measure_of("gap", measure) is measure and measure_of("other", measure).name == "other"


# What was asked


def test_a_class_is_obeyed_and_shuffling_is_seen() -> None:
    label = Label(("a", "b", "c", "d"))
    asked = list("abcd") * 50
    found = [k if i % 10 else "a" for i, k in enumerate(asked)]  # one in ten is an a, whatever was asked
    (row,) = obeyed(label.agreement("kind"), asked, found, real=[("a", "a"), (1, "b"), ("c", "d")], by="judge")
    assert row.samples is not None and row.shuffled is not None and row.real is not None
    right = sum(a == b for a, b in zip(asked, found, strict=True)) / 200
    assert row.samples.value == right and row.name == "kind as asked (judge)"
    assert 0.15 < row.shuffled.value < 0.35 and row.real.value == pytest.approx(2 / 3)
    same = obeyed(label.agreement("kind"), asked, ["a"] * 200)[0]  # what does not listen
    assert same.samples is not None and same.shuffled is not None and same.samples.value == same.shuffled.value == 0.25


def test_a_number_is_obeyed() -> None:
    rng = np.random.default_rng(3)
    asked = list(rng.uniform(100, 400, 60))
    found: list[float | None] = [value * (1.02 if i % 2 else 0.99) for i, value in enumerate(asked)]
    rank, gap = obeyed(Number("Hz", "log").agreement("pitch"), asked, found)
    assert rank.samples is not None and gap.samples is not None and rank.shuffled is not None
    known: Any = spearmanr(asked, found)
    assert rank.samples.value == pytest.approx(known.statistic)
    assert gap.samples.value == pytest.approx(1.5) and gap.measure.unit == "%"
    assert abs(rank.shuffled.value) < 0.4
    linear = Number("A").agreement("size")[1]
    assert linear([(1.0, 1.5), (2.0, 2.25), (3.0, None)]) == pytest.approx(0.375) and linear.unit == "A"


def test_sites_are_obeyed_one_by_one() -> None:
    whole, helix, strand = Sites(("H", "E")).agreement("structure")
    pairs = [("HH?E", "HEHE"), ("EE", "EEE"), (None, "HH")]
    assert whole(pairs) == pytest.approx(4 / 5)
    assert helix(pairs) == pytest.approx(1 / 2) and strand(pairs) == 1.0


# Tables


ROWS = (
    MeasureScore(Measure("a_b & c", measures.finite_mean, unit="A", better="lower"), Estimate(0.123456, 0.1, 0.15, 8),
          Estimate(0.5, n=8)),
    MeasureScore(Measure("pipe|d", measures.finite_mean, better="higher"), Estimate(float("nan"), n=3), by="judge 1"),
    MeasureScore(Measure("few", measures.finite_mean), note="too few"),
)  # fmt: skip


def test_tables_say_the_same_in_every_form() -> None:
    table = Scores(ROWS, {"n": 8})
    data = json.loads(table.json())
    assert data["n"] == 8 and [row["name"] for row in data["measures"]] == ["a_b & c", "pipe|d (judge 1)", "few"]
    assert data["measures"][0]["samples"] == {"value": 0.123456, "low": 0.1, "high": 0.15, "n": 8}
    assert data["measures"][1]["samples"]["value"] is None and data["measures"][2]["note"] == "too few"
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert float(rows[0]["samples_value"]) == 0.123456 and rows[0]["real_low"] == "" and rows[2]["note"] == "too few"
    lines = table.markdown().splitlines()
    assert lines[2].split(" | ")[2] == "0.123 [0.100, 0.150]" and lines[3].startswith("| pipe\\|d (judge 1) |")
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    latex = table.latex()
    assert r"a\_b \& c, A & $\downarrow$ & 0.123 [0.100, 0.150] & 0.5 \\" in latex and latex.count(r"\\") == 4
    assert table["few"].note == "too few" and table["pipe|d"].by == "judge 1"
    with pytest.raises(KeyError, match=r"nothing.*a_b & c"):
        table["nothing"]
    assert str(table).splitlines()[1].startswith("a_b & c, A")
