"""Runs whose network is compiled, or computes in bfloat16: how many graphs there are, and what stays in float32."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.fx.experimental._config as symbolic
from safetensors.torch import load_file
from torch import Tensor, nn

import gendiff
from gendiff import Domain, Euclidean, Example, Examples, Gaussian, Linear, Model, Request
from gendiff.nn import DiT
from gendiff.spaces import tensors
from gendiff.testing import randomised
from gendiff_images import Digits, Images
from gendiff_proteins import Ideal, Proteins
from gendiff_recipes import module
from gendiff_recipes.folder import Folder
from gendiff_recipes.module import Denoising, Learning
from gendiff_recipes.recipe import Recipe, Trainer
from gendiff_recipes.training import newest_state, train

LENGTHS = (17, 64, 33, 16, 49, 40, 25, 57)  # as many batches, of odd and of even lengths, in four multiples of 16
SHAPES = ((16, 16), (16, 24), (24, 16), (8, 32), (32, 8), (24, 24))


class Along(nn.Module):
    """A transformer along the first axis of its states."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = DiT(1, in_channels=2, out_channels=2, patch=2, width=8, depth=1, heads=1)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor | None = None, **cond: Any) -> Tensor:
        return self.inner(x.mT, t, mask, **cond).mT


@dataclass(frozen=True)
class Shapes(Domain):
    """Random states of some shapes, four of each."""

    name: ClassVar[str] = "shapes"

    @property
    def process(self) -> Gaussian:
        return Gaussian(Linear(), Euclidean())

    def encode(self, artifact: Tensor) -> Tensor:
        return artifact

    def decode(self, x: Tensor) -> Tensor:
        return x

    def shapes(self) -> list[tuple[int, ...]]:
        return [(3, *shape) for shape in SHAPES]

    def request(self, n: int) -> Request:
        return Request(torch.empty(n, *self.shapes()[0]))

    def network(self, **size: Any) -> nn.Module:
        return DiT(2, in_channels=3, out_channels=3, patch=2, width=8, depth=1, heads=1)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        source = torch.Generator().manual_seed(0)
        return Examples([Example(torch.randn(shape, generator=source)) for shape in self.shapes() for _ in range(4)])

    def metrics(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Walks(Shapes):
    """Ragged ones."""

    name: ClassVar[str] = "walks"
    ragged: ClassVar[bool] = True

    def shapes(self) -> list[tuple[int, ...]]:
        return [(length, 2) for length in LENGTHS]

    def network(self, **size: Any) -> nn.Module:
        return Along()


class Counting:
    """A backend that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, example: list[Any]) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    backend, own = Counting(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(own, backend=backend))
    torch._dynamo.reset()  # type: ignore[attr-defined]
    yield backend
    assert symbolic.use_duck_shape  # type: ignore[attr-defined]  # as it was before
    torch._dynamo.reset()  # type: ignore[attr-defined]


def recipe_of(domain: Domain, **options: Any) -> Recipe:
    trainer = Trainer(**{"steps": 8, "batch": 4, "show": 0, "checkpoint": 100, "precision": "float32", **options})
    return Recipe(domain.name, domain, trainer=trainer)


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


@pytest.mark.parametrize("domain", [Walks(), Shapes()], ids=["lengths", "pictures"])
def test_two_graphs_at_most_whatever_the_shapes(
    domain: Domain, counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight batches of many shapes; compiled or not, and padded to multiples of 16 or not, the losses are the same."""
    seen: set[tuple[int, ...]] = set()
    step = Learning.training_step

    def watched(self: Learning, batch: dict[str, Any], batch_idx: int) -> Tensor:
        seen.add(tuple(batch["x0"].shape))
        return step(self, batch, batch_idx)

    train(recipe_of(domain), tmp_path / "plain", quiet=True)
    monkeypatch.setattr(Learning, "training_step", watched)
    train(recipe_of(domain, compile=True), tmp_path / "compiled", quiet=True)
    assert len(seen) >= 4 and 1 <= counting.graphs <= 2
    assert not domain.ragged or {shape[1] for shape in seen} == {16, 32, 48, 64} - ({16} - {s[1] for s in seen})
    a, b = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert a and a == pytest.approx(b, rel=1e-4)


SMALL = {
    "pictures": (Images.of(Digits()), {"channels": (8, 16), "blocks": 1}),
    "frames": (Proteins(source=Ideal(count=16, min_length=16, max_length=20)),
               {"width": 16, "depth": 1, "heads": 2, "pair": 8}),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_inside_the_network_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, gradients, moments, averages, noisy and predicted states and losses are float32, files too; and matrices
    are multiplied in bfloat16, so that there is something to keep apart.
    """
    domain, size = SMALL[name]
    kinds: dict[str, set[torch.dtype]] = {}
    values: list[tuple[Tensor, Tensor]] = []

    def note(what: str, *states: Any) -> None:
        kinds.setdefault(what, set()).update(x.dtype for state in states for x in tensors(state))

    loss_of, step = module.denoising_loss, Denoising.training_step

    def watched_loss(denoiser: Any, x0: Any, t: Any, noise: Any, **more: Any) -> Any:
        def seen(own: Any, given: Any, out: Any) -> None:
            note("noisy", given[0])
            note("predicted", out)

        hooks = [denoiser.register_forward_hook(seen)]
        hooks += [
            part.register_forward_hook(lambda own, given, out: note("products", out))
            for part in denoiser.network.modules()
            if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d)
        ]
        found = loss_of(denoiser, x0, t, noise, **more)
        for hook in hooks:
            hook.remove()
        note("clean", x0)
        note("losses", *found.values())
        values.append((found["loss"].detach(), found["loss"].detach().bfloat16().float()))
        return found

    def watched_step(self: Denoising, batch: dict[str, Any], batch_idx: int) -> Tensor:
        out = step(self, batch, batch_idx)
        moments = [x for state in self.optimizers().optimizer.state.values() for x in state.values()]  # type: ignore[union-attr]
        note("moments", *moments)
        note("weights", *(p for _, p in self.trained()))
        note("gradients", *(p.grad for _, p in self.trained() if p.grad is not None))
        note("mean loss", out)
        return out

    monkeypatch.setattr(module, "denoising_loss", watched_loss)
    monkeypatch.setattr(Denoising, "training_step", watched_step)
    recipe = replace(recipe_of(domain, steps=3, batch=4, checkpoint=1, precision="bfloat16"), network=size)
    train(recipe, tmp_path / "run", quiet=True)
    assert torch.bfloat16 in kinds.pop("products")
    named = {"noisy", "predicted", "clean", "losses", "moments", "weights", "mean loss"}
    assert named <= set(kinds) and all(kind == {torch.float32} for kind in kinds.values()), kinds
    assert any(not torch.equal(exact, rounded) for exact, rounded in values), "losses that had been bfloat16"
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert {x.dtype for x in load_file(path).values() if x.is_floating_point()} <= {torch.float32, torch.float64}
    averages = newest_state(Folder(tmp_path / "run"))["ema"]["average"]
    assert averages and {x.dtype for x in averages.values()} == {torch.float32}
    assert gendiff.load(tmp_path / "run").denoiser.precision is None


@pytest.mark.parametrize("name", SMALL)
def test_samples_in_bfloat16_stay_on_their_space(name: str) -> None:
    """The state of the solver is float32: rotations stay rotations to its rounding, and numbers are no bfloat16's."""
    domain, size = SMALL[name]
    model = Model.new(domain, **size)
    randomised(model.denoiser.network)
    found: list[Any] = []
    decode = type(domain).decode

    def kept(self: Any, x: Any) -> Any:
        found.append(x)
        return decode(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(domain), "decode", kept)
        model.sample(2, steps=3, precision=torch.bfloat16)
    assert found
    for state in found:
        assert {x.dtype for x in tensors(state)} == {torch.float32}
        assert any(not torch.equal(x, x.bfloat16().float()) for x in tensors(state))
    if name == "frames":
        rot = torch.cat([state["rot"] for state in found])
        assert (rot.mT @ rot - torch.eye(3)).abs().max() < 1e-5
