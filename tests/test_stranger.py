"""A stranger's domain, installed as a stranger would install it, trained and sampled by what serves our own.

The oracle is the data's own law: two basins of equal weight, standard deviation 9 degrees, one across the seam at 180.
Means and spreads are circular: angle and length of the mean resultant exp(i angle).
"""

from __future__ import annotations

import ast
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff import DPMpp2M, Euler, Heun, Model
from gendiff.discovery import domain_class
from gendiff.errors import RequestError
from gendiff.testing import check_domain
from gendiff_recipes.recipe import Optimizer, Recipe, Trainer
from gendiff_recipes.training import train

REACH = 40.0  # degrees around its centre that count as a basin: 4.4 standard deviations


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The folder into which pip has put the package."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "gendiff_torsions"
    shutil.copytree(root / "examples" / "gendiff_torsions", source)  # which pip builds in, and others beside
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def torsions(installed: Path) -> Any:
    """The domain, found by its name alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(installed))
        yield domain_class("torsions")()
    sys.modules.pop("gendiff_torsions", None)


@pytest.fixture(scope="module")
def trained(torsions: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """After 1,500 steps on one core; read back from its file."""
    recipe = Recipe(
        name="torsions.basins",
        domain=torsions,
        ema=0.995,
        optimizer=Optimizer(lr=3e-3),
        trainer=Trainer(steps=1500, batch=128, accelerator="cpu", precision="float32", show=0, checkpoint=10_000),
    )
    folder = tmp_path_factory.mktemp("run")
    train(recipe, folder, quiet=True)
    return gendiff.load(folder / "model.safetensors")


def test_it_is_found_by_a_new_process(installed: Path) -> None:
    code = "from gendiff.discovery import domain_class; print(domain_class('torsions')())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "Torsions(length=16, pieces=512)"
    module = Path(installed / "gendiff_torsions.py").read_text()
    assert "gendiff_recipes" not in module and "lightning" not in module


def test_it_keeps_the_contract(torsions: Any) -> None:
    check_domain(torsions, requests=[{}, {"length": 5}])


def code_lines(path: Path) -> set[int]:
    """The lines of code of a file: no blank ones, comments and docstrings."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        documentation = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not documentation:
            body = isinstance(node, ast.ClassDef | ast.FunctionDef)
            lines |= set(range(node.lineno, (node.body[0].lineno if body else (node.end_lineno or 0) + 1)))
            lines |= {d.lineno for d in node.decorator_list} if body else set()
    return lines


def test_it_is_short(root: Path) -> None:
    """The whole package is at most 45 lines of code."""
    assert len(code_lines(root / "examples" / "gendiff_torsions" / "gendiff_torsions.py")) <= 45


def circular(degrees: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation in degrees: the angle of the mean resultant, and sqrt(-2 ln of its length)."""
    resultant = np.exp(1j * np.deg2rad(degrees.double().numpy())).mean()
    return math.degrees(np.angle(resultant)), math.degrees(math.sqrt(-2 * math.log(abs(resultant))))


def apart(degrees: torch.Tensor, centre: Any) -> torch.Tensor:
    """The shorter way round, per angle."""
    return ((degrees - torch.tensor(centre) + 180) % 360 - 180).abs()


def share(chosen: torch.Tensor) -> float:
    return float(chosen.double().mean())


@pytest.mark.parametrize("sampler", [Euler(50), Heun(12), DPMpp2M(12)], ids=repr)
def test_its_samples_follow_the_law(trained: Model, sampler: Any) -> None:
    angles = torch.cat(trained.sample(256, length=20, sampler=sampler, seed=1))
    assert angles.abs().max() <= 180 + 1e-3
    inside = {centre: (apart(angles, centre) < REACH).all(-1) for centre in [(-63, -42), (-120, 175)]}
    assert sum(share(basin) for basin in inside.values()) >= 0.96  # few were caught between the basins
    for centre, basin in inside.items():
        assert share(basin) == pytest.approx(0.5, abs=0.05)
        for column in (0, 1):
            mean, spread = circular(angles[basin, column])
            assert apart(torch.tensor(mean), centre[column]) <= 1.5, (centre, mean)
            assert 8 <= spread <= 11, (centre, spread)


def test_its_own_measure_agrees(trained: Model) -> None:
    domain = trained.domain
    energy, reference = domain.metrics()["energy"], list(domain.dataset("test").artifacts)
    wrong = energy([torch.rand(16, 2) * 360 - 180 for _ in range(64)], reference)
    assert abs(energy(list(domain.dataset("train").artifacts), reference)) < 0.01 * wrong
    assert energy(trained.sample(64, seed=2), reference) < 0.03 * wrong


def test_what_it_cannot_answer_is_refused(trained: Model) -> None:
    with pytest.raises((RequestError, TypeError), match="lenght"):
        trained.sample(1, lenght=20)
