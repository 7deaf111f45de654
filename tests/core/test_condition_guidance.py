"""Guidance by condition: a free branch for each, all in one batch; a scale of 1 drops its term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gendiff
from gendiff import (
    APG,
    CFG,
    SO3,
    Absorbing,
    Autoguidance,
    CFGPerCondition,
    CFGPlusPlus,
    CFGRescale,
    Euler,
    Gaussian,
    Geodesic,
    GuidanceInterval,
    Guided,
    Joint,
)
from gendiff.config import from_config
from gendiff.denoisers import rows_of
from gendiff.errors import RecipeError, RequestError, RequestWarning, SamplerError
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.spaces import State, tensors
from gendiff.testing import distance
from tests.core.test_conditions import Cards, cards

F64 = torch.float64


class Counting:
    """A denoiser that counts how many samples it was asked for, and in how many calls."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls, self.samples = inner, 0, 0

    @property
    def process(self) -> Process:
        return self.inner.process

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        self.calls += 1
        self.samples += len(tensors(x)[0])
        return self.inner(x, t, **cond)


class Told:
    """A prediction from x and two conditions, on any process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, x: State, t: Any, *, a: Tensor, b: Tensor, **_: Any) -> State:
        def one(space: Any, part: Tensor) -> Tensor:
            push = (0.3 * a + 0.7 * b * a + 0.2 * b).reshape(-1, *[1] * (part.ndim - 1))
            if not part.is_floating_point():
                k = torch.arange(3, dtype=F64)
                return torch.log_softmax(push[..., None] * k + part[..., None].cos() * k.flip(0), -1)
            anchor = torch.eye(3, dtype=F64).expand_as(part) if part.shape[-1] == 3 else torch.zeros_like(part)
            return space.exp(part, space.scale(space.log(part, anchor), 0.1 * (a + b * a + 2 * b)))

        space = self.process.space
        if isinstance(x, dict):
            return {name: one(space.parts[name], part) for name, part in x.items()}  # type: ignore[attr-defined]
        return one(space, x)


ASKED = {"a": torch.tensor([1.0, 2.0, 0.5], dtype=F64), "b": torch.tensor([0.4, 1.0, 2.0], dtype=F64)}


def unasked(cond: dict[str, Any], names: Any = ("a", "b")) -> dict[str, Any]:
    return {k: torch.zeros_like(v) if k in names else v for k, v in cond.items()}


SPACES: dict[str, tuple[Process, State]] = {
    "flat": (Gaussian(), torch.randn(3, 4, 2, dtype=F64)),
    "rotations": (Geodesic(SO3()), SO3().random(torch.empty(3, 2, 3, 3, dtype=F64), Noise.of(0, 3))),
    "classes": (Absorbing(3), torch.tensor([[0, 3], [1, 2], [3, 3]])),
    "both": (
        Joint(pos=Gaussian(), kind=Absorbing(3)),
        {"pos": torch.randn(3, 4, 2, dtype=F64), "kind": torch.tensor([[0, 3], [1, 2], [3, 3]])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("space", SPACES)
def test_guidance_by_condition(space: str) -> None:
    """One condition: its rule. A scale of 1: its term dropped, and its branch not evaluated. All in one batch."""
    process, x = SPACES[space]
    counted = Counting(Told(process))

    def guided(rules: Any) -> tuple[State, int, int]:
        counted.calls = counted.samples = 0
        out = Guided(counted, CFGPerCondition(rules), unasked)(x, 0.6, **ASKED)
        return out, counted.calls, counted.samples

    full = Told(process)(x, 0.6, **ASKED)
    alone, calls, samples = guided({"a": 2.5})
    assert (calls, samples) == (1, 6)
    free = Told(process)(x, 0.6, **unasked(ASKED, ["a"]))
    assert distance(alone, CFG(2.5).join(process, x, free, full, 0.6)) < 1e-12
    both, calls, samples = guided({"a": 2.5, "b": 1.5})
    assert (calls, samples) == (1, 9)
    dropped, calls, samples = guided({"a": 2.5, "b": 1.0})
    assert (calls, samples) == (1, 6) and distance(dropped, alone) == 0
    off, calls, samples = guided({"a": 1.0, "b": 1.0})
    assert (calls, samples) == (1, 3) and distance(off, full) == 0
    if space == "flat":
        other = Told(process)(x, 0.6, **unasked(ASKED, ["b"]))
        assert distance(both, full + 1.5 * (full - free) + 0.5 * (full - other)) < 1e-12  # type: ignore[operator]
    assert distance(both, alone) > 1e-3


def test_rules_of_conditions_by_time_and_by_sample() -> None:
    process, x = SPACES["flat"]
    scales = torch.tensor([0.5, 1.0, 3.0], dtype=F64)
    rules = CFGPerCondition({"a": CFG(scales), "b": GuidanceInterval(2.0, 0.0, 1.0)})
    guided = Guided(Told(process), rules, unasked)
    times = torch.tensor([0.2, 0.9, 0.4], dtype=F64)
    whole = guided(x, times, **ASKED)
    for i in range(3):
        row = torch.tensor([i])
        own = guided.select(row)(x[row], float(times[i]), **rows_of(ASKED, row))  # type: ignore[index]
        assert distance(own, whole[row]) < 1e-12, i
    inside = Guided(Guided(Told(process), CFGPlusPlus(0.5), unasked), CFGPerCondition({"a": 2.0, "b": 3.0}), unasked)
    split = inside(x, 0.5, **ASKED)
    assert distance(split.x0, split.back) > 1e-3
    with pytest.raises(gendiff.GendiffError, match="rules"):
        CFGPerCondition({})
    model = cards()
    with pytest.raises(RequestError, match='Did you mean "caption"'):
        model.sample(1, caption="red", guidance={"captions": 2.0})


@pytest.mark.parametrize("wrap", [lambda r: CFGRescale(r, 0.0), GuidanceInterval], ids=["rescale", "interval"])
def test_rules_around_those_of_conditions_have_their_branches(wrap: Any) -> None:
    """Two samples and two conditions: the branches of the rule inside are never the samples of one."""
    process, x = SPACES["flat"]
    cond = {name: value[:2] for name, value in ASKED.items()}
    inner = CFGPerCondition({"a": 2.5, "b": 1.5})
    bare, around = (Guided(Told(process), rule, unasked)(x[:2], 0.6, **cond) for rule in (inner, wrap(inner)))  # type: ignore[index]
    assert distance(bare, around) < 1e-12
    for wrong in (lambda: CFGPlusPlus(inner), lambda: CFGPerCondition({"a": wrap(inner)}),
                  lambda: Autoguidance(Told(process), Told(process), wrap(inner))):  # fmt: skip
        with pytest.raises(RecipeError, match=r"not one for each condition \(a, b\)"):
            wrong()


def test_what_guidance_by_condition_cannot_do_is_said() -> None:
    model = cards()
    with pytest.raises(RequestError, match='Did you mean "caption"'):
        model.sample(1, caption="red", guidance=GuidanceInterval(CFGPerCondition({"captions": 2.0}), 0.0, 1.0))
    with pytest.raises(RecipeError, match="for each of some conditions"):
        model.sample(1, caption="red", guidance={})
    with pytest.warns(RequestWarning, match="guidance for 'caption' has nothing to guide"):
        model.sample(1, caption=None, kind="a", guidance={"caption": 2.0, "kind": 2.0}, sampler=Euler(1))


def test_numbers_by_condition_in_the_place_of_parts_name_the_rule_for_them() -> None:
    model = cards()
    for rule in (GuidanceInterval({"caption": 2.0}), APG({"caption": 2.0}), CFGRescale({"caption": 2.0})):
        with pytest.raises(SamplerError, match=r"CFGPerCondition\({'caption': 2.0}\) where these are conditions"):
            model.sample(1, caption="red", guidance=rule)
    inside = GuidanceInterval(CFGPerCondition({"caption": 2.0}))
    assert len(model.sample(1, caption="red", guidance=inside, sampler=Euler(1))) == 1


def test_a_model_keeps_one_scale_for_each_condition(tmp_path: Path) -> None:
    """Saved, loaded, used where nothing is said, and off where nothing of it is asked."""
    model = cards()
    model.recipe = {"guidance": {"caption": 3.0, "kind": 1.5}}
    again = gendiff.load(model.save(tmp_path / "m.safetensors"), parts=[Cards])
    assert again.guidance == {"caption": 3.0, "kind": 1.5} == from_config(again.info()["recipe"]["guidance"])
    asked: dict[str, Any] = {"caption": "red", "kind": "a", "level": None, "sampler": Euler(2)}
    own, said = (
        m.sample(1, **asked, guidance=g)[0] for m, g in ((again, None), (model, {"caption": 3.0, "kind": 1.5}))
    )
    assert torch.equal(own, said)
    assert not torch.equal(own, model.sample(1, **asked, guidance=1.0)[0])
    none = {**asked, "caption": None, "kind": None}
    assert torch.equal(again.sample(1, **none)[0], again.sample(1, **none, guidance=1.0)[0])
    found = again.calibrate(3, pilots=8, rounds=0, fine=6, **{k: v for k, v in asked.items() if k != "sampler"})
    assert "caption" in str(found.guidance)
