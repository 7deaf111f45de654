"""A model's own tables: kept with the weights, used for the steps they know, better than what they replace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import gendiff
from gendiff import (
    CFG,
    DDPM,
    Adams,
    Calibrated,
    Domain,
    Euler,
    Examples,
    Gaussian,
    GuidanceInterval,
    Heun,
    Linear,
    Model,
    Parallel,
    Request,
    SamplerError,
)
from gendiff.conditions import Label
from gendiff.config import from_config, to_config
from gendiff.errors import RequestError
from gendiff.testing import randomised


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.kind, self.last = nn.Linear(3, 16), nn.Embedding(3, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        return 2 * self.last(torch.tanh(3 * self.first(x) + self.kind(kind)[:, None] + t[:, None, None]))


@dataclass(frozen=True)
class Points(Domain):
    """Two points in space, of two kinds; gendiff has a class of that name, which a file does not mean."""

    name: ClassVar[str] = "pairs"

    @property
    def process(self) -> Gaussian:
        return Gaussian(Linear())

    @property
    def conditions(self) -> dict[str, Label]:
        return {"kind": Label(("near", "far"))}

    def encode(self, artifact: Tensor) -> Tensor:
        return artifact

    def decode(self, x: Tensor) -> Tensor:
        return x

    def request(self, n: int, *args: Any, **what: Any) -> Request:
        return Request(torch.empty(n, 2, 3), self.encode_conditions(n, **what))

    def network(self, **size: Any) -> nn.Module:
        return Net()

    def dataset(self, split: str, root: Any = None) -> Examples:
        return Examples([])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr("gendiff.modelfile.domain_class", lambda name: Points)
    made = Model.new(Points())
    randomised(made.denoiser.network)
    return made


def away(model: Model, goal: list[Tensor], **how: Any) -> float:
    found = model.sample(64, kind=[0, 1] * 32, **how)
    return float(torch.stack([(a - b).square().mean() for a, b in zip(found, goal, strict=True)]).mean().sqrt())


@pytest.mark.filterwarnings("ignore::gendiff.errors.RequestWarning")
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_tables_are_better_kept_and_used(model: Model, tmp_path: Path, guidance: float) -> None:
    own = model.sampler
    goal = model.sample(64, kind=[0, 1] * 32, sampler=Heun(150), guidance=guidance)
    model.calibrate((4, 6), pilots=128, guidance=guidance)
    assert isinstance(model.sampler, Calibrated) and len(model.sampler.tables) == 2
    for n in (4, 6):
        ours = away(model, goal, steps=n, guidance=guidance)
        assert ours < 0.5 * away(model, goal, sampler=Adams(n), guidance=guidance), n
        assert ours < 0.3 * away(model, goal, sampler=replace(own, steps=n), guidance=guidance), n  # type: ignore[type-var]
    again = gendiff.load(model.save(tmp_path / "model.safetensors"))
    assert again.sampler == model.sampler
    hows: list[dict[str, Any]] = [{"steps": 6}, {}, {"steps": 7}]
    for how in hows:
        for a, b in zip(model.sample(2, kind="far", **how), again.sample(2, kind="far", **how), strict=True):
            assert torch.equal(a, b)
    # Steps without a table are sampled as before.
    for how in hows[1:]:
        now = model.sample(2, kind="far", **how)
        model.sampler, kept = own, model.sampler
        assert all(torch.equal(a, b) for a, b in zip(now, model.sample(2, kind="far", **how), strict=True))
        model.sampler = kept


@pytest.mark.filterwarnings("ignore::gendiff.errors.RequestWarning")
def test_another_guidance_is_sampled_as_before(model: Model) -> None:
    own = model.sampler
    model.calibrate(4, pilots=64, rounds=1, guidance=2)
    tables = model.sampler
    assert isinstance(tables, Calibrated) and tables.guidance == "CFG(scale=2.0)"
    for guidance, sampler in (
        (2.0, tables),
        (CFG(2.0), tables),
        (1.0, own),
        (GuidanceInterval(CFG(2.0), 0.3, 3.0), own),
    ):
        fours = replace(sampler, steps=4)  # type: ignore[type-var]
        now = model.sample(2, kind="far", steps=4, guidance=guidance)
        then = model.sample(2, kind="far", sampler=fours, guidance=guidance)
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True)), guidance
    # Whoever names the tables gets them; files from before this was written down give them for every guidance.
    config = {k: v for k, v in to_config(tables).items() if k != "guidance"}
    old = from_config(config)
    model.sampler = old
    named = model.sample(1, kind="far", sampler=replace(tables, steps=4))
    assert torch.equal(model.sample(1, kind="far", steps=4)[0], named[0])
    # Tables of one guidance are no tables of another.
    model.sampler = tables
    model.calibrate(3, pilots=64, rounds=0)
    assert isinstance(model.sampler, Calibrated)
    assert [len(table.weights) for table in model.sampler.tables] == [3] and model.sampler.otherwise == own


def test_calibrating_again_adds_and_replaces(model: Model) -> None:
    model.calibrate(4, pilots=64, rounds=0)
    first = model.sampler
    model.calibrate((3, 4), pilots=64, rounds=1, kind=[0, 1] * 32)
    assert isinstance(first, Calibrated) and isinstance(model.sampler, Calibrated)
    assert sorted(len(table.weights) for table in model.sampler.tables) == [3, 4]
    assert model.sampler.otherwise == first.otherwise and model.sampler.steps == first.steps
    with pytest.raises(SamplerError, match="one evaluation"):
        model.calibrate(4, solver=Heun(), pilots=16)


def test_samplers_with_a_loop_of_their_own(model: Model) -> None:
    plain = model.sample(3, kind="near", sampler=Euler(8))
    at_once = Parallel(Euler(8), tolerance=0.0)
    for sampler in (at_once, replace(at_once, solver=Euler(3))):
        for a, b in zip(model.sample(3, kind="near", sampler=sampler, steps=8), plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    strip = torch.zeros(2, 3)
    edit = model.sample(2, kind="near", sampler=DDPM(8), start=strip, strength=0.4)
    both = model.sample(2, kind="near", sampler=Parallel(DDPM(8), tolerance=0.0), start=strip, strength=0.4)
    for a, b in zip(edit, both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    given = model.known(strip, torch.tensor([True, False])[:, None].expand(2, 3))
    with pytest.raises(SamplerError, match="grid"):
        model.sample(1, kind="near", sampler=Parallel(Euler(4)), given=given)


def test_what_has_no_steps_says_so(model: Model) -> None:
    from gendiff import Adaptive

    with pytest.raises(RequestError, match="steps="):
        model.sample(1, kind="near", sampler=Adaptive(), steps=4)
    strip = torch.zeros(2, 3)
    flow = model.sample(2, kind="near", sampler=Adaptive(1e-4, 1e-4), start=strip, strength=0.4)
    fine = model.sample(2, kind="near", sampler=Heun(200), start=strip, strength=0.4)
    for a, b in zip(flow, fine, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3)
