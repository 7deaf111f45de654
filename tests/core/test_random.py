"""Laws of the counter-based noise: known answers, distributions, independence, and that a sample's noise is its own."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from gendiff.random import WORD, Noise, philox

ZEROS = [0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"
ONES = [WORD] * 4, [WORD] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0], "d16cfe09 94fdcceb 5001e420 24126ea1"


@pytest.mark.parametrize(("counter", "key", "answer"), [ZEROS, ONES, PI], ids=["zeros", "ones", "pi"])
def test_philox_gives_the_known_answers_of_random123(counter: list[int], key: list[int], answer: str) -> None:
    words = philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert " ".join(f"{int(w):08x}" for w in words) == answer


def test_normals_and_uniforms_are_distributed_as_they_should() -> None:
    noise = Noise.of(7, 50, start=1000)
    z, u = noise.normal((50, 40, 51), torch.float64).flatten(), noise.fork("u").uniform((50, 40, 51)).flatten()
    n = len(z)
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3  # type: ignore[union-attr]
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3  # type: ignore[union-attr]
    for power, moment, deviation in [(1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)]:
        assert abs(float((z**power).mean()) - moment) < 4 * deviation / n**0.5
    assert float(u.min()) > 0 and float(u.max()) < 1
    # Both halves of a Box-Muller pair, and neighbours in every direction, are uncorrelated.
    grid = z.reshape(50, 40, 51)
    for a, b in [(grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1]), (grid[..., 1:], grid[..., :-1])]:
        assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5
        assert abs(float((a**2 * b**2).mean()) - 1) < 4 * 8**0.5 / a.numel() ** 0.5


def test_integers_are_uniform() -> None:
    k = Noise.of(3, 100).integers((100, 700), 7)
    assert stats.chisquare(torch.bincount(k.flatten(), minlength=7).numpy()).pvalue > 1e-3
    assert int(k.min()) == 0 and int(k.max()) == 6


def test_seed_index_stream_and_step_each_give_independent_numbers() -> None:
    base = Noise.of(0, 1)
    others = {
        "seed": Noise.of(1, 1),
        "high word of the seed": Noise.of(1 << 32, 1),
        "negative seed": Noise.of(-1, 1),
        "index": Noise.of(0, 1, start=1),
        "stream": base.fork("churn"),
        "a stream of a stream": base.fork("churn").fork("pos"),
        "step": base.at(1),
        "step -1": base.at(-1),
    }
    shape = (1, 200, 100)
    drawn = {"base": base.normal(shape, torch.float64)} | {k: v.normal(shape, torch.float64) for k, v in others.items()}
    all_of_them = torch.stack([z.flatten() for z in drawn.values()])
    correlation = torch.corrcoef(all_of_them) - torch.eye(len(drawn), dtype=torch.float64)
    assert float(correlation.abs().max()) < 5 / (200 * 100) ** 0.5, f"of {list(drawn)}: {correlation}"


def test_forking_is_by_name_and_in_order() -> None:
    noise = Noise.of(0, 2)
    assert torch.equal(noise.fork("a").normal((2, 3)), noise.fork("a").normal((2, 3)))
    assert not torch.equal(noise.fork("a").fork("b").normal((2, 3)), noise.fork("b").fork("a").normal((2, 3)))


@pytest.mark.parametrize("rest", [(), (5,), (6, 3), (6, 3, 3), (5, 5), (4, 7, 2)])
def test_a_sample_has_its_noise_in_every_batch(rest: tuple[int, ...]) -> None:
    whole = Noise.of(11, 8)
    order = torch.randperm(8)
    for draw in (lambda s, n: s.normal((n, *rest), torch.float64), lambda s, n: s.uniform((n, *rest))):
        x = draw(whole, 8)
        assert torch.equal(draw(whole.select(order), 8), x[order])
        assert torch.equal(torch.cat([draw(Noise.of(11, 1, i), 1) for i in range(8)]), x)
        assert torch.equal(draw(whole.select(slice(2, 5)), 3), x[2:5])


@pytest.mark.parametrize("inner", [(), (1,), (2,), (3,), (4,), (5,), (3, 3), (7, 2)])
def test_padding_the_sites_moves_nothing(inner: tuple[int, ...]) -> None:
    noise = Noise.of(5, 3)
    for draw in (noise.normal, noise.uniform):
        short, long = draw((3, 6, *inner), torch.float64), draw((3, 11, *inner), torch.float64)
        assert torch.equal(long[:, :6], short)


@pytest.mark.parametrize("inner", [(), (3,)])
def test_padding_pairs_of_sites_moves_nothing(inner: tuple[int, ...]) -> None:
    noise = Noise.of(5, 3)
    for draw in (noise.normal, noise.uniform):
        short, long = draw((3, 5, 5, *inner), torch.float64), draw((3, 9, 9, *inner), torch.float64)
        assert torch.equal(long[:, :5, :5], short)


def test_single_precision_is_double_precision_rounded() -> None:
    noise = Noise.of(0, 100)
    exact = noise.normal((100, 100, 10), torch.float64)
    error = (noise.normal((100, 100, 10), torch.float32).double() - exact).abs()
    assert float(error.max()) < 5e-5 and float(error.square().mean().sqrt()) < 5e-7
    half = noise.normal((100, 100, 10), torch.bfloat16).double()
    assert float(((half - exact).abs() / (exact.abs() + 1e-2)).max()) < 2**-7


def test_uniform_numbers_stay_inside_the_interval_in_every_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "words", lambda self, shape, per_element=1: torch.tensor([[0, 1, WORD - 1, WORD]]))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        u = Noise.of(0, 4).uniform((4,), dtype)
        assert float(u.min()) > 0 and float(u.max()) < 1, dtype


def test_extreme_words_give_finite_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Noise, "words", lambda self, shape, per_element=1: torch.tensor([[0, 0, 0, WORD, WORD, 0, WORD, WORD]])[None]
    )
    for dtype in (torch.float64, torch.float32):
        z = Noise.of(0, 1).normal((1, 1, 8), dtype)
        assert bool(torch.isfinite(z).all()) and float(z.abs().max()) < math.sqrt(2 * 33 * math.log(2)) + 1e-3
