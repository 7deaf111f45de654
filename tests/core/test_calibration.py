"""Calibration: better than the analytic table on starts it never saw, on flat and curved spaces, and safe to save."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    EDM,
    SO3,
    VE,
    BrownianSO3,
    Centered,
    Exponential,
    Gaussian,
    Geodesic,
    Guided,
    Heun,
    Joint,
    Linear,
    LinearGrid,
    PowerGrid,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import Mixture, RotationMixture
from gendiff.errors import SamplerError
from gendiff.random import Noise
from gendiff.sampling import better, calibrate, calibration, follow, sample
from gendiff.sampling.calibration import hangs_on_few
from gendiff.sampling.solvers import Adams, Calibrated, Points, Solver, UniPC
from gendiff.spaces import State
from gendiff.testing import Smooth

F64 = torch.float64


def mixture(schedule: Any) -> Mixture:
    """Three modes that none of the benchmark's problems has."""
    means = torch.tensor([[1.1, 0.2, 0.0], [-0.9, 0.6, 0.4], [0.2, -1.0, -0.5]], dtype=F64)
    return Mixture(Gaussian(schedule), means, 0.02, torch.tensor([0.5, 0.2, 0.3], dtype=F64))


FRAMES = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))


def error(denoiser: Any, like: State, solver: Solver, fine: Solver) -> Tensor:
    """Squared distances to the fine end, from starts of another seed than the pilots'."""
    space, noise = denoiser.process.space, Noise.of(31, 128)
    ends = [sample(denoiser, like, solver=s, noise=noise) for s in (solver, fine)]
    return space.dist2(*ends)


@pytest.mark.parametrize("schedule", [EDM(), Linear()], ids=repr)
def test_better_on_unseen_starts(schedule: Any) -> None:
    denoiser, like = mixture(schedule), torch.empty(128, 3, dtype=F64)
    analytic = Adams(6)
    found = calibrate(denoiser, like, analytic, evaluations=(6, 9))
    fine = Heun(300, PowerGrid())
    for n in (6, 9):
        ours, theirs = (error(denoiser, like, replace(s, steps=n), fine).median() for s in (found, analytic))
        assert float(ours) < 0.35 * float(theirs), (n, float(ours), float(theirs))
        assert replace(found, steps=n).evaluations(denoiser.process) == n
    # Numbers of steps without a table are the analytic solver's.
    for n in (5, 12):
        torch.testing.assert_close(
            *(sample(denoiser, like, solver=replace(s, steps=n), noise=Noise.of(1, 128)) for s in (found, analytic))
        )


def test_refinement_of_points_goes_on_from_their_own_table() -> None:
    """Weights sum to one all along; so the first number of a row, which follows from the others, is never stale."""
    denoiser, like = mixture(EDM()), torch.empty(256, 3, dtype=F64)
    analytic, fine = Adams(6, view=Points()), Heun(300, PowerGrid())
    plain, refined = (calibrate(denoiser, like, analytic, evaluations=6, rounds=rounds) for rounds in (0, 6))
    # What is refined is the mean, in which a sample that ends in another mode counts little.
    ours, theirs = (float(error(denoiser, like[:128], s, fine).clamp_max(0.02).mean()) for s in (refined, plain))
    assert ours < 0.7 * theirs, (ours, theirs)
    for weights in refined.tables[0].weights:
        assert sum(weights) == pytest.approx(1, abs=1e-12)


def test_on_frames() -> None:
    denoiser = Smooth(FRAMES)
    like = {"pos": torch.empty(128, 4, 3, dtype=F64), "rot": torch.empty(128, 4, 3, 3, dtype=F64)}
    analytic = Adams(6, times=LinearGrid())
    found = calibrate(denoiser, like, analytic, evaluations=6, fine=64)
    ours, theirs = (float(error(denoiser, like, s, Heun(100)).mean()) for s in (found, analytic))
    assert ours < 0.5 * theirs, (ours, theirs)
    assert from_config(json.loads(json.dumps(to_config(found)))) == found
    one = calibrate(denoiser, like, analytic, evaluations=6, fine=64, grid=LinearGrid())
    assert float(error(denoiser, like, one, Heun(100)).mean()) < theirs


def test_fine_trajectories_have_a_state_for_each_time() -> None:
    """Where a move is redone the corrected state counts: at all times near that of a finer run."""
    process = BrownianSO3(VE(0.02, 4.0))
    turn = SO3().exp(torch.eye(3, dtype=F64), torch.tensor([[0.3, -0.8, 1.1], [-1.2, 0.4, 0.2]], dtype=F64))
    denoiser = RotationMixture(process, turn, 0.2)
    like, noise = torch.empty(16, 3, 3, dtype=F64), Noise.of(3, 16)
    coarse, fine = (follow(denoiser, like, Adams(), None, {}, None, noise, n) for n in (24, 96))
    dist2 = process.space.dist2
    for a, b in ((coarse.fit, fine.fit), (coarse.choose, fine.choose), (coarse.judge, fine.judge)):
        assert len(a.states) == len(a.times) == 25
        # The states as first predicted are off by 1.0e-3.
        assert max(float(dist2(x, b.at(t)).max()) for t, x in zip(a.times, a.states, strict=True)) < 5e-4
    # Between two times, a share of the way.
    (t, s), (x, y) = coarse.fit.times[4:6], coarse.fit.states[4:6]
    between = coarse.fit.at(t + 0.25 * (s - t))
    torch.testing.assert_close(dist2(x, between), dist2(x, y) / 16)
    torch.testing.assert_close(dist2(between, y), dist2(x, y) * 9 / 16)
    found = calibrate(denoiser, like, evaluations=4, fine=48, rounds=1)
    assert found.solver == Adams(corrector=0)


def test_what_is_better() -> None:
    """In the loss and the median, and not surely worse in the mean; what hangs on a few samples is known as such."""
    theirs = torch.full((64,), 1e-2, dtype=F64)
    ours = theirs / 10
    assert better(ours, theirs, 1e-3) and not better(theirs, ours, 1e-3) and not better(ours, ours, 1e-3)
    assert not hangs_on_few(ours, theirs) and not hangs_on_few(theirs, ours)
    one, eight, most = ours.clone(), ours.clone(), theirs * 1.1
    one[0], eight[:8], most[0] = 2.0, 2.0, 0.0
    # One sample of 64 in another mode is chance, and asks for more of them; eight are not.
    assert float(one.mean()) > 0.01 and hangs_on_few(one, theirs) and better(one, theirs, 1e-3)
    assert not hangs_on_few(eight, theirs) and not better(eight, theirs, 1e-3)
    # A lower mean that is owed to one sample does not make up for the others.
    theirs[0] = 2.0
    assert float(most.mean()) < float(theirs.mean()) and hangs_on_few(most, theirs) and not better(most, theirs, 1e-3)


def test_more_pilots_judge_where_it_hangs_on_few_and_the_verdict_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, like = mixture(EDM()), torch.empty(64, 3, dtype=F64)
    found = calibrate(denoiser, like, evaluations=4, rounds=0)
    assert len(found.tables) == 1 and "the fitted table is kept; on 16 pilots" in found.notes[0]
    monkeypatch.setattr(calibration, "hangs_on_few", lambda ours, theirs: True)
    found = calibrate(denoiser, like, evaluations=4, rounds=0)
    assert "is kept; on 80 pilots" in found.notes[0]
    monkeypatch.setattr(calibration, "better", lambda *args: False)
    with pytest.warns(UserWarning, match="4 steps: the analytic solver is kept"):
        found = calibrate(denoiser, like, evaluations=4, rounds=0)
    assert not found.tables and from_config(json.loads(json.dumps(to_config(found)))) == found


def test_saved_tables_are_the_same_solver() -> None:
    denoiser, like = mixture(EDM()), torch.empty(64, 3, dtype=F64)
    found = calibrate(denoiser, like, UniPC(), evaluations=(4, 5), rounds=0)
    again = from_config(json.loads(json.dumps(to_config(found))))
    assert isinstance(again, Calibrated) and again == found
    ends = [sample(denoiser, like, solver=replace(s, steps=5), noise=Noise.of(1, 64)) for s in (found, again)]
    assert torch.equal(*ends)


def test_guided_models_and_wrong_requests() -> None:
    denoiser, like = mixture(EDM()), torch.empty(64, 3, dtype=F64)
    guided: Any = Guided(denoiser, 1.5, lambda cond: cond)  # type: ignore[arg-type]
    assert isinstance(calibrate(guided, like, evaluations=4, rounds=0), Calibrated)
    with pytest.raises(SamplerError, match="pilots"):
        calibrate(denoiser, torch.empty(4, 3, dtype=F64))
    with pytest.raises(SamplerError, match="one evaluation"):
        calibrate(denoiser, like, Heun())
