"""Training: what an interrupted run gives, what is written, what the command line does with it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import gendiff
from gendiff.cli import main
from gendiff.domain import Example, Examples
from gendiff.errors import DataError, RecipeError
from gendiff.training import Clean, ImportanceTimes, Objective
from gendiff_images import Images
from gendiff_images.sources import Digits
from gendiff_recipes import audio, images, proteins
from gendiff_recipes.module import Denoising
from gendiff_recipes.recipe import Recipe, Trainer
from gendiff_recipes.training import train


def tiny(**trainer: Any) -> Recipe:
    options = Trainer(**{"steps": 12, "batch": 16, "show": 0, "checkpoint": 6, "precision": "float32", **trainer})
    return Recipe("images.tiny", Images.of(Digits()), network={"channels": (16, 32), "blocks": 1}, trainer=options)


def weights(model: gendiff.Model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.denoiser.parameters()])


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net; see test_runs for every kind of interruption of a small network."""
    whole = train(tiny(), tmp_path / "whole", quiet=True)
    step = Denoising.training_step

    def cut(self: Denoising, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        if batch["number"] == 9:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "training_step", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tiny(), tmp_path / "cut", quiet=True)
    resumed = train(tiny(), tmp_path / "cut", quiet=True, resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    other = train(tiny(seed=1), tmp_path / "other", quiet=True)
    assert not torch.equal(weights(other), weights(whole))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_fused_step_is_the_plain_one_however_weights_lie(
    parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's fused step takes weights, gradients and moments as they lie in memory, without a look at their order;
    convolutions of pictures lie by channels. Steps of AdamW amplify rounding, so this is float64.
    """
    run = tiny(steps=5, accumulate=parts, precision="float64")
    fused = train(run, tmp_path / "fused", quiet=True)
    convolutions = [p for p in fused.denoiser.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert any(not p.is_contiguous() for p in convolutions)
    own = torch.optim.AdamW

    def step_by_step(*args: Any, fused: bool, **more: Any) -> torch.optim.Optimizer:
        assert fused
        return own(*args, **more)

    monkeypatch.setattr(torch.optim, "AdamW", step_by_step)
    plain = train(run, tmp_path / "plain", quiet=True)
    assert (weights(fused) - weights(plain)).abs().max() < 1e-9


def test_a_run_that_recomputes_its_activations_is_the_same(tmp_path: Path) -> None:
    """To the bit, with dropout; and a run may go on with it or without."""
    small = {"channels": (8, 16), "blocks": 1, "dropout": 0.2}
    plain = dataclasses.replace(tiny(steps=4, checkpoint=2), network=small)
    again = dataclasses.replace(plain, trainer=dataclasses.replace(plain.trainer, checkpoint_activations=True))
    runs = [train(run, tmp_path / str(i), quiet=True) for i, run in enumerate((plain, again))]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    with pytest.raises(RecipeError, match=r"checkpoint_activations=True.*compiler"):
        Trainer(checkpoint_activations=True, compile=True)


def test_times_are_learned_from_the_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of the bins where losses are large, told every `every` steps; the objective stays that of even log-SNRs."""
    seen: list[Denoising] = []
    step, corrected = Denoising.training_step, []

    def watched(self: Denoising, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        seen.append(self)
        loss = step(self, batch, batch_idx)
        assert self.learned is not None
        (t, losses), drawn_from = self.seen[-1], self.learned.snapshot()
        weights = drawn_from.correction(t, self.denoiser.process)
        torch.testing.assert_close(loss.detach().double(), (weights * losses).mean(), rtol=1e-5, atol=0)
        corrected.append(float((weights - 1).abs().max()))
        return loss

    monkeypatch.setattr(Denoising, "training_step", watched)
    times = ImportanceTimes(-6.0, 6.0, bins=4, every=3)
    # The error of x0 itself: large where there is much noise.
    recipe = dataclasses.replace(tiny(), times=times, objective=Objective(Clean()))
    train(recipe, tmp_path, quiet=True)
    learned = seen[-1].learned
    assert learned is not None and seen[-1].seen == []
    assert float(learned.counts.sum()) > 0.9 * 12 * 16
    binned = learned.snapshot()
    losses = (learned.squares / learned.counts).sqrt()
    assert [k for k, _ in sorted(enumerate(binned.mass), key=lambda p: p[1])] == losses.argsort().tolist()
    assert binned.mass[0] > 1.3 * binned.mass[-1]  # the noisiest bin and the cleanest
    assert corrected[-1] > 0.1  # so that the correction of the loss was seen above


def test_a_run_leaves_what_is_needed_to_repeat_it(tmp_path: Path) -> None:
    recipe = tiny(steps=4, show=4, samples=2, measure=4, measured=8)
    model = train(recipe, tmp_path, quiet=True)
    assert Recipe.load(tmp_path / "recipe.json") == dataclasses.replace(recipe, domain=model.domain)
    with (tmp_path / "metrics.csv").open() as file:
        columns = set(next(csv.reader(file)))
    beside = [name for name, measure in model.domain.metrics().items() if measure.against != "training"]
    assert columns >= {"train/loss", *(f"metrics/{name}" for name in beside)} and len(beside) >= 2
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 4
    drawn = tmp_path / "samples" / "step_000004"
    assert sorted(p.name for p in drawn.iterdir()) == ["0000.png", "0001.png", "all.png", "manifest.json"]
    assert json.loads((drawn / "manifest.json").read_text())["step"] == 4
    again = gendiff.load(tmp_path)
    assert torch.equal(weights(again), weights(model))
    first, second = model.sample(2, label="3", seed=5), again.sample(2, label="3", seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_training_by_time_ends_and_lowers_the_learning_rate(tmp_path: Path) -> None:
    train(tiny(steps=100_000, minutes=0.03), tmp_path, quiet=True)
    summary = json.loads((tmp_path / "training.json").read_text())
    assert 1.8 <= summary["seconds"] < 6
    assert summary["steps"] < 100_000


def test_a_batch_that_devices_cannot_share(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="multiple of the devices"):
        train(tiny(batch=10, devices=4), tmp_path, quiet=True)


@dataclasses.dataclass(frozen=True)
class Holed(Images):
    """Digits of which one is not a number."""

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        items = list(super().dataset(split, root))[:20]
        broken = items[7].artifact.clone()
        broken[0, 0, 0] = math.nan
        return Examples([*items[:7], Example(broken, items[7].cond, "digit 7"), *items[8:]])

    def encode(self, artifact: Any) -> torch.Tensor:
        return (artifact - 0.5) / 0.5

    def fit(self, artifacts: Any) -> Holed:
        return self


def test_nan_in_the_data_names_the_example(tmp_path: Path) -> None:
    fields = {f.name: getattr(Images.of(Digits()), f.name) for f in dataclasses.fields(Images)}
    with pytest.raises(DataError, match="'digit 7' holds 1 values that are not finite"):
        train(dataclasses.replace(tiny(), domain=Holed(**fields)), tmp_path, quiet=True)


@pytest.mark.parametrize("make", [images.digits, audio.tones, proteins.ideal])
def test_every_embedded_recipe_takes_steps_and_samples(make: Any, tmp_path: Path) -> None:
    changes = ("trainer.steps=2", "trainer.batch=4", "trainer.show=0", "trainer.minutes=none", "limit=16")
    model = train(make().override(*changes), tmp_path, quiet=True)
    artifacts = model.sample(2, steps=2, **model.domain.preview(2))
    for i, artifact in enumerate(artifacts):
        path = tmp_path / f"{i}{model.domain.suffix}"
        model.domain.write(artifact, path)
        model.domain.read(path)


def test_the_command_line_trains_samples_judges_and_cites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    recipe = tiny(steps=3)
    recipe.save(tmp_path / "recipe.json")
    assert main(["train", str(tmp_path / "recipe.json"), "trainer.steps=4", "--out", str(run), "--quiet"]) == 0
    assert main(["sample", str(run), "-n", "3", "label=4", "--steps", "2", "--out", str(tmp_path / "s")]) == 0
    assert len(list((tmp_path / "s").glob("0*.png"))) == 3
    assert main(["evaluate", str(run), "-n", "8", "--json", str(tmp_path / "e.json")]) == 0
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert all(row.get("note") or (row["samples"]["n"] == row["real"]["n"] == 8) for row in numbers["measures"])
    fit = ["--steps", "3", "--pilots", "12", "--rounds", "0", "--guidance", "1.5"]
    assert main(["calibrate", str(run), "label=4", *fit]) == 0
    assert "3 steps" in capsys.readouterr().out
    assert main(["bench", str(run), "-n", "2", "--steps", "2", "3", "--reference", "8", "--guidance", "1.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("Calibrated")] == ["3"]
    assert main(["cite", str(run)]) == 0
    assert "lipman2023flow" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], 'Did you mean "train"'),
        (["train", "image.digits"], 'Did you mean "images.digits"'),
        (["train", "images.digit"], 'Did you mean "images.digits"'),
        (["train", "images.digits", "trainer.step=2"], 'Did you mean "steps"'),
        (["sample", "nowhere.safetensors"], "There is no model file"),
    ],
)
def test_the_command_line_answers_mistakes(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("ragged", [False, True])
def test_a_set_that_is_not_kept_gives_the_same_batches(ragged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded when asked for or before: the same bits, lengths and fingerprint, and no state is held."""
    from benchmarks.interruptions import Chains, Pairs
    from gendiff_recipes.data import Encoded

    domain: Any = Chains() if ragged else Pairs()
    examples = domain.dataset("train")
    kept, lazy = Encoded(domain, examples), Encoded(domain, examples, most=100)
    assert kept.states is not None and lazy.states is None
    assert not kept.about and "gendiff prepare" in lazy.about[0]
    assert kept.fingerprint == lazy.fingerprint and kept.lengths == lazy.lengths and len(kept) == len(lazy)
    for i in range(len(kept)):
        (a, x), (b, y) = kept[i], lazy[i]
        assert torch.equal(a, b) and x.keys() == y.keys()
