"""Weights shared out among processes train to those of one process, and whatever leaves the training is whole."""

from __future__ import annotations

import copy
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import gendiff
from benchmarks.interruptions import Chains, Cut, Pairs, bits, cut_at, recipe, together
from gendiff import Domain, LoRA, Model, Noise, Sites, Text, denoising_loss
from gendiff.errors import RecipeError
from gendiff.nn import blocks_of, recomputed
from gendiff.testing import randomised
from gendiff.training import EMA
from gendiff_audio import Audio
from gendiff_images import Images
from gendiff_images.sources import Digits
from gendiff_proteins import Proteins
from gendiff_recipes.checkpoints import newest
from gendiff_recipes.recipe import Optimizer, Recipe, Trainer
from gendiff_recipes.sharding import full, sharded, shared_like
from gendiff_recipes.training import train

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / name) for name in ("gendiff_qm9", "gendiff_torsions")]
QM9 = import_module("gendiff_qm9").QM9
Torsions = import_module("gendiff_torsions").Torsions

pytestmark = pytest.mark.usefixtures("strangers")
CLASSES = ("a", "b", "c")
TEXT = Text().fit(["a cat", "dog", ""])
PICTURES = Images(size=8, classes=CLASSES, asked={"text": TEXT})
SMALL: dict[str, tuple[Domain, dict[str, Any], dict[str, Any]]] = {
    "U-Net": (PICTURES, {"channels": (8, 16)}, {"text": ["a cat", "", "dog", None]}),
    "DiT": (PICTURES, {"width": 32, "depth": 3, "heads": 2}, {"text": "a cat"}),
    "refined DiT": (PICTURES, {"width": 32, "depth": 2, "heads": 2, "refine": 8}, {"text": "a cat"}),
    "frames": (Proteins(asked={"structure": Sites(("H", "E", "L"))}), {"width": 16, "depth": 2, "heads": 2, "pair": 8},
               {"structure": ["HHHH", "EEE?H", "LLLLL", "HHHH"]}),
    "mel frames": (Audio(), {"channels": (8, 16), "attention": True}, {"seconds": [0.2, 0.3, 0.25, 0.2]}),
    "molecules": (QM9(), {}, {"atoms": [3, 5, 4, 5]}),
    "torsions": (Torsions(), {}, {}),
}  # fmt: skip


def test_blocks_are_the_outermost_members_of_lists_that_are_more_than_a_layer() -> None:
    block = nn.Sequential(nn.Linear(1, 1))
    outer = nn.Sequential(nn.ModuleList([block]))
    assert list(blocks_of(nn.Sequential(nn.ModuleList([block, nn.ReLU()])))) == [block]
    assert list(blocks_of(nn.Sequential(nn.ModuleList([outer])))) == [outer]
    assert list(blocks_of(block)) == []
    dit = SMALL["DiT"][0].network(width=16, depth=3, heads=2)
    assert sum(type(one).__name__ == "AdaptiveBlock" for one in blocks_of(dit)) == 3


def step(model: Model, what: dict[str, Any]) -> dict[str, Any]:
    """The loss, gradients, and after a clipped step of AdamW the weights, moments and their average; all whole."""
    network, process = model.denoiser.network, model.denoiser.process
    request = model.draws(4, **what).request
    x0 = process.space.random(request.like, Noise.of(0, 4))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.1, foreach=True)
    average = EMA(network, 0.5)
    loss = denoising_loss(model.denoiser, x0, torch.tensor([0.2, 0.4, 0.6, 0.8]), Noise.of(1, 4), **request.cond)[
        "loss"
    ].mean()
    loss.backward()
    gradients = {name: full(p.grad).clone() for name, p in network.named_parameters() if p.grad is not None}
    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    optimizer.step()
    average.update(network)
    return {
        "loss": loss.detach(), "gradients": gradients, "weights": full(network.state_dict()),
        "average": full(average.state_dict())["average"],
        "moments": {str(i): m for i, m in full(optimizer.state_dict()["state"]).items()},
    }  # fmt: skip


def gap(a: Any, b: Any) -> float:
    """The largest difference of two trees of tensors; infinite where one has what the other lacks."""
    if isinstance(a, Tensor):
        return float((a - b).abs().max()) if a.numel() else 0.0
    return max((gap(a[key], b[key]) for key in a), default=0.0) if a.keys() == b.keys() else float("inf")


def compared(out: Path) -> None:
    """Each network whole and shared out, in one of two processes; the differences as JSON."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh, found = init_device_mesh("cpu", (2,)), {}
    for name, (domain, size, what) in SMALL.items():
        model = Model.new(domain, **size)
        randomised(model.denoiser.network)
        other = copy.deepcopy(model)
        other.denoiser.network = network = sharded(other.denoiser.network, mesh)
        held = sum(p.to_local().numel() for p in network.parameters() if isinstance(p, DTensor))
        total = sum(p.numel() for p in model.denoiser.parameters())
        for p in network.parameters():
            assert torch.equal(full(shared_like(p, full(p))), full(p))
        whole = step(model, what)
        with recomputed(network) if name in ("U-Net", "frames") else nullcontext():
            parts = step(other, what)
        found[name] = [gap(whole, parts), held / total, sum(1 for _ in blocks_of(model.denoiser.network))]
    if dist.get_rank() == 0:
        out.write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_network_is_shared_out_and_takes_the_same_step(tmp_path: Path) -> None:
    """Loss, gradients, weights, moments and average; each of two processes holds about half of the weights."""
    assert together(lambda: compared(tmp_path / "found.json")) == [0, 0]
    for name, (difference, held, blocks) in json.loads((tmp_path / "found.json").read_text()).items():
        assert difference < 1e-5, name
        assert held < 0.62 and (blocks > 0 or name == "torsions"), name


def pictures(**trainer: Any) -> Recipe:
    options = Trainer(
        **{"steps": 8, "batch": 16, "show": 4, "samples": 2, "checkpoint": 3, "precision": "float32", "threads": 1}
        | {"logger": ("csv",), "accelerator": "cpu", **trainer}
    )
    small = {"channels": (8, 16), "blocks": 1}
    return Recipe("images.tiny", Images.of(Digits()), network=small, trainer=options, optimizer=Optimizer(warmup=2))


def weights(run: Path) -> dict[str, Tensor]:
    return gendiff.load(run).denoiser.network.state_dict()


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one_cut_or_not(tmp_path: Path) -> None:
    """And go on from the same checkpoints as one process, as DDP, and back."""
    one, two = pictures(), pictures(devices=2, strategy="fsdp2")
    train(one, tmp_path / "one", quiet=True)
    assert together(lambda: train(two, tmp_path / "two", quiet=True)) == [0, 0]
    assert gap(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-5
    shown = [sorted(p.name for p in (tmp_path / n / "samples" / "step_000008").iterdir()) for n in ("one", "two")]
    assert shown[0] == shown[1]
    states: list[Any] = [next(newest(tmp_path / name / "checkpoints"))[1] for name in ("one", "two")]
    assert all(isinstance(state, dict) for state in states)
    for key in ("network", "ema", "optimizer"):
        assert gap(tree(states[0][key]), tree(states[1][key])) < 1e-5, key

    def cut(name: str, run: Recipe) -> None:
        with cut_at(5, "stepped"), pytest.raises(Cut):
            train(run, tmp_path / name, quiet=True)

    def again(run: Recipe, name: str) -> None:
        train(run, tmp_path / name, quiet=True, resume=True)

    assert together(lambda: cut("cut", two)) == [0, 0]
    assert together(lambda: again(two, "cut")) == [0, 0]
    assert bits(tmp_path / "cut") == bits(tmp_path / "two")
    ddp = pictures(devices=2, strategy="ddp")
    for first, then in ((two, one), (two, ddp), (one, two)):
        name = f"{first.trainer.strategy} {then.trainer.strategy} {then.trainer.devices}"
        if first.trainer.devices == 1:
            cut(name, first)
        else:
            assert together(lambda name=name, first=first: cut(name, first)) == [0, 0]
        if then.trainer.devices == 1:
            again(then, name)
        else:
            assert together(lambda name=name, then=then: again(then, name)) == [0, 0]
        assert gap(weights(tmp_path / name), weights(tmp_path / "one")) < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_machines_in_parts_take_the_steps_of_one_process(strategy: str, tmp_path: Path) -> None:
    """Ragged chains, each batch dealt out to two machines in two parts; a machine is what torchrun tells a process."""
    one = replace(recipe(Chains(), steps=5, show=0, measure=0), network={"dropout": 0.0})
    two = replace(one, trainer=replace(one.trainer, nodes=2, accumulate=2, strategy=strategy))

    def machine() -> None:
        os.environ.update(GROUP_RANK=os.environ["RANK"], LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
        train(two, tmp_path / "two", quiet=True)

    train(one, tmp_path / "one", quiet=True)
    assert together(machine) == [0, 0]
    found = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert gap(*found) < 1e-5


def tree(value: Any) -> Any:
    """What of a tree is tensors."""
    if not isinstance(value, dict):
        return value
    return {k: tree(v) for k, v in value.items() if isinstance(v, Tensor | dict)}


def test_what_is_not_shared_out_is_refused() -> None:
    wrong: list[dict[str, Any]] = [{"compile": True}, {"precision": "float64"}]
    for more in wrong:
        with pytest.raises(RecipeError, match=r"strategy='fsdp2'.*ddp"):
            Trainer(devices=2, strategy="fsdp2", **more)
    with pytest.raises(RecipeError, match="adapter is small"):
        replace(pictures(devices=2, strategy="fsdp2"), adapter=LoRA(4))


def test_one_process_needs_no_sharing(tmp_path: Path) -> None:
    run = recipe(Pairs(), steps=4, show=0, measure=0)
    train(run, tmp_path / "a", quiet=True)
    train(replace(run, trainer=replace(run.trainer, strategy="fsdp2")), tmp_path / "b", quiet=True)
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
