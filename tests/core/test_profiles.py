"""Power-function averages: the recurrence is its profile, widths are what they say, others are rebuilt afterwards."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from gendiff.errors import GendiffError
from gendiff.training import Profiles, Snapshot, fit, gamma_of, profile, reconstruct, sigma_rel_of

F64 = torch.float64


def path(steps: int, seed: int = 0) -> np.ndarray:
    """A synthetic training of 5 weights: a decay to a limit, slow waves, and a random walk; [steps, 5]."""
    k, draw = np.arange(1, steps + 1)[:, None], np.random.default_rng(seed)
    waves = np.sin(k / steps * np.array([3.0, 7.0, 1.0, 11.0, 5.0]) + 1)
    return 2 * np.exp(-5 * k / steps) + waves + draw.normal(0, 0.3 / np.sqrt(steps), (steps, 5)).cumsum(0)


def trained(
    weights: np.ndarray, sigma_rels: tuple[float, ...], every: int, dtype: torch.dtype = F64
) -> tuple[Profiles, list[Snapshot]]:
    module = nn.Linear(5, 1, bias=False).to(dtype)
    profiles, snapshots = Profiles(module, sigma_rels), []
    for k, row in enumerate(weights, 1):
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(row)[None])
        profiles.update(module)
        if k % every == 0:
            snapshots += profiles.snapshots()
    return profiles, snapshots


def direct(weights: np.ndarray, sigma_rel: float, updates: int) -> np.ndarray:
    """The average by its definition."""
    g = gamma_of(sigma_rel) + 1
    k = np.arange(1, updates + 1)
    return (((k / updates) ** g - ((k - 1) / updates) ** g)[:, None] * weights[:updates]).sum(0)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_widths_and_exponents(sigma_rel: float) -> None:
    gamma = gamma_of(sigma_rel)
    assert sigma_rel_of(gamma) == pytest.approx(sigma_rel, rel=1e-12)
    k = np.arange(1, 20001)
    p = profile(sigma_rel, 20000, k)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    mean = (p * k).sum()
    assert np.sqrt((p * (k - mean) ** 2).sum()) / 20000 == pytest.approx(sigma_rel, rel=1e-3)
    assert mean / 20000 == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-3)


def test_published_exponents() -> None:
    """Karras et al. (2024), Section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=5e-3)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=5e-3)
    for wrong in (0.0, -0.1, 0.29):
        with pytest.raises(GendiffError, match="width"):
            gamma_of(wrong)


def test_the_recurrence_is_the_profile() -> None:
    weights = path(500)
    profiles, _ = trained(weights, (0.05, 0.1, 0.25), 500)
    for sigma_rel, average in zip(profiles.sigma_rels, profiles.averages, strict=True):
        np.testing.assert_allclose(average["weight"][0].numpy(), direct(weights, sigma_rel, 500), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sigma_rel", "updates"), [(0.05, 2000), (0.1, 1500), (0.1, 1000)])
def test_a_profile_that_was_kept_is_found_again(sigma_rel: float, updates: int) -> None:
    weights = path(2000)
    _, snapshots = trained(weights, (0.05, 0.1), 100)
    got = reconstruct(snapshots, sigma_rel, updates)["weight"][0].numpy()
    np.testing.assert_allclose(got, direct(weights, sigma_rel, updates), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("sigma_rel", "updates"), [(0.07, 2000), (0.12, 2000), (0.15, 2000), (0.09, 1600)])
@pytest.mark.parametrize(("kept", "every"), [((0.05, 0.1), 20), ((0.05, 0.1, 0.2), 40)])
def test_other_profiles_are_rebuilt_from_snapshots(
    kept: tuple[float, ...], every: int, sigma_rel: float, updates: int
) -> None:
    """To 1e-6 of the weights, against averaging the whole training directly."""
    weights = path(2000)
    _, snapshots = trained(weights, kept, every)
    got = reconstruct(snapshots, sigma_rel, updates)["weight"][0].numpy()
    np.testing.assert_allclose(got, direct(weights, sigma_rel, updates), rtol=0, atol=1e-6)


def test_more_snapshots_are_nearer() -> None:
    k, errors = np.arange(1, 4001), []
    kept, c = [], np.zeros(0)
    for every in (1000, 400, 100, 40):
        kept = [(s, t) for t in range(every, 4001, every) for s in (0.05, 0.1)]
        c = fit(kept, 0.15, 4000, chunk=1000)
        rebuilt = sum(w * profile(s, t, k) for w, (s, t) in zip(c, kept, strict=True))
        errors.append(float(np.abs(rebuilt - profile(0.15, 4000, k)).sum()))
    assert all(a > 2 * b for a, b in pairwise(errors)) and errors[-1] < 3e-4, errors
    np.testing.assert_allclose(fit(kept, 0.15, 4000), c, rtol=1e-3, atol=1e-6)  # the pieces change nothing


def test_float32_weights_are_averaged_in_float32_and_bfloat16_ones_too() -> None:
    weights = path(1000)
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]:
        profiles, snapshots = trained(weights, (0.05, 0.1), 50, dtype)
        assert profiles.averages[0]["weight"].dtype == torch.float32
        got = reconstruct(snapshots, 0.1)["weight"]
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got[0].numpy(), direct(weights, 0.1, 1000), rtol=0, atol=tolerance)


def test_a_resumed_average_is_the_same_to_the_bit() -> None:
    weights = path(300)
    whole, _ = trained(weights, (0.05, 0.1), 300, torch.float32)
    half, _ = trained(weights[:150], (0.05, 0.1), 300, torch.float32)
    module = nn.Linear(5, 1, bias=False)
    resumed = Profiles(module, (0.05, 0.1))
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    for row in weights[150:]:
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(row)[None])
        resumed.update(module)
    for a, b in zip(whole.averages, resumed.averages, strict=True):
        assert torch.equal(a["weight"], b["weight"])
    assert resumed.updates == 300
    with pytest.raises(GendiffError, match="widths"):
        Profiles(module, (0.05,)).load_state_dict(half.state_dict())
    with pytest.raises(GendiffError, match="snapshots"):
        reconstruct(whole.snapshots(), 0.1, 301)
    with pytest.raises(GendiffError, match="snapshots"):
        reconstruct([], 0.1)
