"""The kit passes every part of ours, and fails wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    APG,
    CFG,
    EDM,
    SO3,
    VE,
    VP,
    CFGPlusPlus,
    CFGRescale,
    CFGZeroStar,
    Cosine,
    Eps,
    Exponential,
    Gaussian,
    Geodesic,
    GuidanceInterval,
    Laplace,
    Linear,
    Polynomial,
    Sigmoid,
    Torus,
    TrigFlow,
)
from gendiff.denoisers import Head
from gendiff.guidance import Rule
from gendiff.processes import Leaf, Process
from gendiff.processes.schedules import Schedule, Time
from gendiff.spaces import State
from gendiff.testing import check_rule, check_schedule, check_weighting
from gendiff.training import Clean, MinSNR, Output, Weighting

SCHEDULES = [VP(), Cosine(), TrigFlow(), Sigmoid(), Laplace(), VE(), EDM(), Linear(), Exponential(3.0), Polynomial(2.0)]
RULES = [
    CFG(3.0), APG(3.0, 2.0), CFGZeroStar(3.0), CFGRescale(3.0, 0.7), GuidanceInterval(3.0, 0.2, 2.0), CFGPlusPlus(0.6),
]  # fmt: skip
PROCESSES = [
    (Gaussian(VP()), (4, 3)),
    (Gaussian(Linear()), (4, 5, 2)),
    (Geodesic(SO3()), (4, 2, 3, 3)),
    (Geodesic(Torus()), (4, 3)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_pass(schedule: Schedule) -> None:
    check_schedule(schedule)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize(("process", "shape"), PROCESSES, ids=repr)
def test_rules_pass(rule: Rule, process: Process, shape: tuple[int, ...]) -> None:
    check_rule(rule, process, torch.empty(shape))


@pytest.mark.parametrize("weighting", [Output(), Clean(), MinSNR()], ids=repr)
def test_weightings_pass(weighting: Weighting) -> None:
    check_weighting(weighting, Gaussian(VP()), Eps())


@dataclass(frozen=True)
class WrongInverse(Cosine):
    def time(self, logsnr: Time) -> Time:
        return super().time(logsnr) * 0.99


@dataclass(frozen=True)
class Rising(Cosine):
    def __call__(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = super().__call__(t)
        return sigma, alpha


@dataclass(frozen=True)
class OverTheBatch(Rule):
    """Scales by a norm over the batch: what a sample gets depends on its neighbours."""

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        return full + (full - free) / (full - free).norm().clamp_min(1e-9)


@dataclass(frozen=True)
class FloatsOnly(Rule):
    """Acts at float times alone."""

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        return full if isinstance(t, Tensor) else process.space.lerp(free, full, 2.0)


@dataclass(frozen=True)
class Negative(Weighting):
    def __call__(self, process: Leaf, head: Head, t: Tensor) -> Tensor:
        return process.schedule.logsnr(t)


def test_wrong_parts_fail() -> None:
    with pytest.raises(AssertionError, match=r"time\(logsnr"):
        check_schedule(WrongInverse())
    with pytest.raises(AssertionError, match="data stand at t = 0"):
        check_schedule(Rising())
    with pytest.raises(AssertionError, match="alone as in a batch"):
        check_rule(OverTheBatch(), Gaussian(VP()), torch.empty(4, 3))
    with pytest.raises(AssertionError, match="tensor times"):
        check_rule(FloatsOnly(), Gaussian(VP()), torch.empty(4, 3))
    with pytest.raises(AssertionError, match="not negative"):
        check_weighting(Negative(), Gaussian(VP()), Eps())
