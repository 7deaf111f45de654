"""Codecs through the trainer: cut and resumed, finished, given to latents, prepared, and asked for wrongly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import gendiff
from gendiff import FSQ, KL, Adversarial, Codec, Latent, LoRA, PretrainedCodec, Reconstruction
from gendiff.errors import CheckpointError, RecipeError, RequestError
from gendiff.latents import open_codec
from gendiff.model import Model
from gendiff_audio import Audio, Tones
from gendiff_images import Digits, Folder, Images
from gendiff_recipes import images, training
from gendiff_recipes.callbacks import Clock
from gendiff_recipes.checkpoints import newest
from gendiff_recipes.module import Coding
from gendiff_recipes.overrides import listing
from gendiff_recipes.prepared import prepare
from gendiff_recipes.recipe import CodecRecipe, Optimizer, Recipe, Trainer
from gendiff_recipes.training import Interrupted, train
from tests.core.autoencoders import made, saved

SIZE = {"latent": 4, "stride": 4, "widths": (8,), "blocks": 1, "deep": 1}
SHORT = Trainer(steps=6, batch=8, show=3, samples=2, accelerator="cpu", precision="float32", threads=1, logger=("csv",))
FAST = Optimizer(lr=1e-3, warmup=2)


def recipe_of(name: str = "pictures", **changes: Any) -> CodecRecipe:
    domain = {"pictures": Images.of(Digits(), flip=True), "sound": Audio(source=Tones(count=24))}[name]
    made = CodecRecipe(
        f"{name}.codec",
        domain,
        SIZE,
        ema=0.9,
        optimizer=FAST,
        trainer=SHORT,
        loss=Reconstruction(l1=0.0),
        segment=32,
        measured=16,
        limit=64,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return train(recipe_of(), tmp_path_factory.mktemp("codec") / "run", quiet=True)


@pytest.mark.parametrize("name", ["pictures", "sound"])
def test_a_codec_is_trained_measured_and_read_again(name: str, tmp_path: Path) -> None:
    steps = dataclasses.replace(SHORT, steps=40)
    found = train(recipe_of(name, trainer=steps), tmp_path / "run", quiet=True)
    assert (
        found.metrics["explained"] > found.metrics["pca"] - 0.03
        and found.metrics["states"] == {"pictures": 16, "sound": 8}[name]
    )
    other = Codec.load(tmp_path / "run")
    assert other.digest == found.digest and other.metrics == found.metrics
    assert (tmp_path / "run/samples/step_000039.png").exists() or list((tmp_path / "run/samples").glob("*.png"))
    assert Recipe.load(tmp_path / "run/recipe.json").config() == json.loads(
        json.dumps(recipe_of(name, trainer=steps, domain=found.domain).config())
    )


def test_training_makes_it_better_than_its_beginning(tmp_path: Path) -> None:
    steps = dataclasses.replace(SHORT, steps=250, batch=32, show=0)
    found = train(recipe_of(trainer=steps, bottleneck=KL(1e-5, std=0.05), limit=None), tmp_path / "run", quiet=True)
    assert found.metrics["explained"] > found.metrics["pca"] + 0.01


@pytest.mark.parametrize("cut", [1, 3, 5])
@pytest.mark.parametrize("name", ["pictures", "sound"])
def test_cut_anywhere_it_goes_on_to_the_same_bits(
    name: str, cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(recipe_of(name), tmp_path / "whole", quiet=True)
    after = Clock.after

    def stop(self: Clock, trainer: Any, module: Any) -> None:
        after(self, trainer, module)
        self.signal = 15 if module.step == cut else None

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "after", stop)
        with pytest.raises(Interrupted):
            train(recipe_of(name), tmp_path / "cut", quiet=True)
    again = train(recipe_of(name), tmp_path / "cut", quiet=True, resume=True)
    assert again.digest == whole.digest and again.metrics == whole.metrics
    read = train(recipe_of(name), tmp_path / "cut", quiet=True, resume=True)  # its budget is used up
    assert read.digest == whole.digest


def stopped(patch: pytest.MonkeyPatch, at: int) -> None:
    """From now on a run gets a signal after so many steps."""
    after = Clock.after

    def stop(self: Clock, trainer: Any, module: Any) -> None:
        after(self, trainer, module)
        self.signal = 15 if module.step == at else None

    patch.setattr(Clock, "after", stop)


@gendiff.register
class Blurred(torch.nn.Module):
    """Features with random weights and a batch norm."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(channels, 4, 3, padding=1), torch.nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layers(x))


def test_a_perceptual_loss_is_trained_cut_and_left_out(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"kind": Blurred, "channels": 1}
    plain = recipe_of(loss=Reconstruction(l1=0.0, features=own))
    assert train(plain, tmp_path / "plain", quiet=True).digest == codec.digest  # without weight the same bits
    recipe = recipe_of(loss=Reconstruction(l1=0.0, perceptual=0.5, features=own))
    whole = train(recipe, tmp_path / "whole", quiet=True)
    assert whole.digest != codec.digest
    with monkeypatch.context() as patch:
        stopped(patch, 4)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "cut", quiet=True)
    again = train(Recipe.load(tmp_path / "cut/recipe.json"), tmp_path / "cut", quiet=True, resume=True)
    assert again.digest == whole.digest
    assert recipe.override("loss.perceptual=0.25").loss.perceptual == 0.25  # type: ignore[attr-defined]


def test_pictures_with_classes_have_features_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENDIFF_CACHE", str(tmp_path / "cache"))
    steps = dataclasses.replace(SHORT, steps=100, show=0)
    recipe = recipe_of(loss=Reconstruction(l1=0.0, perceptual=0.1), trainer=steps, limit=None)
    train(recipe, tmp_path / "run", quiet=True)
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert "train/perceptual" in rows[0]
    domain = recipe.domain
    network = domain.feature_network()  # kept on disk
    x = torch.stack([domain.encode(e.artifact) for e in domain.dataset("test")[:3]])
    assert [f.shape[1:] for f in network(x)] == [(32, 8, 8), (64, 4, 4), (128, 2, 2)]


DUEL = Adversarial(0.5, start=2, width=4, layers=2, lr=1e-2)


@pytest.mark.parametrize("adversarial", [Adversarial(0.0, start=0, width=4), Adversarial(1.0, start=6, width=4)])
def test_a_discriminator_that_does_not_count_changes_no_bit(
    adversarial: Adversarial, codec: Codec, tmp_path: Path
) -> None:
    found = train(recipe_of(adversarial=adversarial), tmp_path / "run", quiet=True)
    assert found.digest == codec.digest and found.metrics == codec.metrics


@pytest.mark.parametrize(("name", "cut"), [("pictures", 1), ("pictures", 3), ("pictures", 5), ("sound", 4)])
def test_a_duel_cut_anywhere_goes_on_to_the_same_bits(
    name: str, cut: int, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(name, adversarial=DUEL)
    whole = train(recipe, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stopped(patch, cut)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "cut", quiet=True)
    again = Recipe.load(tmp_path / "cut/recipe.json").override("trainer.checkpoint_activations=true")
    again = train(again, tmp_path / "cut", quiet=True, resume=True)
    assert again.digest == whole.digest != codec.digest
    a, b = (next(newest(tmp_path / run / "checkpoints"))[1] for run in ("whole", "cut"))
    assert isinstance(a, dict) and isinstance(b, dict)
    for part in ("network", "beside", "ema", "optimizer"):
        assert tensors_of(a[part]) == tensors_of(b[part])


def tensors_of(value: Any) -> Any:
    """The tree with tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return {key: tensors_of(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", ["pictures", "sound"])
def test_neither_sees_the_gradients_of_the_other(name: str) -> None:
    recipe = recipe_of(name, adversarial=dataclasses.replace(DUEL, start=0))
    module = Coding(recipe.codec, recipe.codec.built(), recipe)
    module.configure_optimizers()
    judge, network = module.discriminator, module.autoencoder
    assert judge is not None
    grid = recipe.codec.grid
    x = gendiff.Noise.of(0, 4).normal((4, grid.channels, *[8] * grid.dims))

    def copied(part: torch.nn.Module) -> list[torch.Tensor]:
        return [p.detach().clone() for p in part.parameters()]

    def same(part: torch.nn.Module, before: list[torch.Tensor]) -> bool:
        return all(torch.equal(p, q) for p, q in zip(part.parameters(), before, strict=True))

    first, second = copied(judge), copied(network)
    losses = module.losses(grid.states(x), {}, gendiff.Noise.of(1, 4), {}, 0)
    assert not same(judge, first) and same(network, second)  # its own step is taken, and no other
    assert all(p.grad is None for p in network.parameters()) and not losses["discriminator"].requires_grad
    first = copied(judge)
    losses["loss"].mean().backward()
    assert same(judge, first) and all(p.grad is None for p in judge.parameters())
    assert all(p.grad is not None for p in network.up.parameters())
    parts = [losses[part] for part in ("l2", "adversarial", "bottleneck")]
    assert torch.allclose(losses["loss"], sum(parts)) and losses["discriminator"].shape == (4,)  # type: ignore[arg-type]
    names = [name for name, _ in module.trained()]
    assert names == [name for name, _ in network.named_parameters()]


def test_a_discriminator_learns_to_tell_a_blur() -> None:
    """Its loss falls from 1, that of one who knows nothing, where reconstructions are blurred and stay so."""
    recipe = recipe_of(adversarial=dataclasses.replace(DUEL, start=0, width=16), optimizer=Optimizer(warmup=0, decay=0))
    module = Coding(recipe.codec, recipe.codec.built(), recipe)
    module.configure_optimizers()
    found = []
    for step in range(60):
        x = gendiff.Noise.of(step, 16).normal((16, 1, 8, 8))
        found.append(float(module.oppose(x, torch.nn.functional.avg_pool2d(x, 3, 1, 1)).mean()))
    assert found[0] > 0.8 and found[-1] < 0.3


def test_a_duel_is_of_one_process() -> None:
    for change in ("trainer.devices=2", "trainer.accumulate=2", "trainer.compile=true"):
        with pytest.raises(RecipeError, match="adversarial"):
            recipe_of(adversarial=DUEL).override(change)
    changed = recipe_of().override("adversarial.weight=0.5", "adversarial.start=10")
    assert changed.adversarial == Adversarial(0.5, start=10)  # type: ignore[attr-defined]


def test_a_model_of_latents_is_trained_cut_and_loaded(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = codec.save(tmp_path / "codec.safetensors")
    latent = Latent(Images.of(Digits(), flip=True), Codec.load(path), gate=0.0)
    recipe = Recipe("digits.latent", latent, {"channels": (8,), "blocks": 1}, optimizer=FAST, trainer=SHORT, limit=24)
    model = train(recipe, tmp_path / "whole", quiet=True)
    after = Clock.after

    def stop(self: Clock, trainer: Any, module: Any) -> None:
        after(self, trainer, module)
        self.signal = 15 if module.step == 2 else None

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "after", stop)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "cut", quiet=True)
    again = train(Recipe.load(tmp_path / "cut/recipe.json"), tmp_path / "cut", quiet=True, resume=True)
    ours, theirs = model.denoiser.network.state_dict(), again.denoiser.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    path.unlink()  # a model's file carries it
    loaded = gendiff.load(tmp_path / "whole")
    assert torch.equal(loaded.sample(2, steps=2)[0], model.sample(2, steps=2)[0])
    with pytest.raises(CheckpointError, match=r"is not at .* any more"):
        train(Recipe.load(tmp_path / "cut/recipe.json"), tmp_path / "new", quiet=True)


def test_a_model_on_an_autoencoder_of_diffusers_is_trained_prepared_cut_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = saved(made("AutoencoderTiny"), tmp_path / "tiny")
    domain = Images.of(Digits(), flip=True)
    with pytest.raises(RequestError, match=r"gives back .* of the variance"):
        train(
            Recipe("d.latent", Latent(domain, open_codec(home, domain)), {}, trainer=SHORT), tmp_path / "no", quiet=True
        )
    monkeypatch.setattr(PretrainedCodec, "explained", lambda self, states: (0.9, len(list(states))))

    def recipe(**changes: Any) -> Recipe:
        latent = Latent(domain, open_codec(home, domain))
        size = {"channels": (8,), "blocks": 1}
        made = Recipe("digits.latent", latent, size, optimizer=FAST, trainer=SHORT, limit=24)
        return dataclasses.replace(made, **changes)

    model = train(recipe(), tmp_path / "whole", quiet=True)
    codec, ours = model.domain.codec, model.denoiser.network.state_dict()
    assert codec.fitted and codec.metrics == {"explained": 0.9, "states": 24} and not recipe().domain.codec.fitted  # type: ignore
    assert codec.domain.std == model.domain.domain.std != domain.std
    after = Clock.after

    def stop(self: Clock, trainer: Any, module: Any) -> None:
        after(self, trainer, module)
        self.signal = 15 if module.step == 2 else None

    for name, again in {"own": None, "anew": recipe()}.items():  # its recipe.json, and the recipe made once more
        with monkeypatch.context() as patch:
            patch.setattr(Clock, "after", stop)
            with pytest.raises(Interrupted):
                train(recipe(), tmp_path / name, quiet=True)
        again = again or Recipe.load(tmp_path / name / "recipe.json")
        other = train(again, tmp_path / name, quiet=True, resume=True)
        theirs = other.denoiser.network.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours) and other.domain.codec == codec
    prepare(recipe(), tmp_path / "store")
    stored = recipe(trainer=dataclasses.replace(SHORT, prepared=str(tmp_path / "store")))
    other = train(stored, tmp_path / "stored", quiet=True)
    theirs = other.denoiser.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours) and other.domain.codec == codec
    loaded = gendiff.load(tmp_path / "whole")
    assert torch.equal(loaded.sample(2, steps=2)[0], model.sample(2, steps=2)[0])


def test_a_recipe_of_latents_takes_a_folder_of_diffusers(tmp_path: Path) -> None:
    recipe = images.emoji_latent(str(saved(made("AutoencoderKL"), tmp_path / "vae")))
    assert isinstance(recipe.domain, Latent) and isinstance(recipe.domain.codec, PretrainedCodec)
    assert recipe.domain.request(2).like.shape == (2, 3, 32, 32)
    assert "PretrainedCodec" in str(list(listing(recipe)))


def test_weights_of_another_codecs_latents_are_not_adapted_and_begun_from_with_a_word(
    codec: Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A low-rank change of a network says nothing about latents that it never saw; all of it may learn them."""
    other = train(recipe_of(trainer=dataclasses.replace(SHORT, steps=3)), tmp_path / "codec", quiet=True)
    assert other.digest != codec.digest
    base, new = (Latent(Images.of(Digits()), one, gate=0.0) for one in (codec, other))
    model = Model.new(base, channels=(8,), blocks=1)
    recipe = Recipe("digits.latent", new, {"channels": (8,), "blocks": 1}, trainer=SHORT, limit=8)
    with pytest.raises(RecipeError, match=f"adapts a model of the codec {codec.digest[:12]}"):
        train(dataclasses.replace(recipe, adapter=LoRA(1)), tmp_path / "a", quiet=True, start=model)
    assert not (tmp_path / "a" / "adapter.safetensors").exists()
    for domain, said in ((base, False), (new, True)):
        train(dataclasses.replace(recipe, domain=domain), tmp_path / f"b{said}", quiet=True, start=model)
        words = f"trained on the states of another codec, {codec.digest[:12]}..., and are now trained on those of"
        assert (words in json.loads((tmp_path / f"b{said}" / "start.json").read_text())["said"]) == said


def test_the_source_inside_latents_may_be_changed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(own / f"{i}.png")
        (own / f"{i}.txt").write_text("a red square")
    plain = Images.of(Folder(str(own), 16, 3))
    codec = train(recipe_of(domain=plain), tmp_path / "run", quiet=True)
    recipe = Recipe("mine.latent", Latent(plain, codec, gate=0.0), {"channels": (8,)}, trainer=SHORT)
    told = recipe.override("domain.gate=0.1", "domain.domain.source.captions=txt", "domain.domain.flip=true")
    assert list(told.domain.conditions) == ["caption"] and not recipe.domain.conditions
    assert isinstance(told.domain, Latent) and told.domain.gate == 0.1 and told.domain.domain.flip  # type: ignore


def test_prepared_latents_are_the_same_and_follow_the_codec(codec: Codec, tmp_path: Path) -> None:
    latent = Latent(Images.of(Digits(), flip=True), codec, gate=0.0)
    recipe = Recipe("digits.latent", latent, {"channels": (8,), "blocks": 1}, trainer=SHORT, limit=40)
    report = prepare(recipe, tmp_path / "store")
    assert "40" in report
    shards = sorted((tmp_path / "store/shards").iterdir())
    before = [shard.read_bytes() for shard in shards]
    plain = train(recipe, tmp_path / "plain", quiet=True)
    stored = dataclasses.replace(recipe, trainer=dataclasses.replace(SHORT, prepared=str(tmp_path / "store")))
    other = train(stored, tmp_path / "stored", quiet=True)
    ours, theirs = plain.denoiser.network.state_dict(), other.denoiser.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "40 made" not in prepare(recipe, tmp_path / "store")
    network = codec.built()
    network.load_state_dict(codec.network.state_dict())
    network.mean += 0.5
    moved = dataclasses.replace(recipe, domain=Latent(latent.domain, codec.with_network(network), gate=0.0))
    prepare(moved, tmp_path / "store")
    assert [shard.read_bytes() for shard in sorted((tmp_path / "store/shards").iterdir())] != before


def test_windows_are_real_sites_of_one_length(tmp_path: Path) -> None:
    recipe = recipe_of("sound")
    task = Coding(recipe.codec, recipe.codec.built(), recipe)
    x = torch.arange(60.0).expand(3, 64, 60).clone()
    mask = torch.arange(60)[None] < torch.tensor([60, 37, 41])[:, None]
    x[~mask[:, None].expand_as(x)] = -1
    found = task.window(x, mask, gendiff.Noise.of(0, 3))
    assert found.shape == (3, 64, 32) and bool((found >= 0).all())
    assert bool((found.diff(dim=2) == 1).all())
    short = task.window(x[..., :3], mask[:, :3] & (torch.arange(3) < 2), gendiff.Noise.of(0, 3))
    assert short.shape[2] == 4 and short[0, 0].tolist() == [0, 1, 1, 1]


def test_a_codec_is_in_full_precision_on_hardware_with_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "bf16_is_fast", lambda: True)
    auto = dataclasses.replace(SHORT, precision="auto")
    assert training.resolve(recipe_of(trainer=auto)).trainer.precision == "float32"
    assert training.resolve(images.digits()).trainer.precision == "bfloat16"


def test_a_codec_has_neither_sampler_nor_times(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="guidance"):
        recipe_of(guidance=2.0)
    with pytest.raises(RecipeError, match="sampler"):
        recipe_of().override("sampler=Heun(4)")
    changed = recipe_of().override("loss.gradient=0.5", "bottleneck=FSQ((5, 5, 5, 5))", "network.deep=2")
    assert changed.loss.gradient == 0.5 and isinstance(changed.bottleneck, FSQ) and changed.network["deep"] == 2
    with pytest.raises(RequestError, match="stride"):
        recipe_of().override("network.widths=8,8,8,8")
    with pytest.raises(RecipeError, match=r"bfloat16"):
        train(recipe_of(trainer=dataclasses.replace(SHORT, precision="bfloat16")), tmp_path / "run", quiet=True)


def test_a_gate_is_said_before_a_step_is_taken(codec: Codec, tmp_path: Path) -> None:
    low = codec.with_network(codec.network, {"explained": 0.3, "pca": 0.4})
    recipe = Recipe("digits.latent", Latent(Images.of(Digits()), low), {"channels": (8,)}, trainer=SHORT)
    with pytest.raises(RequestError, match=r"0\.300.*domain\.gate=0\.3"):
        train(recipe, tmp_path / "run", quiet=True)
    assert recipe_of().loss == Reconstruction(l1=0.0)
