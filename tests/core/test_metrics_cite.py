"""Distances against closed forms, and citations against what exists."""

from __future__ import annotations

import importlib
import math
import pkgutil
import re

import numpy as np
import pytest
from torch import nn

import gendiff
import gendiff.guidance
import gendiff.nn
import gendiff.processes.schedules
import gendiff.sampling.grids
import gendiff.sampling.solvers
import gendiff.training
from gendiff import Denoiser, EDMHead, Gaussian, Guided, Heads, Heun, Joint, Tangent, Velocity, cite
from gendiff.citations import USED_BY, papers
from gendiff.errors import DataError
from gendiff.evaluation import energy, frechet, kid, nearest_distances, pairwise, wasserstein1


def normal(n: int, d: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def with_moments(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """x moved to have exactly this mean and covariance."""
    x = x - x.mean(0)
    whiten = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
    return x @ whiten.T @ np.linalg.cholesky(cov).T + mean


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    a = np.array([[2.0, 0.5, 0], [0.5, 1.0, 0.2], [0, 0.2, 0.5]])
    scaled, shift = 4.0 * a, np.array([1.0, -2.0, 0.5])
    x, y = with_moments(normal(500, 3), np.zeros(3), a), with_moments(normal(400, 3, 1), shift, scaled)
    # C' = 4 C commutes with C: tr (C + 4 C - 2 * 2 C) = tr C
    assert frechet(x, y) == pytest.approx((shift**2).sum() + np.trace(a), rel=1e-10)
    # Two diagonal covariances, and two that do not commute, by the eigenvalues of their product.

    b = np.array([[1.0, -0.7, 0.1], [-0.7, 2.0, 0.0], [0.1, 0.0, 3.0]])
    y = with_moments(normal(400, 3, 1), shift, b)
    by_hand = (shift**2).sum() + np.trace(a) + np.trace(b) - 2 * np.sqrt(np.linalg.eigvals(a @ b)).sum().real
    assert frechet(x, y) == pytest.approx(by_hand, rel=1e-9) and frechet(y, x) == pytest.approx(by_hand, rel=1e-9)
    assert abs(frechet(x, x)) < 1e-10
    flat = np.concatenate([x, np.zeros((len(x), 5))], 1)  # singular covariances are no trouble
    assert abs(frechet(flat, flat)) < 1e-10
    assert frechet(x[:, 0], x[:, 0] + 3) == pytest.approx(9)


def test_energy_distance_is_unbiased_and_has_its_closed_form() -> None:
    # Two points each: 2 E|x - y| - E|x - x'| - E|y - y'| by hand.
    assert energy([[0.0], [1.0]], [[3.0], [5.0]]) == pytest.approx(2 * 3.5 - 1 - 2)
    # For N(0, 1) and N(m, 1): 2 E|N(m, 2)| - 2 E|N(0, 2)|.
    m, n = 0.8, 2000
    exact = 2 * (2 / math.pi**0.5 * math.exp(-m * m / 4) + m * math.erf(m / 2)) - 4 / math.pi**0.5
    assert energy(normal(n), normal(n, seed=1) + m) == pytest.approx(exact, abs=0.06)
    null = [energy(normal(50, 2, 2 * s), normal(60, 2, 2 * s + 1)) for s in range(200)]
    assert abs(np.mean(null)) < 4 * np.std(null) / 200**0.5


def test_kernel_distance_is_unbiased_and_agrees_with_its_definition() -> None:
    x, y = normal(7, 2), normal(5, 2, 1) + 1

    def k(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / 2 + 1) ** 3

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    assert kid(x, y) == pytest.approx(xx + yy - 2 * np.mean([k(a, b) for a in x for b in y]))
    null = [kid(normal(50, 2, 2 * s), normal(60, 2, 2 * s + 1)) for s in range(200)]
    assert abs(np.mean(null)) < 4 * np.std(null) / 200**0.5


def test_wasserstein_of_a_shift_is_the_shift() -> None:
    x = normal(1000)
    assert wasserstein1(x, x + 0.7) == pytest.approx(0.7)
    assert wasserstein1(x, 3 * x) == pytest.approx(2 * np.abs(x).mean())
    assert wasserstein1([0.0, 1.0, 3.0], [5.0, 6.0, 8.0]) == pytest.approx(5)


def test_distances_between_points_are_by_differences() -> None:
    x = 1000 + 1e-4 * normal(300, 4)
    exact = np.linalg.norm(x[:, None] - x[None], axis=-1)
    np.testing.assert_allclose(pairwise(x, x), exact, rtol=1e-12)
    assert (nearest_distances(x, np.concatenate([x[:5], x[:5] + 1])) >= 0).all()
    assert nearest_distances([[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [9.0, 9.0]]) == pytest.approx([0, 5])


@pytest.mark.parametrize("measure", [frechet, energy, kid, wasserstein1])
def test_values_that_are_not_finite_are_refused(measure) -> None:
    with pytest.raises(DataError, match="not finite"):
        measure([[1.0], [float("nan")]], [[1.0], [2.0]])


@pytest.mark.parametrize("measure", [frechet, energy, kid])
def test_a_metric_needs_two_vectors_of_the_same_features_in_each_set(measure) -> None:
    two = [[1.0, 2.0], [0.0, 1.0]]
    assert np.isfinite(measure(two, two))
    for x, y in ((two[:1], two), (two, two[:1]), ([], two)):
        with pytest.raises(DataError, match="at least 2 in each"):
            measure(x, y)
    with pytest.raises(DataError, match="vectors of 2 and of 1 numbers"):
        measure(two, [[1.0], [2.0]])


def test_every_citation_is_of_something_that_exists() -> None:
    folders = (gendiff.guidance, gendiff.nn, gendiff.processes.schedules, gendiff.sampling, gendiff.training)
    modules = (gendiff, *folders, gendiff.sampling.grids, gendiff.sampling.solvers)
    known = {name for module in modules for name in dir(module)}
    listed = papers()
    assert set(listed) == {key for keys in USED_BY.values() for key in keys}, "a paper that nothing cites"
    for name, keys in USED_BY.items():
        assert name in known, f"{name} is cited but does not exist"
        for key in keys:
            assert key in listed, f"{name} cites {key}, which is not listed"
    for key, entry in listed.items():
        assert re.fullmatch(r"[a-z]+\d{4}[a-z0-9]+", key)
        assert entry.count("{") == entry.count("}") and entry.startswith("@misc{" + key + ",") and entry.endswith("}")
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))
        assert set(fields) == {"author", "title", "howpublished", "year"} and fields["year"] in key, key
        assert all(author.count(",") == 1 for author in fields["author"].split(" and ") if author != "others"), key


def test_one_class_has_a_cited_name() -> None:
    """Citations go by name, so a namesake would cite the wrong paper."""
    homes: dict[str, set[str]] = {}
    for found in pkgutil.walk_packages(gendiff.__path__, "gendiff."):
        if not found.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(found.name)).items():
                if isinstance(value, type) and value.__module__.startswith("gendiff."):
                    homes.setdefault(name, set()).add(value.__module__)
    assert not {name: modules for name, modules in homes.items() if name in USED_BY and len(modules) > 1}


def test_citations_go_through_everything_a_model_is_built_of() -> None:
    text = cite(Heun(18), EDMHead())
    assert text.count("@misc") == 1 and "karras2022edm" in text
    process = Joint(pos=Gaussian(), rot=gendiff.Geodesic(gendiff.SO3(), gendiff.Exponential()))
    model = Denoiser(nn.Linear(1, 1), Heads(pos=Velocity(), rot=Tangent()), process)
    text = cite(Guided(model, 2.0, dict), gendiff.DPMpp2M(times=gendiff.Karras()))
    for key in (
        "lipman2023flow",
        "chen2024riemannian",
        "yim2023frameflow",
        "ho2022cfg",
        "lu2022dpmpp",
        "karras2022edm",
    ):
        assert text.count("{" + key + ",") == 1, key

    # Solvers that are made of Adams, and what stands inside networks.
    for solver, key in (
        (gendiff.DEIS(8), "zhang2023deis"),
        (gendiff.SASolver(8), "xue2023sasolver"),
        (gendiff.DPMpp3M(8), "lu2022dpmpp"),
    ):
        assert "{" + key + "," in cite(solver), key
    network = gendiff.nn.DiT(1, in_channels=1, out_channels=1, width=16, depth=1, heads=1)
    text = cite(nn.Sequential(nn.Linear(1, 1), network))
    assert re.findall(r"@misc{(\w+)", text) == ["peebles2023dit", "henry2020qknorm", "su2021roformer"]

    class Mine:
        citations = ("@misc{me2026, title = {Mine}}",)

    assert cite(Mine()) == "@misc{me2026, title = {Mine}}"
    assert cite() == "" and cite(3, "text", None) == ""
