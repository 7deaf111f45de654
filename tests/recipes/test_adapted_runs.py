"""Runs that adapt a model: small, exact after any interruption, and of no use on another base."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gendiff
from benchmarks.interruptions import Chains, Cut, Pairs, cut_at, recipe
from gendiff import Control, Euler, Example, Examples, Field, LoRA, Partial
from gendiff.cli import main
from gendiff.errors import CheckpointError, RecipeError, UnknownName
from gendiff.modelfile import read_config
from gendiff.training import Adapter
from gendiff_images import Digits, Images
from gendiff_images.sources import Look
from gendiff_recipes import images
from gendiff_recipes.checkpoints import listed, read_checkpoint
from gendiff_recipes.recipe import Recipe, Trainer
from gendiff_recipes.start import BASE
from gendiff_recipes.training import train

ADAPTERS: dict[str, Adapter] = {"LoRA": LoRA(2, where=("*.weight",)), "Partial": Partial(("last",))}


pytestmark = pytest.mark.usefixtures("strangers")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "run"
    train(short(6), out, quiet=True)
    return out


def short(steps: int = 10, domain: Any = None, **more: Any) -> Recipe:
    run = recipe(domain or Pairs(shift=0.5), steps=steps, show=4, measure=0, checkpoint=3)
    return dataclasses.replace(run, **more)


def tensors(out: Path) -> bytes:
    data = (out / "adapter.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("domain", [Pairs(shift=0.5), Chains(shift=0.5)], ids=["flat", "ragged"])
def test_a_run_that_was_cut_anywhere_ends_in_the_same_bits(
    domain: Pairs, kind: str, base: Path, tmp_path: Path
) -> None:
    """And in each of them the base's file and weights stay as they are."""
    before = (base / "model.safetensors").read_bytes()
    run = short(domain=domain, adapter=ADAPTERS[kind])
    whole = train(run, tmp_path / "whole", quiet=True, start=base)
    for step in (1, 2, 4, 7, 10):
        out = tmp_path / f"cut{step}"
        with pytest.raises(Cut), cut_at(step, ("before", "stepped", "averaged", "reported")[step % 4]):
            train(run, out, quiet=True, start=base)
        train(run, out, quiet=True, resume=True)
        assert tensors(out) == tensors(tmp_path / "whole"), step
    assert (base / "model.safetensors").read_bytes() == before
    old = gendiff.load(base).denoiser.network.state_dict()
    for name, value in whole.merged().denoiser.network.state_dict().items():
        assert torch.equal(value, old[name]) or kind == "LoRA" or name.startswith("last"), name
    assert not (tmp_path / "whole" / "model.safetensors").exists()


def test_a_run_holds_what_the_adapter_trains_and_no_more(base: Path, tmp_path: Path) -> None:
    train(short(adapter=ADAPTERS["LoRA"]), tmp_path / "run", quiet=True, start=base)
    state = read_checkpoint(listed(tmp_path / "run" / "checkpoints")[0])
    own = {name for name in state["network"] if "adapted" in name}
    assert own == set(state["network"]) == set(state["ema"]["average"])
    assert {name.removeprefix("network.") for name in state["optimizer"]} == own and len(own) == 6
    model = gendiff.load(tmp_path / "run")
    assert model.adaptation is not None and model.adaptation.adapter == ADAPTERS["LoRA"]
    again = gendiff.load(base).with_adapter(tmp_path / "run")
    for one, other in zip(model.sample(3, steps=2), again.sample(3, steps=2), strict=True):
        assert torch.equal(one, other)
    began = json.loads((tmp_path / "run" / "start.json").read_text())
    assert Path(began["path"]) == (base / "model.safetensors").resolve() and "LoRA(rank=2" in began["said"]
    assert read_config(tmp_path / "run")["recipe"]["adapter"]["kind"] == "LoRA"
    # A whole run can begin from it, by the weights it computes with.
    merged = train(short(1, ema=0.0), tmp_path / "on", quiet=True, start=tmp_path / "run")
    assert merged.adaptation is None
    taken = json.loads((tmp_path / "on" / "start.json").read_text())
    assert len(taken["taken"]) == 5 and not taken["left"]


def test_the_base_is_found_again_or_asked_for(base: Path, tmp_path: Path) -> None:
    run = short(adapter=LoRA(1))
    with pytest.raises(RecipeError, match=r"no model to adapt.*--from MODEL"):
        train(run, tmp_path / "none", quiet=True)
    moved = shutil.copytree(base, tmp_path / "moved")
    out = tmp_path / "run"
    with pytest.raises(Cut), cut_at(5, "before"):
        train(run, out, quiet=True, start=moved)
    (moved / "model.safetensors").rename(tmp_path / "away.safetensors")
    with pytest.raises(CheckpointError, match=r"is not there.*start=BASE"):
        train(run, out, quiet=True, resume=True)
    other = gendiff.load(base)
    with torch.no_grad():
        next(other.denoiser.parameters()).add_(1e-3)
    with pytest.raises(CheckpointError, match=r"has the digest .*began from"):
        train(run, out, quiet=True, resume=True, start=other)
    train(run, out, quiet=True, resume=True, start=tmp_path / "away.safetensors")
    train(run, tmp_path / "whole", quiet=True, start=base)
    assert tensors(out) == tensors(tmp_path / "whole")
    (tmp_path / "away.safetensors").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="its base is not there"):
        gendiff.load(out)


def test_a_base_that_is_in_no_file_is_kept_beside(base: Path, tmp_path: Path) -> None:
    model = gendiff.load(base)
    model.origin = None
    run, out = short(adapter=LoRA(1)), tmp_path / "run"
    with pytest.raises(Cut), cut_at(5, "before"):
        train(run, out, quiet=True, start=model)
    assert (out / BASE).exists()
    train(run, out, quiet=True, resume=True)
    train(run, tmp_path / "whole", quiet=True, start=base)
    assert tensors(out) == tensors(tmp_path / "whole")
    shutil.move(out, tmp_path / "elsewhere")
    assert gendiff.load(tmp_path / "elsewhere").adaptation is not None
    # A run in whose place its own adaptation is trained
    copied = shutil.copytree(base, tmp_path / "copied")
    train(run, copied, quiet=True, start=copied, overwrite=True)
    assert gendiff.load(copied).adaptation is not None and (copied / BASE).exists()


def test_network_process_head_and_scale_are_the_base_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data_root: Path
) -> None:
    """A recipe of other pictures, with another network and other pixels, adapts the model that it is given."""
    trainer = Trainer(steps=2, minutes=None, batch=8, show=0, logger=("csv",), threads=1, precision="float32")
    small = replace(images.digits(), network={"channels": (8, 16), "blocks": 1}, trainer=trainer)
    base = train(small, tmp_path / "base", quiet=True)
    dark = Images.of(Dark())
    run = replace(images.digits(), domain=dark, head=gendiff.X0(), trainer=trainer, adapter=LoRA(2), name="images.dark")
    model = train(run, tmp_path / "run", quiet=True, start=tmp_path / "base")
    said = capsys.readouterr().err
    assert "The network is the base's" in said and "The head is the base's" in said and "new rows for ten" in said
    domain: Any = model.domain
    assert (domain.mean, domain.std) == (base.domain.mean, base.domain.std)  # type: ignore[attr-defined]
    assert domain.classes == dark.classes and model.size == base.size
    assert model.denoiser.head == base.denoiser.head
    again = Recipe.load(tmp_path / "run" / "recipe.json", parts=[Dark])
    assert again.adapter == LoRA(2) and again.network == base.size


@dataclasses.dataclass(frozen=True)
class Dark(Digits):
    """Half as bright, with a class more, and the edges as a field."""

    def look(self, root: Path | None = None) -> Look:
        look = super().look(root)
        return replace(look, classes=(*look.classes, "ten"))

    def load(self, split: str, root: Path | None = None) -> Examples:
        found = super().load(split, root)[:40]
        return Examples([Example(0.5 * e.artifact, e.cond) for e in found])


@dataclasses.dataclass(frozen=True)
class Edges(Digits):
    """Digits with the steps from pixel to pixel along the lines as a field."""

    def look(self, root: Path | None = None) -> Look:
        return replace(super().look(root), asked={"edges": Field(1)})

    def load(self, split: str, root: Path | None = None) -> Examples:
        found = super().load(split, root)[:40]
        edges = [e.artifact.diff(dim=2, prepend=e.artifact[:, :, :1]).abs().movedim(0, -1) for e in found]
        return Examples([Example(e.artifact, {**e.cond, "edges": x}) for e, x in zip(found, edges, strict=True)])


def test_a_side_branch_trains_and_resumes_to_the_bit(tmp_path: Path) -> None:
    trainer = Trainer(steps=4, batch=8, show=0, checkpoint=2, logger=("csv",), threads=1, precision="float32")
    plain = replace(images.digits(), network={"channels": (8, 16), "blocks": 1}, trainer=trainer)
    train(plain, tmp_path / "base", quiet=True)
    run = replace(plain, domain=Images.of(Edges()), adapter=Control("edges"), name="images.edges")
    whole = train(run, tmp_path / "whole", quiet=True, start=tmp_path / "base")
    with pytest.raises(Cut), cut_at(3, "averaged"):
        train(run, tmp_path / "cut", quiet=True, start=tmp_path / "base")
    train(run, tmp_path / "cut", quiet=True, resume=True)
    assert tensors(tmp_path / "cut") == tensors(tmp_path / "whole")
    model = gendiff.load(tmp_path / "whole", parts=[Edges])
    field = torch.rand(8, 8, 1)
    drawn = [m.sample(1, steps=2, label="3", edges=field, sampler=Euler(2))[0] for m in (model, whole)]
    assert torch.equal(*drawn)
    with pytest.raises(RecipeError, match=r"one for a condition of the domain\. Did you mean \"edges\""):
        replace(run, adapter=Control("edge"))


def test_adapters_from_the_command_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", str(base / "recipe.json"), "trainer.steps=3", "--from", str(base), "--quiet", "--out"]
    assert main([*line, str(tmp_path / "a"), "--lora", "1"]) == 0
    assert "adapter.safetensors" in capsys.readouterr().out
    assert main([*line, str(tmp_path / "b"), "adapter=LoRA(1)"]) == 0
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")
    assert main([*line, str(tmp_path / "c"), "adapter=Partial(where=('last',))"]) == 0
    assert main([*line, str(tmp_path / "d"), "adapter=LoRA(1)", "adapter.alpha=3"]) == 0
    assert gendiff.load(tmp_path / "d").adaptation.adapter == LoRA(1, alpha=3.0)  # type: ignore[union-attr]
    assert main(["info", str(tmp_path / "a")]) == 0
    assert "LoRA(rank=1" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "a"), "-n", "2", "--out", str(tmp_path / "drawn")]) == 0
    assert main(["train", str(tmp_path / "a"), "--resume", "trainer.steps=5", "--quiet"]) == 0
    with pytest.raises(SystemExit):
        main([*line, str(tmp_path / "e"), "--lora", "0"])
    assert main(["train", str(base / "recipe.json"), "--lora", "1", "--out", str(tmp_path / "f")]) == 2
    assert "no model to adapt" in capsys.readouterr().err
    with pytest.raises(UnknownName, match="LoRA"):
        short().override("adapter=Lora(4)")
