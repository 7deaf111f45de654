"""Configs, files, requests and samples of a small stranger's domain: what goes round, and what every error says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import gendiff
from gendiff import (
    DDIM,
    EDM,
    SO3,
    Centered,
    Discrete,
    Domain,
    EDMHead,
    Example,
    Examples,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Heun,
    Joint,
    Karras,
    Model,
    Objective,
    Product,
    Request,
    Shifted,
    Sphere,
    Tangent,
    Torus,
    UpAndDown,
    Velocity,
)
from gendiff.conditions import Label
from gendiff.config import from_config, to_config
from gendiff.domain import collate, finite
from gendiff.errors import CheckpointError, GendiffError, RecipeError, RequestError, UnknownName
from gendiff.modelfile import read_config
from gendiff.random import Noise
from gendiff.sampling.grids import LinearGrid, Trailing
from gendiff.spaces import Euclidean, State
from gendiff.testing import check_domain, check_space, randomised
from gendiff.training import Clean, LogNormal, MinSNR, Mixed, Uniform


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out, self.kind = nn.Linear(3, width), nn.Linear(width, 2), nn.Embedding(3, width)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        time = t[:, None, None].expand(*x.shape[:2], 1)
        return self.out(torch.tanh(self.into(torch.cat([x, time], -1)) + self.kind(kind)[:, None]))


@dataclass(frozen=True)
class Clouds(Domain):
    """Clouds of 2 to 5 points in the plane, of two kinds."""

    scale: float = 2.0
    extent: tuple[int, int] = (2, 5)
    schedule: Exponential = field(default_factory=lambda: Exponential(2.0))

    name: ClassVar[str] = "clouds"
    ragged: ClassVar[bool] = True

    @property
    def process(self) -> Gaussian:
        return Gaussian(self.schedule)

    @property
    def conditions(self) -> dict[str, Label]:
        return {"kind": Label(("Disk", "ring"))}

    def encode(self, artifact: Tensor) -> State:
        return finite(artifact / self.scale, "cloud")

    def decode(self, x: State) -> Tensor:
        return x * self.scale

    def request(self, n: int, *args: Any, points: Any = 3, **what: Any) -> Request:
        counts = [points] * n if isinstance(points, int) else list(points)
        like, mask = collate([torch.empty(c, 2) for c in counts], ragged=True)
        return Request(like, {**self.encode_conditions(n, **what), "mask": mask})

    def network(self, *, width: int = 8) -> nn.Module:  # type: ignore[override]
        return Net(width)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        clouds = [Noise.of(0, 1, i).normal((1, 2 + i % 4, 2))[0] for i in range(20)]
        return Examples([Example(c, {"kind": i % 2}, f"cloud {i}") for i, c in enumerate(clouds)])


class Point:
    """An entry point of a package that registers this domain."""

    name = "clouds"

    def load(self) -> type:
        return Clouds


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendiff.discovery.registered", lambda group: {"clouds": Point()} if group == "domains" else {})


@pytest.fixture
def model() -> Model:
    made = Model.new(Clouds(scale=3.0), width=16)
    randomised(made.denoiser.network)
    return made


HERE = sys.modules[__name__]


# Configs


@pytest.mark.parametrize(
    "value",
    [
        Clouds(scale=1.5, schedule=Exponential(7.0)),
        Joint(pos=Gaussian(Shifted(EDM(50.0), 2.0), Centered()), rot=Geodesic(SO3(), Exponential())),
        Product(a=Torus(), b=Sphere()),
        Heads(pos=Velocity(), rot=Tangent()),
        Gaussian(Discrete.linear(10)),
        EDMHead(0.3),
        DDIM(25, eta=0.3, times=UpAndDown(Karras(rho=5.0), 2, 4)),
        Objective(MinSNR(4.0), {"rot": 0.5}),
        Objective(Clean()),
        Mixed(LogNormal(-1.0, part="pos"), Uniform(), 0.2),
        Trailing(),
    ],
    ids=lambda v: type(v).__name__ + str(len(repr(v))),
)
def test_configs_go_round_through_json(value: Any) -> None:
    again = from_config(json.loads(json.dumps(to_config(value))), HERE)
    assert again == value and repr(again) == repr(value) and type(again) is type(value)


def test_a_key_nobody_reads_is_an_error_with_the_nearest_name() -> None:
    config = to_config(Heun(18))
    with pytest.raises(RecipeError, match=r"no 'step'.*Did you mean \"steps\""):
        from_config({**config, "step": 3})
    nested = to_config(Gaussian(EDM()))
    nested["schedule"]["sigma_maximum"] = 3.0
    with pytest.raises(RecipeError, match=r"process\.schedule.*no 'sigma_maximum'.*\"sigma_max\""):
        from_config(nested, where="process")
    with pytest.raises(RecipeError, match="no 'part'"):
        from_config({"kind": "Joint", "part": {}})
    with pytest.raises(GendiffError, match="betas"):
        from_config({"kind": "Discrete"})


def test_an_unknown_kind_is_an_error_and_names_no_other_code() -> None:
    with pytest.raises(UnknownName, match=r"no kind.*'Heum'.*\"Heun\""):
        from_config({"kind": "Heum", "steps": 3})
    for kind in ("os.system", "Path", "Popen", "nn.Linear", "Clouds"):
        with pytest.raises(UnknownName):
            from_config({"kind": kind})
    assert from_config({"kind": "Clouds"}, HERE) == Clouds()


def test_what_has_no_json_is_an_error() -> None:
    with pytest.raises(RecipeError, match="Tensor"):
        to_config({"x": torch.zeros(2)})


# Files


def test_a_saved_model_samples_the_same(model: Model, tmp_path: Path) -> None:
    kept = {"sampler": Heun(4, times=LinearGrid()), "recipe": {"a": [1]}, "metrics": {"fid": 2.0}}
    model = Model(model.domain, model.denoiser, size=model.size, **kept)
    path = model.save(tmp_path / "deep" / "model.safetensors")
    for place in (path, path.parent, str(path)):
        again = gendiff.load(place)
        assert again.domain == model.domain and again.sampler == model.sampler and again.size == {"width": 16}
        assert again.denoiser.process == model.denoiser.process and again.denoiser.head == model.denoiser.head
        assert again.recipe == {"a": [1]} and again.metrics == {"fid": 2.0}
        a, b = model.sample(3, points=4, kind="ring", seed=3), again.sample(3, points=4, kind="ring", seed=3)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    assert not again.denoiser.training


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> Path:
    """The file with its config and weights changed in place."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["gendiff"])
        weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    text = change(config, weights)
    save_file(weights, path, metadata={"gendiff": text if isinstance(text, str) else json.dumps(config)})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c, w: c.update(format=99), "format 99"),
        (lambda c, w: c.update(proces={}), '"process"'),
        (lambda c, w: c["domain"].update(scal=1.0), '"scale"'),
        (lambda c, w: c["sampler"].update(kind="Heum"), "Heum"),
        (lambda c, w: c["process"]["schedule"].update(rat=3.0), '"rate"'),
        (lambda c, w: c.pop("head"), "head"),
        (lambda c, w: c.pop("domain"), "domain"),
        (lambda c, w: c["network"].update(widht=3), "widht"),
        (lambda c, w: "{not json", "JSON"),
        (lambda c, w: "[1, 2]", "is a list"),
        (lambda c, w: w.pop("out.bias"), "out.bias"),
        (lambda c, w: w.update(extra=torch.zeros(1)), "extra"),
        (lambda c, w: w.update({"out.bias": torch.zeros(5)}), "out.bias"),
    ],
    ids=range(13),
)
def test_a_file_that_does_not_fit_says_why(model: Model, tmp_path: Path, change: Any, says: str) -> None:
    path = rewrite(model.save(tmp_path / "m.safetensors"), change)
    with pytest.raises(CheckpointError, match=says):
        gendiff.load(path)


def test_files_that_are_no_models(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model file"):
        gendiff.load(tmp_path / "missing.safetensors")
    path = model.save(tmp_path / "m.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100, b"PK\x03\x04 a pickle", whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            gendiff.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no gendiff model"):
        gendiff.load(path)
    rewrite(model.save(path), lambda c, w: c["domain"].update(name="cluods"))
    with pytest.raises(UnknownName, match=r"'cluods'.*\"clouds\""):
        gendiff.load(path)
    assert read_config(path)["format"] == 1


# Samples


def test_a_sample_is_its_own_in_every_batch(model: Model) -> None:
    points = [2, 5, 3, 4, 2, 5, 3]
    whole = model.sample(7, points=points, kind=["ring", "Disk", None, 0, 1, "DISK", "ring"], seed=4)
    assert [len(x) for x in whole] == points
    for batch in (1, 2, 3):
        part = model.sample(7, points=points, kind=["ring", "Disk", None, 0, 1, "DISK", "ring"], seed=4, batch=batch)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(whole, part, strict=True))
    fewer = model.sample(3, points=points[:3], kind=["ring", "Disk", None], seed=4)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(whole[:3], fewer, strict=True))
    other = model.sample(7, points=points, seed=5)
    assert not torch.allclose(other[0], whole[0])


def test_guidance_of_one_is_the_plain_model_to_the_bit(model: Model) -> None:
    plain, one = model.sample(4, kind=1), model.sample(4, kind=1, guidance=1)
    assert all(torch.equal(a, b) for a, b in zip(plain, one, strict=True))
    assert not torch.allclose(model.sample(4, kind=1, guidance=3.0)[0], plain[0])


def test_what_is_given_is_kept(model: Model) -> None:
    cloud = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    given = model.known(cloud, torch.tensor([True, False, True]))
    seen: list[float] = []
    for x in model.sample(3, points=3, given=given, batch=2, steps=4, progress=seen.append):
        torch.testing.assert_close(x[[0, 2]], cloud[[0, 2]])
        assert not torch.allclose(x[1], cloud[1])
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)


def test_sampling_leaves_the_model_as_it_was(model: Model) -> None:
    model.denoiser.train()
    model.sample(2)
    assert model.denoiser.training
    assert "Clouds" in repr(model) and model.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kind": "rings"}, '"ring"'),
        ({"kind": 2}, "not a class"),
        ({"kind": -1}, "not a class"),
        ({"kind": True}, "not a class"),
        ({"kind": ["ring"]}, "1 values for 4 samples"),
        ({"kid": "ring"}, '"kind"'),
        ({"colour": 1}, "takes kind"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(model: Model, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        model.sample(4, **asked)


@pytest.mark.parametrize("n", [0, -3])
def test_no_samples_is_an_error(model: Model, n: int) -> None:
    with pytest.raises(RequestError, match=f"n={n}"):
        model.sample(n)
    with pytest.raises(RequestError, match="batch=0"):
        model.sample(1, batch=0)


# Domains


def test_the_kit_passes_this_domain_and_finds_what_is_wrong_with_others() -> None:
    check_domain(Clouds(), requests=[{"points": [2, 5, 3, 4, 2, 5, 3, 4], "kind": "ring"}])

    class Lossy(Clouds):
        def decode(self, x: State) -> Tensor:
            return (x * self.scale).round()

    with pytest.raises(AssertionError, match="encode"):
        check_domain(replace_class(Lossy))

    class Deaf(Clouds):
        def request(self, n: int, *args: Any, points: Any = 3, **what: Any) -> Request:
            return Clouds.request(self, n, points=points)

    with pytest.raises(AssertionError, match="nonsense_keyword"):
        check_domain(replace_class(Deaf))

    class Neighbourly(Clouds):
        def network(self, *, width: int = 8) -> nn.Module:  # type: ignore[override]
            class Leaky(Net):
                def forward(self, x: Tensor, *args: Any, **cond: Any) -> Tensor:
                    return Net.forward(self, x, *args, **cond) + x.mean()

            return Leaky(width)

    with pytest.raises(AssertionError, match="depends on its batch"):
        check_domain(replace_class(Neighbourly))


def replace_class(cls: type) -> Any:
    """The class under a name that its config can find."""
    setattr(HERE, cls.__name__, cls)
    return cls()


def test_half_precision_halves_the_file_and_loads_as_float32(model: Model, tmp_path: Path) -> None:
    whole, half = model.save(tmp_path / "a.safetensors"), model.save(tmp_path / "b.safetensors", dtype=torch.bfloat16)
    assert half.stat().st_size < whole.stat().st_size
    assert half.stat().st_mode == (tmp_path / "a.safetensors").stat().st_mode
    for own, back in zip(model.denoiser.parameters(), gendiff.load(half).denoiser.parameters(), strict=True):
        assert back.dtype == torch.float32
        assert torch.equal(back, own.to(torch.bfloat16).float())


@dataclass(frozen=True)
class Rounded(Euclidean):
    """Flat, with noise that depends on the place in the batch by a little, as sums in another order make it."""

    error: ClassVar[float] = 4e-16

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        place = torch.arange(len(like), dtype=torch.float64).reshape(-1, *(1,) * (like.ndim - 1))
        return super().random(like, noise) + self.error * place


class Leaking(Rounded):
    error: ClassVar[float] = 1e-12


def test_the_kit_takes_rounding_for_rounding_and_no_more() -> None:
    check_space(Rounded(), torch.empty(5, 7, 3))
    with pytest.raises(AssertionError, match="order of the batch"):
        check_space(Leaking(), torch.empty(5, 7, 3))
