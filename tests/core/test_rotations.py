"""Laws of rotations: scipy and high-precision references, round trips and gradients at every angle, IGSO(3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from gendiff.random import Noise
from gendiff.spaces import IGSO3, SO3, exp_so3, from_quaternion, hat, log_so3, orthonormal, quaternion, uniform

Golden = Callable[[str], dict[str, Tensor]]
ANGLES = [0.0, 1e-12, 1e-9, 1e-7, 1e-5, 9.9e-4, 1.01e-3, 1e-2, 0.5, 1.5, 3.0, math.pi - 1e-3, math.pi - 1e-7, math.pi]


def axes(n: int = 40) -> Tensor:
    """Random axes, the three coordinate axes, and some of their diagonals."""
    a = Noise.of(1, n).normal((n, 3), torch.float64)
    special = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, -1], [-1, 1, 1]]).double()
    a = torch.cat([a, special, -special])
    return a / a.norm(dim=-1, keepdim=True)


def close(a: Tensor, b: Tensor, rtol: float, atol: float) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def test_golden_exponentials_logarithms_and_geodesics(golden: Golden) -> None:
    g = golden("so3_exp_log_geodesic")
    close(exp_so3(g["rotvec"]), g["matrix"], 0, 1e-13)
    log = log_so3(g["matrix"])
    close(log[[0, 1, 2, 5]], g["log_of_matrix"][[0, 1, 2, 5]], 0, 1e-11)
    close(exp_so3(log)[3:5], g["matrix"][3:5], 0, 1e-12)  # near pi the axis has two signs
    close(log[3:5].norm(dim=-1), g["log_of_matrix"][3:5].norm(dim=-1), 0, 1e-6)
    space, r0, r1 = SO3(), g["R0"], g["R1"]
    close(space.log(r0, r1), g["body_velocity"], 0, 1e-11)
    path = torch.stack([space.lerp(r0, r1, float(t)) for t in g["t"]])
    close(path, g["geodesic"], 0, 1e-12)
    for rot, xyzw in [(r0, g["quat0_xyzw"]), (r1, g["quat1_xyzw"])]:
        wxyz = xyzw[:, [3, 0, 1, 2]]
        close(quaternion(rot), torch.where(wxyz[:, :1] < 0, -wxyz, wxyz), 0, 1e-13)
        close(from_quaternion(3 * wxyz), rot, 0, 1e-13)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exp_and_log_undo_each_other_at_every_angle(angle: float, dtype: torch.dtype) -> None:
    v = (angle * axes()).to(dtype)
    rot = exp_so3(v)
    eps = torch.finfo(dtype).eps
    reference = Rotation.from_rotvec(v.double().numpy()).as_matrix()
    assert np.abs(rot.double().numpy() - reference).max() < 8 * eps
    assert float((torch.linalg.det(rot.double()) - 1).abs().max()) < 8 * eps
    back = log_so3(rot)
    assert float(back.norm(dim=-1).max()) <= math.pi * (1 + 4 * eps)
    error = (back - v).norm(dim=-1)
    if angle > 3.1:  # at pi, v and -v are one rotation
        error = torch.minimum(error, (back + v).norm(dim=-1))
    assert float(error.max()) < 40 * eps
    close(exp_so3(back), rot, 0, 12 * eps)


def test_no_angle_is_lost_in_single_precision() -> None:
    angle = torch.linspace(0, math.pi, 4001, dtype=torch.float64)[:, None]
    for axis in axes(8):
        v = angle * axis
        measured = log_so3(exp_so3(v.float())).double().norm(dim=-1, keepdim=True)
        assert float((measured - angle).abs().max()) < 2e-6  # arccos of the trace errs by 3e-4 here


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_finite_at_every_angle(angle: float, dtype: torch.dtype) -> None:
    v = (angle * axes()).to(dtype).requires_grad_()
    rot = exp_so3(v)
    (g,) = torch.autograd.grad(rot.sum(), v)
    assert bool(torch.isfinite(g).all()) and float(g.abs().max()) < 10
    rot = rot.detach().requires_grad_()
    (g,) = torch.autograd.grad(log_so3(rot).sum(), rot)
    assert bool(torch.isfinite(g).all()), "log"
    (g,) = torch.autograd.grad((log_so3(rot) ** 2).sum(), rot)
    assert bool(torch.isfinite(g).all()), "squared distance"
    (g,) = torch.autograd.grad(SO3().dist2(rot, rot.detach().flip(0)).sum(), rot)
    assert bool(torch.isfinite(g).all()), "distance"


def test_gradients_are_right_away_from_pi_and_across_the_series() -> None:
    for angle in (0.0, 1e-4, 9e-4, 1.1e-3, 0.3, 2.9):
        v = (angle * axes(3)).requires_grad_()
        assert torch.autograd.gradcheck(exp_so3, (v,), atol=1e-6)
        assert torch.autograd.gradcheck(lambda u: log_so3(exp_so3(u)), (v,), atol=1e-6)
        # log(exp(v)) = v: its Jacobian is the identity.
        jacobian = torch.func.vmap(torch.func.jacrev(lambda u: log_so3(exp_so3(u))))(v.detach())
        close(jacobian, torch.eye(3, dtype=torch.float64).expand_as(jacobian), 0, 1e-9)


def test_hat_is_the_cross_product_and_exp_is_the_matrix_exponential() -> None:
    u, v = Noise.of(2, 9).normal((9, 3), torch.float64), Noise.of(3, 9).normal((9, 3), torch.float64)
    close((hat(v) @ u[..., None])[..., 0], torch.linalg.cross(v, u), 0, 1e-15)
    close(exp_so3(v), torch.matrix_exp(hat(v)), 0, 1e-13)


def test_orthonormal_squares_the_error() -> None:
    rot = exp_so3(2 * axes())
    off = rot + 1e-4 * Noise.of(0, len(rot)).normal((len(rot), 3, 3), torch.float64)
    near = orthonormal(off)
    eye = torch.eye(3, dtype=torch.float64)
    assert float((near.mT @ near - eye).abs().max()) < 1e-6
    u, _, vh = torch.linalg.svd(off)
    close(near, u @ vh, 0, 1e-6)


def test_uniform_rotations_have_the_moments_of_the_haar_measure() -> None:
    n = 20000
    rot = uniform((n,), Noise.of(0, n), torch.float64)
    close(rot.mT @ rot, torch.eye(3, dtype=torch.float64).expand_as(rot), 0, 1e-13)
    close(torch.linalg.det(rot), torch.ones(n, dtype=torch.float64), 0, 1e-13)
    flat = rot.flatten(1)
    assert float(flat.mean(0).abs().max()) < 4.5 * (1 / 3 / n) ** 0.5
    # E R_ij R_kl = delta_ik delta_jl / 3
    second = flat.T @ flat / n
    assert float((second - torch.eye(9, dtype=torch.float64) / 3).abs().max()) < 5 * (1 / 5 / n) ** 0.5
    angle = log_so3(rot).norm(dim=-1).numpy()
    assert stats.kstest(angle, lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3  # type: ignore[union-attr]


def test_uniform_rotations_belong_to_their_samples() -> None:
    x = uniform((4, 7), Noise.of(3, 4), torch.float64)
    assert torch.equal(uniform((2, 5), Noise.of(3, 2, 1), torch.float64), x[1:3, :5])


def test_golden_igso3(golden: Golden) -> None:
    g = golden("igso3")
    worst = {}
    for i, sigma in enumerate(g["sigma"].tolist()):
        law, omega, seen = IGSO3(sigma), g["omega"], g["log_f"][i] > -25
        close(law.log_density(omega)[seen], g["log_f"][i][seen], 1e-8, 1e-12)
        close(law.log_density(omega)[~seen], g["log_f"][i][~seen], 1e-3, 0)
        close(law.score(omega)[seen], g["dlogf_domega"][i][seen], 1e-8, 1e-8)
        close(law.score(omega)[~seen], g["dlogf_domega"][i][~seen], 1e-3, 0)
        close(law.angle_density(omega)[seen], g["angle_pdf"][i][seen], 1e-8, 1e-14)
        close(law.angle_cdf(omega), g["angle_cdf"][i], 1e-8, 1e-12)
        worst[sigma] = float((law.angle_cdf(omega) - g["angle_cdf"][i]).abs().max())
    assert max(worst.values()) < 1e-11, worst


def test_igso3_images_and_series_agree_where_they_meet() -> None:
    omega = torch.linspace(1e-3, math.pi, 50, dtype=torch.float64)
    images, series = IGSO3(1.4999999999), IGSO3(1.5)
    close(images.log_density(omega), series.log_density(omega), 1e-8, 1e-8)
    close(images.score(omega), series.score(omega), 1e-7, 1e-8)


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.3, 1.0, 1.49, 1.51, 3.0])
def test_igso3_is_a_density_whose_score_is_its_slope(sigma: float) -> None:
    law = IGSO3(sigma)
    close(law.angle_cdf(torch.tensor([math.pi], dtype=torch.float64)), torch.ones(1, dtype=torch.float64), 0, 1e-10)
    omega = torch.linspace(0.2, 3.0, 15, dtype=torch.float64)
    omega = omega[law.log_density(omega) > -200]
    h = 1e-5
    slope = (law.log_density(omega + h) - law.log_density(omega - h)) / (2 * h)
    close(law.score(omega), slope, 1e-5, 1e-6)
    tiny = torch.tensor([0, 1e-9, 1e-6, 1e-5, 1e-4], dtype=torch.float64) * min(sigma, 1)
    linear = law.score(torch.tensor([1e-2 * min(sigma, 1)])) / (1e-2 * min(sigma, 1))
    close(law.score(tiny), tiny * linear, 2e-4, 1e-18)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.3, 2.0])
def test_igso3_samples_follow_their_law(sigma: float) -> None:
    n, law = 20000, IGSO3(sigma)
    rot = law.sample((n,), Noise.of(0, n), torch.float64)
    v = log_so3(rot)
    angle = v.norm(dim=-1)
    assert stats.kstest(angle.numpy(), lambda w: law.angle_cdf(torch.from_numpy(np.asarray(w))).numpy()).pvalue > 1e-3  # type: ignore[union-attr]
    axis = v / angle[:, None]
    assert float(axis.mean(0).abs().max()) < 4.5 * (1 / 3 / n) ** 0.5
    # E R = exp(-sigma^2) I: the first coefficient of the series.
    trace = rot.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(float(trace.mean()) - 3 * math.exp(-(sigma**2))) < 4 * float(trace.std()) / n**0.5


def test_igso3_is_a_semigroup() -> None:
    """The product of draws with a and b is a draw with sqrt(a^2 + b^2): this fixes the convention of sigma."""
    n, a, b = 20000, 0.6, 0.9
    first, then = (IGSO3(s).sample((n,), Noise.of(seed, n), torch.float64) for seed, s in enumerate((a, b)))
    product = first @ then
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(float(trace.mean()) - 3 * math.exp(-(a * a + b * b))) < 4 * float(trace.std()) / n**0.5
    angle, law = log_so3(product).norm(dim=-1).numpy(), IGSO3(math.hypot(a, b))
    assert stats.kstest(angle, lambda w: law.angle_cdf(torch.from_numpy(np.asarray(w))).numpy()).pvalue > 1e-3  # type: ignore[union-attr]


def test_igso3_samples_belong_to_their_samples() -> None:
    x = IGSO3(0.4).sample((4, 6), Noise.of(3, 4), torch.float64)
    assert torch.equal(IGSO3(0.4).sample((2, 3), Noise.of(3, 2, 1), torch.float64), x[1:3, :3])
