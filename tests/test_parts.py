"""Parts that a stranger wrote in a file: trained, saved, and loaded by a process that never saw the run."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import gendiff
from gendiff import Euler, Gaussian, Linear, Model, Objective, Velocity
from gendiff.config import Kinds, from_config, kind_name, to_config
from gendiff.discovery import REGISTERED, register
from gendiff.errors import CheckpointError, GendiffError, RecipeError, UnknownName
from gendiff.loading import check_loadable
from gendiff.processes.schedules import Flow
from gendiff_audio import Audio
from gendiff_images import Digits, Images
from gendiff_recipes.recipe import Recipe, Trainer
from gendiff_recipes.training import train

SOURCE = '''
"""What a user writes: one of each part."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gendiff import Domain, Euler, Example, Examples, Gaussian, Request, Velocity
from gendiff.guidance.rules import CFG
from gendiff.processes.schedules import Flow
from gendiff.spaces import Euclidean
from gendiff.training import Output, Uniform
from gendiff.training.couplings import Coupling
from gendiff_images import Images


@dataclass(frozen=True)
class Square(Flow):
    """sigma = t^power."""

    power: float = 2.0

    def __call__(self, t):
        return 1 - t**self.power, t**self.power

    def time(self, logsnr):
        sigma = 1 / (1 + 2.718281828459045 ** (logsnr / 2))
        return sigma ** (1 / self.power)


@dataclass(frozen=True)
class Steady(Euler):
    """Euler, said by another name."""

    steps: int = 5


@dataclass(frozen=True)
class Arrow(Velocity):
    """A head."""


@dataclass(frozen=True)
class Heavy(Output):
    """A weighting."""

    factor: float = 2.0

    def __call__(self, process, head, t):
        return self.factor * super().__call__(process, head, t)


@dataclass(frozen=True)
class Swapped(Coupling):
    """A coupling."""

    def __call__(self, process, x0, z, noise, cond):
        return z.flip(0)


@dataclass(frozen=True)
class Late(Uniform):
    """A time distribution."""

    low: float = 0.25


@dataclass(frozen=True)
class Stronger(CFG):
    """A guidance rule."""


@dataclass(frozen=True)
class Plain(Euclidean):
    """A space."""


@dataclass(frozen=True)
class Silence:
    """A phase object."""

    seed: int = 3

    def __call__(self, magnitude, *, win, hop, length):
        return torch.zeros(*magnitude.shape[:-2], length)


class Tower(nn.Module):
    """A network."""

    def __init__(self, width: int = 8, sizes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)
        self.rest = nn.ModuleList(nn.Linear(n, n) for n in sizes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.cat([x, t[:, None]], -1))))


@dataclass(frozen=True)
class Dots(Domain):
    """A domain of two numbers, without an entry point."""

    name: ClassVar[str] = "dots"
    spread: float = 1.0

    @property
    def process(self) -> Gaussian:
        return Gaussian(Square(), Plain())

    def encode(self, artifact: Tensor) -> Tensor:
        return artifact / self.spread

    def decode(self, x: Tensor) -> Tensor:
        return x * self.spread

    def request(self, n: int) -> Request:
        return Request(torch.empty(n, 2))

    def network(self, **size: Any) -> nn.Module:
        return Tower(**size)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        g = torch.Generator().manual_seed(len(split))
        return Examples([Example(x) for x in torch.randn(64, 2, generator=g)])

    def plot(self, artifacts, path) -> None:
        pass


@dataclass(frozen=True)
class Inverted(Images):
    """A subclass of an installed domain: black is white."""

    def encode(self, artifact):
        return -super().encode(artifact)

    def decode(self, x):
        return super().decode(-x)
'''
NAMES = ("Square", "Steady", "Arrow", "Heavy", "Swapped", "Late", "Stronger", "Plain", "Silence", "Tower", "Dots")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's file, and one with a package that registers it."""
    place = tmp_path_factory.mktemp("user")
    (place / "mine_parts.py").write_text(SOURCE)
    info = place / "installed" / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gendiff.parts]\nmine = mine_parts\n[gendiff.domains]\ndots = mine_parts:Dots\n"
    )
    return place


@pytest.fixture(scope="module")
def mine(folder: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("mine_parts")
    sys.modules.pop("mine_parts", None)


@pytest.fixture(autouse=True)
def _unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendiff.discovery.REGISTERED", {})


def recipe_of(mine: Any) -> Recipe:
    return Recipe(
        name="mine.all",
        domain=mine.Dots(2.0),
        network={"kind": mine.Tower, "width": 6, "sizes": [3]},
        process=Gaussian(mine.Square(1.5), mine.Plain()),
        head=mine.Arrow(),
        times=mine.Late(),
        objective=Objective(mine.Heavy(factor=3.0), coupling=mine.Swapped()),
        sampler=mine.Steady(),
        trainer=Trainer(steps=2, batch=8, accelerator="cpu", precision="float32", show=0, checkpoint=100),
    )


@pytest.fixture(scope="module")
def trained(mine: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mine"
    train(recipe_of(mine), out, quiet=True)
    return out


LOADED = "assert type(model.domain).__name__ == 'Dots' and model.domain.spread == 2.0, model\n" + "".join(
    f"assert {text!r} in repr(model) + repr(model.sampler) + repr(model.size), model\n"
    for text in ("Square(power=1.5)", "Plain", "Arrow", "Steady(steps=5", "Tower")
)
WAYS = {
    "parts": "from mine_parts import *\nmodel = gendiff.load(PATH, parts=[Dots, Tower, Square, Plain, Arrow, Steady])",
    "register": (
        "import mine_parts as m\n[gendiff.register(getattr(m, name)) for name in NAMES]\nmodel = gendiff.load(PATH)"
    ),
    "entry point": "sys.path.insert(0, INSTALLED)\nmodel = gendiff.load(PATH)",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_new_process_loads_what_a_stranger_trained(way: str, trained: Path, folder: Path) -> None:
    code = f"import sys\nsys.path.insert(0, {str(folder)!r})\nPATH, NAMES = {str(trained)!r}, {NAMES!r}\n"
    code += f"INSTALLED = {str(folder / 'installed')!r}\nimport gendiff\n{WAYS[way]}\n{LOADED}"
    code += "assert len(model.sample(3)) == 3\n"
    if way != "parts":
        code += "from gendiff_recipes.recipe import Recipe\nrecipe = Recipe.load(PATH + '/recipe.json')\n"
        code += "assert 'Heavy(floor=0.001, head=None, factor=3.0)' in repr(recipe)\n"
        code += "assert 'Swapped' in repr(recipe.objective)\n"
        code += "assert recipe.network['kind'].__name__ == 'Tower' and 'Late' in repr(recipe.times)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]


def test_who_knows_no_such_domain_is_told_what_to_write(trained: Path) -> None:
    with pytest.raises(UnknownName, match=r"no domain 'dots'.*parts=\[MyDomain\]"):
        gendiff.load(trained)


def one_of_each(mine: Any) -> dict[str, Model]:
    pictures = {"channels": (8,), "blocks": 1}
    dots = Model.new(mine.Dots())
    return {
        "domain": dots,
        "subclass": Model.new(mine.Inverted(size=8), **pictures),
        "solver": Model(dots.domain, dots.denoiser, sampler=mine.Steady(3)),
        "schedule": Model.new(Images(size=8), process=Gaussian(mine.Square()), **pictures),
        "space": Model.new(Images(size=8), process=Gaussian(Linear(), mine.Plain()), **pictures),
        "head": Model.new(Images(size=8), head=mine.Arrow(), **pictures),
        "phase": Model.new(Audio(phase=mine.Silence(seed=5)), channels=(8, 8)),
        "network": Model.new(mine.Dots(), kind=mine.Tower, width=5),
    }


@pytest.mark.parametrize(
    ("which", "needs"),
    [
        ("domain", ("Dots",)), ("subclass", ("Inverted",)), ("solver", ("Dots",)),
        ("schedule", ("Square",)), ("space", ("Plain",)), ("head", ("Arrow",)), ("phase", ("Silence",)),
        ("network", ("Dots",)),
    ],
)  # fmt: skip
def test_each_part_alone_comes_back_as_what_it_was(which: str, needs: Any, mine: Any, tmp_path: Path) -> None:
    model = one_of_each(mine)[which]
    parts = check_loadable(model)
    assert {p.__name__ for p in parts} == set(needs)
    path = model.save(tmp_path / "m.safetensors")
    again = gendiff.load(path, parts=parts)
    assert type(again.domain) is type(model.domain) and again.domain == model.domain
    assert again.denoiser.process == model.denoiser.process and again.denoiser.head == model.denoiser.head
    assert again.sampler == model.sampler and type(again.denoiser.network) is type(model.denoiser.network)
    assert again.size == model.size
    if which not in ("domain", "solver", "network"):
        with pytest.raises(CheckpointError, match=rf"no kind.*'{needs[0]}'.*parts=\[{needs[0]}\].*@gendiff\.register"):
            gendiff.load(path)
    for part in parts:
        register(part)
    assert check_loadable(model) == ()
    gendiff.load(path)


def test_more_than_the_model_is_checked(mine: Any) -> None:
    model = Model.new(Images(size=8), channels=(8,), blocks=1)
    parts = check_loadable(model, mine.Late(), Objective(mine.Heavy(), coupling=mine.Swapped()), mine.Stronger(2.0))
    assert {p.__name__ for p in parts} == {"Late", "Heavy", "Swapped", "Stronger"}


class Bare(Flow):
    """A schedule that is no dataclass."""

    def __init__(self, power: float = 2.0) -> None:
        object.__setattr__(self, "power", power)

    def __call__(self, t: Any) -> Any:
        return 1 - t, t

    def time(self, logsnr: Any) -> Any:
        return logsnr


@dataclass(frozen=True)
class Grown(Velocity):
    """A head whose state does not stand in its fields alone."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", 2 * self.factor)


@dataclass(frozen=True)
class Holding(Velocity):
    """A head that holds a tensor."""

    table: Any = None


@dataclass(frozen=True)
class Duck:
    """Something like a head, that is none."""

    def clean(self, process: Any, x: Any, out: Any, t: Any) -> Any:
        return out

    def inputs(self, process: Any, x: Any, t: Any) -> Any:
        return x, t


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"process": Gaussian(Bare(3.0))}, r"Bare.*frozen"),
        ({"head": Grown()}, "comes back from a file as"),
        ({"head": Holding(table=torch.zeros(2))}, "Tensor"),
        ({"head": Duck()}, "Duck.*type Head"),
        ({"sampler": Velocity()}, "Velocity.*Solver"),
    ],
    ids=["no dataclass", "state", "tensor", "duck", "slot"],
)
def test_a_run_that_could_not_be_loaded_is_refused_before_its_first_step(
    change: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr("gendiff_recipes.module.Denoising.training_step", lambda *args: steps.append(1))
    recipe = Recipe(
        name="images.digits", domain=Images.of(Digits()), network={"channels": (8,), "blocks": 1},
        trainer=Trainer(steps=1, batch=2, accelerator="cpu", precision="float32", show=0),
    )  # fmt: skip
    with pytest.raises(GendiffError, match=f"(?s){says}"):
        train(replace(recipe, **change), tmp_path / "run", quiet=True)
    assert not steps and not (tmp_path / "run" / "model.safetensors").exists()


def test_a_network_that_its_size_does_not_describe_is_refused(mine: Any) -> None:
    model = Model.new(mine.Dots(), width=5)
    with pytest.raises(CheckpointError, match="do not fit the network"):
        check_loadable(Model(model.domain, model.denoiser, size={"width": 6}))
    with pytest.raises(RecipeError, match=r'network=\{"kind": Tower'):
        to_config({"network": mine.Tower()})
    with pytest.raises(RecipeError, match=r"nn\.Module"):
        Model.new(mine.Dots(), kind="Tower")


# One class of a name


def twin(module: str, fields: Any = ()) -> type:
    made = dataclasses.make_dataclass("Square", fields, bases=(Flow,), frozen=True)
    made.__module__ = module
    return made


def test_two_classes_of_one_name_are_refused() -> None:
    first, second = twin("a"), twin("b")
    with pytest.raises(RecipeError, match=r"a\.Square and b\.Square"):
        from_config({"kind": "Square"}, kinds=Kinds(parts=[first, second]))
    register(first)
    register(first)
    with pytest.raises(RecipeError, match=r"b\.Square beside a\.Square"):
        register(second)
    with pytest.raises(RecipeError, match="register got Bare"):
        register(Bare)
    assert list(gendiff.discovery.REGISTERED) == ["Square"] and REGISTERED is not gendiff.discovery.REGISTERED


def test_a_name_of_ours_is_ours_and_a_strangers_is_written_with_its_module() -> None:
    theirs = dataclasses.make_dataclass("Linear", [("power", float, 3.0)], bases=(Linear,), frozen=True)
    theirs.__module__ = "mine"
    assert kind_name(Linear) == "Linear" and kind_name(theirs) == "mine.Linear"
    kinds = Kinds(parts=[theirs])
    for value in (Linear(), theirs(power=2.0), Gaussian(theirs())):
        again = from_config(json.loads(json.dumps(to_config(value))), kinds=kinds)
        assert again == value and type(again) is type(value)
    moved = dataclasses.make_dataclass("Linear", [("power", float, 3.0)], bases=(Linear,), frozen=True)
    assert type(from_config(to_config(theirs()), kinds=Kinds(parts=[moved]))) is moved
    package = ModuleType("mine")
    package.Linear = theirs  # type: ignore[attr-defined]
    sys.modules["mine"] = package
    try:
        assert from_config(to_config(Euler(3)), package) == Euler(3)
        assert type(from_config({"kind": "Linear"}, package)) is Linear
    finally:
        del sys.modules["mine"]
