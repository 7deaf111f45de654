"""Model files and what a model says of itself: whole files, digests, hostile ones, parts of strangers, one process."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import gendiff
from gendiff import (
    VP,
    Cosine,
    Domain,
    EDMHead,
    Example,
    Examples,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Joint,
    Linear,
    Model,
    Polynomial,
    Request,
    Sphere,
    Tangent,
    TrigFlow,
    V,
    Velocity,
)
from gendiff.denoisers import Eps, Head
from gendiff.errors import RequestError
from gendiff.model import digest, write_whole
from gendiff.processes import Process, schedule_of
from gendiff.random import Noise
from gendiff.spaces import SO3, Centered, State
from gendiff_audio import Audio
from gendiff_images import Images
from gendiff_proteins import Ideal, Proteins
from gendiff_recipes.recipe import Recipe


class Flow(nn.Module):
    """A network that knows the clock of its process, as the one of proteins does."""

    def __init__(self, clock: Callable[[Any], Any], width: int = 4) -> None:
        super().__init__()
        self.kappa = clock
        self.body = nn.Linear(3, width), nn.Linear(width, 3)
        self.first, self.last = self.body

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(self.first(x).tanh() * self.kappa(t)[:, None])


@dataclass(frozen=True)
class Globe(Domain):
    """Points of the sphere."""

    name: ClassVar[str] = "globe"
    bend: float = 2.0

    @property
    def process(self) -> Process:
        return Geodesic(Sphere(), Exponential(self.bend))

    def encode(self, artifact: Tensor) -> State:
        return artifact

    def decode(self, x: State) -> Tensor:
        return x

    def request(self, n: int, *, latitude: float | None = None) -> Request:
        return Request(torch.empty(n, 3))

    def ranges(self) -> dict[str, tuple[float, float]]:
        return {"latitude": (-80.0, 70.0)}

    def network(self, **size: Any) -> nn.Module:
        return Flow(schedule_of(self.process).clock, **size)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        points = Noise.of(0, 8).normal((8, 3))
        return Examples([Example(p / p.norm()) for p in points])


class Point:
    name = "globe"

    def load(self) -> type:
        return Globe


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from gendiff.discovery import registered

    monkeypatch.setattr(
        "gendiff.discovery.registered",
        lambda group: {**registered(group), **({"globe": Point()} if group == "domains" else {})},
    )


# One process


def chain(pos: Any, rot: Any) -> Joint:
    return Joint(pos=Gaussian(pos, Centered()), rot=Geodesic(SO3(), rot))


FRAMES: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "pair": 4}
CASES: list[tuple[Domain, dict[str, Any], Process | None, Head | None]] = [
    (Globe(), {}, None, None),
    (Globe(), {}, Geodesic(Sphere(), Linear()), None),
    (Globe(), {"width": 5}, Geodesic(Sphere(), Exponential(4.0)), Tangent()),
    (Proteins(source=Ideal()), FRAMES, None, None),
    (Proteins(source=Ideal()), FRAMES, chain(Linear(), Linear()), None),
    (Proteins(source=Ideal()), FRAMES, chain(Polynomial(), Exponential(5.0)), Heads(pos=V(), rot=Tangent())),
    (Images(size=8), {"channels": (8,), "blocks": 1}, None, None),
    (Images(size=8), {"channels": (8,), "blocks": 1}, Gaussian(VP()), V()),
    (Images(size=8), {"channels": (8,), "blocks": 1}, Gaussian(Cosine()), Eps()),
    (Audio(), {"channels": (8, 8)}, None, None),
    (Audio(), {"channels": (8, 8)}, Gaussian(TrigFlow()), V()),
]


@pytest.mark.parametrize(("domain", "size", "process", "head"), CASES, ids=range(len(CASES)))
def test_the_network_the_domain_and_the_file_have_one_process(
    domain: Domain, size: dict[str, Any], process: Process | None, head: Head | None, tmp_path: Path
) -> None:
    made = Model.new(domain, process=process, head=head, **size)
    recipe = Recipe(name="x.y", domain=domain, network=size, process=process, head=head)
    by_recipe = Model.new(recipe.domain, process=recipe.process, head=recipe.head, **recipe.network)
    read = gendiff.load(made.save(tmp_path / "m.safetensors"))
    refitted = Model(domain, read.denoiser, size=size)
    for model in (made, by_recipe, read, refitted):
        assert model.denoiser.process == (process or domain.process)
        assert model.denoiser.head == (head or domain.head)
        assert model.domain.process == model.denoiser.process and model.domain.head == model.denoiser.head
        assert model.domain == domain
        kappa = getattr(model.denoiser.network, "kappa", None)
        assert (kappa is None) == isinstance(domain, Images | Audio)
        if kappa is not None:
            clock = schedule_of(model.denoiser.process, "rot" if isinstance(domain, Proteins) else None).clock
            for t in (0.1, 0.5, 0.9):
                assert float(kappa(torch.tensor(t, dtype=torch.float64))) == pytest.approx(clock(t), abs=1e-12)


def test_a_domain_keeps_its_own_process_when_another_is_chosen() -> None:
    domain = Globe(3.0)
    other = domain.with_process(Geodesic(Sphere(), Linear()))
    assert domain.process == Geodesic(Sphere(), Exponential(3.0)) and other.process == Geodesic(Sphere(), Linear())
    assert domain.with_process(domain.process) is domain and other.with_process() is other
    assert other.with_process(domain.process).process == domain.process
    assert Images().with_process(Gaussian(VP()), V()).with_process(head=Velocity()).head == Velocity()
    assert Audio().head == EDMHead(1.0)


# Whole files


@pytest.fixture
def model() -> Model:
    return Model.new(Globe(), width=6)


def test_a_planted_link_is_replaced_and_nothing_is_left_beside(model: Model, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = tmp_path / "folder" / "m.safetensors"
    path.parent.mkdir()
    path.symlink_to(victim)
    for name in ("m.safetensors.part", ".m.safetensors.part"):
        (path.parent / name).symlink_to(victim)
    model.save(path)
    assert victim.read_bytes() == b"precious" and not path.is_symlink()
    (path.parent / "m.safetensors.part").unlink()
    (path.parent / ".m.safetensors.part").unlink()
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]
    gendiff.load(path)


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def save_often(path: Path, width: int, times: int) -> None:
    torch.set_num_threads(1)
    made = Model.new(Globe(), width=width)
    for _ in range(times):
        made.save(path)


@pytest.mark.parametrize("how", ["threads", "processes"])
def test_savers_and_loaders_of_one_file_never_meet_a_broken_one(model: Model, tmp_path: Path, how: str) -> None:
    path = model.save(tmp_path / "m.safetensors")
    start: Any = threading.Thread if how == "threads" else multiprocessing.get_context("fork").Process
    savers = [start(target=save_often, args=(path, width, 40)) for width in (300, 6, 77)]
    for saver in savers:
        saver.start()
    seen, loads = set(), 0
    while loads < 60 or any(saver.is_alive() for saver in savers):
        read = gendiff.load(path)
        assert read.denoiser.network.first.out_features == read.size["width"]  # type: ignore[union-attr]
        seen.add(read.size["width"])
        loads += 1
    for saver in savers:
        saver.join()
    assert seen <= {6, 77, 300} and len(seen) > 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


# What a model says of itself


def test_a_model_says_what_it_is_and_what_may_be_asked(model: Model) -> None:
    model = Model(model.domain, model.denoiser, size=model.size, metrics={"energy": 0.5})
    info = model.info()
    assert json.loads(json.dumps(info)) == info
    assert info["request"] == {"latitude": {"default": None, "trained": [-80.0, 70.0]}}
    assert info["network"] == {"class": "Flow", "size": {"width": 6}} and info["parameters"] == 4 * 6 + 7 * 3
    assert info["metrics"] == {"energy": 0.5} and info["domain"]["name"] == "globe" and info["labels"] == {}
    assert info["digest"] == digest(model.denoiser.network.state_dict())
    chains = Model.new(Proteins(source=Ideal(8, 32, 48)), **FRAMES).info()
    assert chains["request"]["length"]["trained"] == [32, 48] and chains["labels"]["fold"][0] == "alpha"
    clips = Model.new(Audio(lengths=(25, 50)), channels=(8, 8)).info()
    assert clips["request"]["seconds"]["trained"] == [0.4, 0.8]


@pytest.mark.parametrize("device", ["cuda:7", "nonsense", "meta:"])
def test_a_device_that_is_not_there_is_refused_and_nothing_moved(model: Model, tmp_path: Path, device: str) -> None:
    with pytest.raises(RequestError, match=device):
        model.to(device)
    with pytest.raises(RequestError, match=r'device="cpu"'):
        gendiff.load(model.save(tmp_path / "m.safetensors"), device=device)
    assert model.device == torch.device("cpu")
