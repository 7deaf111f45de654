"""A recipe is one frozen object: changed strictly, saved whole, read back equal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import gendiff
from gendiff.errors import RecipeError, UnknownName
from gendiff.sampling import grids as times
from gendiff.sampling import solvers
from gendiff_recipes import images
from gendiff_recipes.recipe import PRECISIONS, Optimizer, Recipe


def test_override_changes_nested_fields_and_nothing_else() -> None:
    recipe = images.digits()
    other = recipe.override("optimizer.lr=3e-4", "trainer.minutes=2", "trainer.compile=true", "drop=0")
    assert (other.optimizer.lr, other.trainer.minutes, other.trainer.compile, other.drop) == (3e-4, 2.0, True, 0.0)
    assert other.domain == recipe.domain and other.optimizer.warmup == recipe.optimizer.warmup
    assert recipe.override("trainer.minutes=none").trainer.minutes is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.learning_rate=1", "no 'learning_rate'"),
        ("optimiser.lr=1", 'Did you mean "optimizer"'),
        ("trainer.step=5", 'Did you mean "steps"'),
        ("trainer.steps=many", "a value of type int, like 2000"),
        ("trainer.steps=1.5", "a value of type int"),
        ("trainer.steps", "path=value"),
    ],
)
def test_a_wrong_override_says_what_is_right(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        images.digits().override(change)


def test_json_gives_the_recipe_back() -> None:
    recipe = images.digits().override("optimizer.betas=(0.8, 0.95)")
    assert Recipe.of(json.loads(json.dumps(recipe.config()))) == recipe


def test_a_key_that_nobody_reads_is_an_error() -> None:
    config = images.digits().config()
    with pytest.raises(RecipeError, match='Did you mean "guidance"'):
        Recipe.of({**config, "guidanse": 2})
    with pytest.raises(RecipeError, match="no 'sizes'"):
        Recipe.of({**config, "domain": {**config["domain"], "sizes": 3}})
    with pytest.raises(UnknownName, match='Did you mean "images"'):
        Recipe.of({**config, "domain": {"name": "image"}})


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    o = Optimizer(warmup=10, decay=0.4, final=0.02)
    assert o.factor(0, 0.0) == pytest.approx(0.1)
    assert o.factor(9, 0.1) == o.factor(500, 0.6) == 1.0
    assert o.factor(900, 0.8) == pytest.approx(0.51)
    assert o.factor(1000, 1.0) == pytest.approx(0.02)


WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda p: p.stem)
def test_shipped_weights_load_sample_and_hold_their_recipe(path: Path, tmp_path: Path) -> None:
    model = gendiff.load(path)
    recipe = Recipe.of(model.recipe)
    assert recipe.trainer.precision in PRECISIONS and model.metrics
    card = (path.parent / "README.md").read_text().partition(f"## {path.name}\n")[2].partition("\n## ")[0]
    sampled = re.search(r"Sampled\*\* by `(.*)`, (\d+) evaluations", card)
    assert sampled and eval(sampled[1], vars(solvers) | vars(times)) == model.sampler
    assert model.sampler.evaluations(model.denoiser.process) == int(sampled[2])
    artifact = model.sample(1, steps=6, **model.domain.preview(1))[0]
    model.domain.write(artifact, tmp_path / f"sample{model.domain.suffix}")


def test_a_condition_may_be_called_kind(tmp_path: Path) -> None:
    """ "kind" is also the word by which a config names a class."""
    from gendiff import Label, Model
    from gendiff.config import from_config
    from gendiff_images import Images

    domain = Images(size=8, channels=1, asked={"kind": Label(("a", "b"))})
    scales = {"kind": 2.0}
    recipe = Recipe("own", domain, guidance=scales, drop={"all": 0.1, "kind": 0.2})
    recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == recipe
    model = Model.new(domain, channels=(8, 8), blocks=1)
    model.recipe = recipe.config()
    again = gendiff.load(model.save(tmp_path / "m.safetensors"))
    assert again.domain == domain and again.guidance == scales == model.guidance
    with pytest.raises(RecipeError, match="'itmes'"):
        from_config({"kind": "dict", "itmes": {}})
