"""Spaces: the kit's laws on each of them, masks, gradients, the awkward points, and what a space must refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gendiff import SO3, Centered, Euclidean, Product, Sphere, Torus
from gendiff.errors import GendiffError
from gendiff.random import Noise
from gendiff.spaces import Space, State, map_state, tensors
from gendiff.testing import check_space

MASK = torch.arange(6)[None] < torch.tensor([6, 4, 2, 1])[:, None]
F64 = torch.float64


def empty(*shape: int) -> Tensor:
    return torch.empty(4, *shape, dtype=F64)


SPACES: list[tuple[Space, State]] = [
    (Euclidean(), empty()),
    (Euclidean(), empty(3, 5, 5)),
    (Centered(), empty(6, 3)),
    (SO3(), empty(3, 3)),
    (SO3(), empty(6, 3, 3)),
    (Torus(), empty(7)),
    (Sphere(), empty(3)),
    (Sphere(), empty(6, 5)),
    (Product(pos=Centered(), rot=SO3()), {"pos": empty(6, 3), "rot": empty(6, 3, 3)}),
    (Product(a=Torus(), b=Sphere(), c=Euclidean()), {"a": empty(6, 2), "b": empty(6, 3), "c": empty(6)}),
]
RAGGED: list[tuple[Space, State]] = [
    (Euclidean(), empty(6, 2)),
    (Centered(), empty(6, 3)),
    (SO3(), empty(6, 3, 3)),
    (Torus(), empty(6, 4)),
    (Sphere(), empty(6, 3)),
    (Product(pos=Centered(), rot=SO3()), {"pos": empty(6, 3), "rot": empty(6, 3, 3)}),
]


def name(value: object) -> str:
    if isinstance(value, Space):
        return repr(value)
    return "x".join(str(n) for p in tensors(value) for n in p.shape)


def draw(space: Space, like: State, stream: str, dtype: torch.dtype = F64) -> State:
    noise = Noise.of(2, tensors(like)[0].shape[0]).fork(stream)
    return map_state(lambda p: p.to(dtype), space.random(like, noise))


@pytest.mark.parametrize(("space", "like"), SPACES, ids=name)
def test_the_laws_hold(space: Space, like: State) -> None:
    for seed in range(3):
        check_space(space, like, seed=seed)


@pytest.mark.parametrize(("space", "like"), RAGGED, ids=name)
def test_the_laws_hold_under_a_mask(space: Space, like: State) -> None:
    check_space(space.masked(MASK), like)


@pytest.mark.parametrize(("space", "like"), RAGGED, ids=name)
def test_padding_changes_neither_noise_nor_distance_nor_dimension(space: Space, like: State) -> None:
    masked = space.masked(MASK)
    x, y = draw(masked, like, "x"), draw(masked, like, "y")
    for i, n in enumerate(MASK.sum(1).tolist()):
        row = map_state(lambda p: p[i : i + 1, :n], like)  # noqa: B023
        alone = space.random(row, Noise.of(2, 1, i).fork("x"))
        cut = map_state(lambda p: p[i : i + 1, :n], x)  # noqa: B023
        assert all(torch.allclose(a, b, rtol=0, atol=1e-14) for a, b in zip(tensors(alone), tensors(cut), strict=True))
        other = map_state(lambda p: p[i : i + 1, :n], y)  # noqa: B023
        torch.testing.assert_close(space.dist2(cut, other), masked.dist2(x, y)[i : i + 1])
        assert float(space.dim(row)) == float(masked.dim(x)[i])
    # Whatever stands at padded sites is not seen.
    rubbish = masked.where(MASK, x, draw(masked, like, "rubbish"))
    torch.testing.assert_close(masked.dist2(rubbish, y), masked.dist2(x, y), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("space", "like"), SPACES, ids=name)
def test_mixing_is_affine_at_the_newest_point(space: Space, like: State) -> None:
    p, q, r = (draw(space, like, s) for s in "pqr")
    weights = (0.5, 0.8, -0.3)
    v = [space.log(p, x) for x in (q, r)]
    by_hand = space.exp(p, map_state(lambda a, b: 0.8 * a - 0.3 * b, v[0], v[1]))
    for a, b in zip(tensors(space.mix([p, q, r], weights)), tensors(by_hand), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    assert space.mix([p, q], (1.0, 0.0)) is p


@pytest.mark.parametrize(("space", "like"), SPACES, ids=name)
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_gradients_are_finite_where_points_meet(space: Space, like: State, dtype: torch.dtype) -> None:
    x, y = draw(space, like, "x", dtype), draw(space, like, "y", dtype)
    for target in (x, y, space.lerp(x, y, 1e-6)):
        leaf = map_state(lambda p: p.clone().requires_grad_(), x)
        (space.dist2(leaf, target).sum() + space.norm2(leaf, space.log(target, leaf)).sum()).backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in tensors(leaf))


def test_dimensions() -> None:
    assert Centered().dim(empty(6, 3)).tolist() == [15.0] * 4
    assert Centered().masked(MASK).dim(empty(6, 3)).tolist() == [15.0, 9.0, 3.0, 0.0]
    assert SO3().dim(empty(6, 3, 3)).tolist() == [18.0] * 4
    assert Sphere().dim(empty(6, 3)).tolist() == [12.0] * 4
    assert Euclidean().masked(MASK).dim(empty(6, 2)).tolist() == [12.0, 8.0, 4.0, 2.0]
    assert Product(a=SO3(), b=Torus()).dim({"a": empty(6, 3, 3), "b": empty(6, 2)}).tolist() == [30.0] * 4


def test_centred_noise_is_a_standard_normal_on_its_subspace() -> None:
    n = 20000
    x = Centered().random(torch.empty(n, 4, 1, dtype=F64), Noise.of(0, n))[..., 0]
    assert float(x.sum(1).abs().max()) < 1e-13
    cov = x.T @ x / n
    assert float((cov - (torch.eye(4, dtype=F64) - 0.25)).abs().max()) < 5 / n**0.5


def test_compact_noise_is_uniform() -> None:
    n = 20000
    angle = Torus().random(torch.empty(n, 2, dtype=F64), Noise.of(0, n))
    assert abs(float(torch.exp(1j * angle).mean(0).abs().max())) < 5 / n**0.5
    x = Sphere().random(torch.empty(n, 3, dtype=F64), Noise.of(0, n))
    assert float(x.mean(0).abs().max()) < 5 * (1 / 3 / n) ** 0.5
    assert float((x.T @ x / n - torch.eye(3, dtype=F64) / 3).abs().max()) < 5 * 0.3 / n**0.5


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_angles_stay_on_their_circle(dtype: torch.dtype) -> None:
    below = torch.nextafter(torch.tensor(-math.pi, dtype=dtype), torch.tensor(-4.0, dtype=dtype))
    edges = torch.stack([below, -below, torch.tensor(-math.pi, dtype=dtype), torch.tensor(-1e-9, dtype=dtype)])
    x = Torus.wrap(torch.cat([edges, edges + 2 * math.pi, torch.linspace(-20, 20, 999, dtype=dtype)]))
    assert float(x.min()) >= -math.pi - 1e-6 and float(x.max()) <= math.pi
    torch.testing.assert_close(
        Torus().log(torch.full((1, 1), 3.0), torch.full((1, 1), -3.0)), torch.full((1, 1), 2 * math.pi - 6)
    )


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_the_sphere_at_the_same_and_at_the_opposite_point(dtype: torch.dtype) -> None:
    space = Sphere()
    x = space.random(torch.empty(500, 3, dtype=dtype), Noise.of(0, 500))
    # arccos gives NaN for a fifth of these in float32.
    assert bool(torch.isfinite(space.dist2(x, x)).all()) and float(space.dist2(x, x).max()) < 1e-12
    eps = torch.finfo(dtype).eps
    opposite = space.dist2(x, -x).sqrt()
    assert float((opposite - math.pi).abs().max()) < 20 * eps**0.5
    assert float((space.exp(x, space.log(x, -x)) + x).abs().max()) < 20 * eps**0.5
    leaf = x.clone().requires_grad_()
    space.dist2(leaf, -x).sum().backward()
    assert leaf.grad is not None and bool(torch.isfinite(leaf.grad).all())
    pole = torch.eye(3, dtype=dtype)
    assert float((space.dist2(pole, -pole).sqrt() - math.pi).abs().max()) < 1e-6


@pytest.mark.parametrize("angle", [1e-9, 1e-7, 1e-5, 1e-3, 1.0, 3.0, math.pi - 1e-3, math.pi - 1e-5])
def test_the_sphere_measures_every_angle(angle: float) -> None:
    x = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    y = torch.tensor([[math.cos(angle), 0.0, math.sin(angle)]], dtype=F64)
    assert float(Sphere().dist2(x, y).sqrt()) == pytest.approx(angle, rel=1e-9)
    torch.testing.assert_close(Sphere().exp(x, Sphere().log(x, y)), y, rtol=0, atol=1e-12)


def test_tangents_are_what_a_network_may_emit() -> None:
    x = Sphere().random(empty(6, 3), Noise.of(0, 4))
    v = Sphere().tangent(x, torch.randn_like(x))
    torch.testing.assert_close((x * v).sum(-1), torch.zeros(4, 6, dtype=F64), rtol=0, atol=1e-14)
    pos = Centered().masked(MASK).tangent(x, torch.randn_like(x))
    torch.testing.assert_close(pos.sum(1), torch.zeros(4, 3, dtype=F64), rtol=0, atol=1e-13)
    assert bool((pos[~MASK] == 0).all())


def test_lerp_and_scale_take_numbers_by_sample_and_by_part() -> None:
    space, like = Product(pos=Centered(), rot=SO3()), {"pos": empty(6, 3), "rot": empty(6, 3, 3)}
    x, y = draw(space, like, "x"), draw(space, like, "y")
    w = torch.tensor([0.0, 0.3, 1.0, 2.0])
    many = space.lerp(x, y, w)
    for i in range(4):
        one = space.lerp(x, y, float(w[i]))
        for a, b in zip(tensors(many), tensors(one), strict=True):
            torch.testing.assert_close(a[i], b[i], rtol=1e-6, atol=1e-7)
    split = space.lerp(x, y, {"pos": 0.25, "rot": w})
    torch.testing.assert_close(split["pos"], Centered().lerp(x["pos"], y["pos"], 0.25))
    torch.testing.assert_close(split["rot"], SO3().lerp(x["rot"], y["rot"], w))


def test_where_takes_sites_parts_and_full_shapes() -> None:
    space, like = Product(pos=Euclidean(), rot=SO3()), {"pos": empty(6, 3), "rot": empty(6, 3, 3)}
    x, y = draw(space, like, "x"), draw(space, like, "y")
    keep = MASK
    z = space.where(keep, x, y)
    assert torch.equal(z["pos"][keep], x["pos"][keep]) and torch.equal(z["rot"][~keep], y["rot"][~keep])
    z = space.where({"pos": keep, "rot": ~keep}, x, y)
    assert torch.equal(z["pos"][keep], x["pos"][keep]) and torch.equal(z["rot"][keep], y["rot"][keep])
    image = torch.rand(2, 3, 4, 4) > 0.5
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(Euclidean().where(image, a, b), torch.where(image, a, b))
    assert torch.equal(Euclidean().where(image[:, :1], a, b), torch.where(image[:, :1].expand_as(a), a, b))


def test_products_are_equal_by_their_parts_and_print_pasteably() -> None:
    a, b = Product(pos=Centered(), rot=SO3()), Product({"pos": Centered(), "rot": SO3()})
    assert a == b and hash(a) == hash(b) and a != Product(pos=Euclidean(), rot=SO3())
    assert eval(repr(a), {"Product": Product, "Centered": Centered, "SO3": SO3}) == a
    with pytest.raises(GendiffError, match="no parts"):
        Product()


def test_the_kit_finds_a_broken_space() -> None:
    @dataclass(frozen=True, repr=False)
    class Crooked(Torus):
        def log(self, x: Tensor, y: Tensor) -> Tensor:
            return y - 0.999 * x

    with pytest.raises(AssertionError, match="Crooked"):
        check_space(Crooked(), empty(6))

    @dataclass(frozen=True, repr=False)
    class Shared(Euclidean):
        def random(self, like: Tensor, noise: Noise) -> Tensor:
            return noise.normal(like.shape, like.dtype) * torch.arange(1.0, 5.0, dtype=F64)[:, None]

    with pytest.raises(AssertionError, match="order of the batch"):
        check_space(Shared(), empty(3))
