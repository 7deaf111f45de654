"""What the tests of runs share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.interruptions import install
from gendiff_images import Digits, Images
from gendiff_recipes.recipe import Recipe, Trainer
from gendiff_recipes.training import train


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The small domains of these tests, installed as a package of a stranger."""
    path = list(sys.path)
    install(tmp_path_factory.mktemp("site"))
    yield
    sys.path[:] = path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run on digits."""
    out = tmp_path_factory.mktemp("run") / "digits"
    options = Trainer(steps=3, batch=16, show=0, checkpoint=100, precision="float32")
    recipe = Recipe(
        "images.tiny", Images.of(Digits()), network={"channels": (16, 32), "blocks": 1}, trainer=options, guidance=1.5
    )
    train(recipe, out, quiet=True)
    return out
