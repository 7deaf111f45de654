"""What a user passes to `model.sample`: rules, measurements, known parts, something to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    APG,
    DDPM,
    DPS,
    CFGPlusPlus,
    CFGRescale,
    Domain,
    Euler,
    Examples,
    FeynmanKac,
    Gaussian,
    GuidanceInterval,
    Heun,
    Likelihood,
    Linear,
    Measurement,
    Model,
    Request,
    Reward,
)
from gendiff.conditions import Label
from gendiff.errors import RequestError, SamplerError
from gendiff.guidance import Average, known
from gendiff.sampling.grids import LinearGrid, UpAndDown
from gendiff.testing import distance, randomised


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.kind, self.calls = nn.Linear(4, 4), nn.Embedding(3, 4), 0

    def forward(self, x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.mix(x) + self.kind(kind)[:, None] + t[:, None, None])


@dataclass(frozen=True)
class Strips(Domain):
    """Strips of 6 x 4 numbers, of two kinds."""

    name: ClassVar[str] = "strips"

    @property
    def process(self) -> Gaussian:
        return Gaussian(Linear())

    @property
    def conditions(self) -> dict[str, Label]:
        return {"kind": Label(("flat", "steep"))}

    def encode(self, artifact: Tensor) -> Tensor:
        return artifact

    def decode(self, x: Tensor) -> Tensor:
        return x

    def request(self, n: int, *args: Any, **what: Any) -> Request:
        return Request(torch.empty(n, 6, 4), self.encode_conditions(n, **what))

    def network(self, **size: Any) -> nn.Module:
        return Net()

    def dataset(self, split: str, root: Any = None) -> Examples:
        return Examples([])


@pytest.fixture
def model() -> Model:
    made = Model.new(Strips())
    randomised(made.denoiser.network)
    return made


def test_guidance_takes_rules(model: Model) -> None:
    plain = model.sample(3, kind="steep", sampler=Heun(5))
    for rule in (APG(3.0), GuidanceInterval(CFGRescale(APG(3.0), 0.5), 0.2, 5.0), CFGPlusPlus()):
        x = model.sample(3, kind="steep", sampler=Heun(5), guidance=rule)
        assert distance(x[0], plain[0]) > 1e-4
        again = model.sample(3, kind="steep", sampler=Heun(5), guidance=rule, batch=2)
        assert max(distance(a, b) for a, b in zip(x, again, strict=True)) < 1e-5
    assert torch.equal(model.sample(1, kind="steep", sampler=Heun(5), guidance=APG(1.0))[0], plain[0])


def test_a_measurement_is_met(model: Model) -> None:
    low = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)) / 2
    measured = Measurement(Average(2, (1,)), low)
    for x in model.sample(3, kind="flat", given=measured, sampler=Euler(12), batch=2):
        assert distance(Average(2, (1,))(x[None]), low) < 0.02
    told = {"kind": "flat", "sampler": Euler(40), "guidance": 1.5}
    near = model.sample(2, given=Measurement(Average(2, (1,)), low, method=DPS(0.2)), **told)
    far = model.sample(2, **told)
    for x, y in zip(near, far, strict=True):
        assert (Average(2, (1,))(x[None]) - low).norm() < 0.6 * (Average(2, (1,))(y[None]) - low).norm()


def test_known_parts_are_put_in_place_on_a_grid_that_goes_up_and_moments_are_asked_for(model: Model) -> None:
    strip = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    keep = (torch.arange(6) < 3)[:, None].expand(6, 4)
    given, net = model.known(strip, keep), model.denoiser.network
    moments = known(given, model.denoiser.process)
    assert moments is not None
    twice = Euler(6, times=UpAndDown(LinearGrid(), 1, 2))
    for what, sampler, calls in ((given, Euler(6), 51), (given, twice, 11), (moments, Euler(6), 6)):
        net.calls = 0  # type: ignore[assignment]
        x = model.sample(1, given=what, sampler=sampler)[0]
        assert distance(x[:3], strip[:3]) <= (0 if what is given else 0.05)
        assert distance(x[3:], strip[3:]) > 0.1
        assert net.calls == calls


def test_particles_stand_where_a_sampler_may(model: Model) -> None:
    """More particles, more reward; samples are their own in every batch; known parts are refused with a way out."""

    def reward(x: Tensor) -> Tensor:
        return 3 * x.flatten(1).sum(1)

    def drawn(k: int, **more: Any) -> Tensor:
        return torch.stack(model.sample(12, kind="flat", sampler=FeynmanKac(DDPM(8), Reward(reward), k), **more))

    one, many = drawn(1), drawn(16)
    assert distance(one, torch.stack(model.sample(12, kind="flat", sampler=DDPM(8)))) < 1e-5
    assert float(many.sum((1, 2)).mean()) > float(one.sum((1, 2)).mean()) + 3 * float(one.sum((1, 2)).std()) / 12**0.5
    assert distance(drawn(16, batch=5, guidance=1.5), drawn(16, guidance=1.5)) < 1e-4
    low = torch.zeros(1, 3, 4)
    steered = FeynmanKac(DDPM(30), Likelihood(Measurement(Average(2, (1,)), low, noise=0.1)), 8)
    near, far = (torch.stack(model.sample(8, kind="steep", sampler=s)) for s in (steered, DDPM(30)))
    assert float(Average(2, (1,))(near).square().mean()) < 0.1 * float(Average(2, (1,))(far).square().mean())
    with pytest.raises(SamplerError, match="known parts"):
        model.sample(1, sampler=steered, given=model.known(torch.zeros(6, 4), torch.ones(6, 4, dtype=torch.bool)))


def test_an_edit_is_near_its_start(model: Model) -> None:
    strip = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    little = model.sample(2, start=strip, strength=0.02, sampler=Euler(100))
    much = model.sample(2, start=strip, strength=0.9, sampler=Euler(100))
    assert distance(little[0], strip) < 0.25 < distance(much[0], strip)
    assert distance(little[0], little[1]) > 1e-3
    assert torch.equal(model.sample(2, start=strip, strength=0.9, sampler=Euler(100), batch=1)[1], much[1])
    with pytest.raises(RequestError, match="same size"):
        model.sample(1, start=torch.zeros(5, 4))
    other = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    both = model.sample(2, start=[other, strip], strength=0.9, sampler=Euler(100), batch=1)
    assert torch.equal(both[1], much[1]) and distance(both[0], much[0]) > 1e-3
    with pytest.raises(RequestError, match="3 artifacts to start 2 samples from"):
        model.sample(2, start=[strip] * 3)
