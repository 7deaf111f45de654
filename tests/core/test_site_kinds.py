"""Parts on pairs of elements: the triangle, masks, batches and noise; padded is unpadded, in loss and under solvers.

The network sees the whole square of pairs, so that a pair out of place, or one of padding, would change what it says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import gendiff.sampling.solvers as solvers
from gendiff import (
    DDIM,
    DDPM,
    Absorbing,
    Adams,
    Centered,
    Denoiser,
    Domain,
    Euclidean,
    Euler,
    Example,
    Examples,
    FeynmanKac,
    Gaussian,
    Heads,
    Joint,
    Label,
    Linear,
    LinearGrid,
    Logits,
    Model,
    Pairs,
    Request,
    Reward,
    UniformCategories,
    Velocity,
    sample,
)
from gendiff.config import from_config, to_config
from gendiff.domain import collate, crop, length_of
from gendiff.errors import DataError
from gendiff.random import Noise
from gendiff.spaces import pair_index, to_pairs, to_square
from gendiff.testing import check_domain, check_space, distance, randomised
from gendiff.training import denoising_loss
from gendiff_recipes.data import Batches, Encoded

F64, F32 = torch.float64, torch.float32


class PairNet(nn.Module):
    """Two rounds of messages over the square of pairs."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.point, self.kind, self.tie = nn.Linear(4, width), nn.Embedding(5, width), nn.Embedding(5, width)
        self.ask, self.far = nn.Embedding(3, width), nn.Linear(2, width)
        self.on, self.off = nn.Linear(width, width), nn.Linear(2 * width, width)
        self.outs = nn.ModuleDict({"pos": nn.Linear(width, 3), "kind": nn.Linear(width, 3)})
        self.pairs = nn.ModuleDict({"tie": nn.Linear(width, 4), "far": nn.Linear(width, 1)})

    def forward(self, x: Any, t: Tensor, group: Tensor | None = None, mask: Tensor | None = None) -> Any:
        n = x["pos"].shape[1]
        mask = torch.ones_like(x["kind"], dtype=torch.bool) if mask is None else mask
        asked = 0.0 if group is None else self.ask(group)[:, None]
        h = self.point(torch.cat([x["pos"], t[:, None, None].expand(-1, n, 1)], -1)) + self.kind(x["kind"]) + asked
        about = torch.cat([x["far"], t[:, None, None].expand(-1, x["far"].shape[1], 1)], -1)
        e = self.tie(x["tie"]) + self.far(about)
        i, j = pair_index(n)
        for _ in range(2):
            e = torch.tanh(self.on(e) + h[:, i] + h[:, j])
            met = (to_square(e, n) * mask[:, None, :, None]).sum(2)
            h = torch.tanh(self.off(torch.cat([h, met], -1)))
        whole = {name: layer(h) for name, layer in self.outs.items()}
        return {**whole, **{name: layer(e) for name, layer in self.pairs.items()}}


PROCESS = Joint(
    tie=Absorbing(4, sites=Pairs()), pos=Gaussian(Linear(), Centered()), kind=UniformCategories(3),
    far=Gaussian(Linear(), Euclidean(sites=Pairs())),
)  # fmt: skip
HEAD = Heads(tie=Logits(), pos=Velocity(), kind=Logits(), far=Velocity())


@dataclass(frozen=True)
class Graphs(Domain):
    """Points with kinds, ties and a number for each pair, of which the parts on pairs do not come last."""

    name: ClassVar[str] = "graphs"
    ragged: ClassVar[bool] = True
    multiple: ClassVar[int] = 4

    @property
    def process(self) -> Joint:
        return PROCESS

    @property
    def conditions(self) -> dict[str, Label]:
        return {"group": Label(("few", "many"))}

    def encode(self, artifact: Any) -> Any:
        return {**artifact, "pos": artifact["pos"] - artifact["pos"].mean(0)}

    def decode(self, x: Any) -> Any:
        return x

    def request(self, n: int, *, size: Sequence[int] | int = 5, **what: Any) -> Request:
        sizes = [size] * n if isinstance(size, int) else list(size)
        return Request(empty(n, max(sizes)), {"mask": masks(sizes), **self.encode_conditions(n, **what)})

    def size_of(self, artifact: Any) -> dict[str, Any]:
        return {"size": len(artifact["kind"])}

    def network(self, **size: Any) -> nn.Module:
        return PairNet(**size)

    def dataset(self, split: str, root: Any = None) -> Examples:
        sizes = [4, 7, 2, 5, 1, 6, 3, 8]
        return Examples([Example(graph(n, i), {"group": "many" if n > 4 else "few"}) for i, n in enumerate(sizes)])


def graph(n: int, seed: int = 0, dtype: torch.dtype = F32) -> dict[str, Tensor]:
    g, p = torch.Generator().manual_seed(seed), n * (n - 1) // 2
    return {
        "tie": torch.randint(4, (p,), generator=g),
        "pos": torch.randn(n, 3, generator=g, dtype=F64).to(dtype),
        "kind": torch.randint(3, (n,), generator=g),
        "far": torch.randn(p, 1, generator=g, dtype=F64).to(dtype),
    }


def empty(n: int, size: int, dtype: torch.dtype = F32) -> dict[str, Tensor]:
    return {k: torch.zeros(n, *v.shape[:1], *v.shape[1:], dtype=v.dtype) for k, v in graph(size, dtype=dtype).items()}


def masks(sizes: Sequence[int], longest: int | None = None) -> Tensor:
    return torch.arange(longest or max(sizes))[None] < torch.tensor(sizes)[:, None]


def denoiser(dtype: torch.dtype = F64) -> Denoiser:
    network = randomised(PairNet())
    with torch.no_grad():  # gentle, so that rounding is not magnified
        for p in network.parameters():
            p.mul_(0.5)
    return Denoiser(network, HEAD, PROCESS).to(dtype)


def test_pairs_stand_where_more_elements_leave_them() -> None:
    for n in range(6):
        i, j = pair_index(n)
        assert [(a, b) for b in range(n) for a in range(b)] == list(zip(i.tolist(), j.tolist(), strict=True))
        assert len(i) == Pairs().count(n) and all(j * (j - 1) // 2 + i == torch.arange(len(i)))
        assert n < 2 or Pairs().size(len(i)) == n
        pairs = torch.randn(2, len(i), 3, generator=torch.Generator().manual_seed(0))
        square = to_square(pairs, n, 7)
        assert square.shape == (2, n, n, 3) and torch.equal(square, square.transpose(1, 2))
        assert torch.equal(to_pairs(square), pairs) and bool((square[:, range(n), range(n)] == 7).all())
        assert torch.equal(to_square(to_pairs(square), n, 7), square)
    with pytest.raises(DataError, match=r"7 entries.*6 or 10"):
        Pairs().size(7)
    mask = masks([3, 1, 5])
    assert torch.equal(
        to_square(Pairs().mask(mask), 5, False), (mask[:, :, None] & mask[:, None]) & ~torch.eye(5).bool()
    )


def test_ragged_states_come_back_from_a_batch() -> None:
    states = [graph(n, n) for n in (4, 1, 6)]
    batch, mask = collate(states, True, 8, PROCESS.space)
    assert (
        mask is not None and mask.shape == (3, 8) and batch["tie"].shape == (3, 28) and batch["pos"].shape == (3, 8, 3)
    )
    for state, back in zip(states, crop(batch, mask, PROCESS.space), strict=True):
        assert distance(state, back) == 0
    assert [length_of(state, PROCESS.space) for state in states] == [4, 1, 6]
    bound = PROCESS.masked(mask).space
    assert bound.dim(batch).tolist() == [9 + 4 + 6 + 6, 0 + 1, 15 + 6 + 15 + 15]
    with pytest.raises(DataError, match=r"4 elements \(by 'pos'\) has 5 entries in 'tie'.*6"):
        length_of({**states[0], "tie": torch.zeros(5, dtype=torch.int64)}, PROCESS.space)


def test_kinds_of_sites_are_saved_and_bound_spaces_keep_the_laws() -> None:
    assert from_config(json.loads(json.dumps(to_config(PROCESS)))) == PROCESS
    assert Absorbing(4) != Absorbing(4, sites=Pairs()) and "Pairs()" in repr(PROCESS.space)
    space = Euclidean(sites=Pairs()).masked(masks([3, 2, 5]))
    check_space(space, torch.empty(3, 10, 2))


def test_a_domain_with_pairs_keeps_the_contract_in_batches_of_the_trainer() -> None:
    domain = Graphs()
    check_domain(domain, requests=[{}, {"size": [2, 5, 1, 3, 8, 2, 2, 4], "group": "few"}])
    data = Encoded(domain, domain.dataset("train"))
    assert data.lengths == [4, 7, 2, 5, 1, 6, 3, 8]
    batch = next(iter(Batches(domain, data, batch=4, stop=1).train_dataloader()))
    assert batch["cond"]["mask"].shape[1] % 4 == 0
    assert batch["x0"]["tie"].shape[1] == Pairs().count(batch["cond"]["mask"].shape[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-6)], ids=["float64", "float32"])
def test_a_padded_loss_is_the_unpadded_one(dtype: torch.dtype, tolerance: float) -> None:
    """Every number of the loss, by part, and its gradient: alone, in a batch, and in one that is longer still."""
    states, t = [graph(n, n, dtype) for n in (4, 2, 6)], torch.tensor([0.3, 0.7, 0.95], dtype=F64)

    def losses(chosen: list[int], length: int | None) -> dict[str, Tensor]:
        batch, mask = collate([states[k] for k in chosen], True, length, PROCESS.space)
        return denoising_loss(denoiser(dtype), batch, t[chosen], Noise(3, torch.tensor(chosen)), mask=mask)

    whole = losses([0, 1, 2], 11)
    for k in range(3):
        alone = losses([k], None)
        for name, value in alone.items():
            assert distance(value[:1].detach(), whole[name][k : k + 1].detach()) < tolerance * (
                1 + float(value.detach())
            ), (name, k)


WAYS = [
    solvers.Euler(4), DDIM(4, eta=0.6), DDPM(4), solvers.Heun(3), solvers.Midpoint(3), solvers.RK4(2),
    solvers.DPMSolver(3), solvers.DPMpp2S(3), solvers.DPMpp2M(4, eta=0.5), solvers.DPMpp3M(4), solvers.DPMpp3S(6),
    Adams(5), solvers.SASolver(4), solvers.UniPC(4), solvers.PNDM(5), solvers.DEIS(4), solvers.LMS(4), solvers.IPNDM(4),
    solvers.Churn(4, LinearGrid(0.9)), solvers.Consistency(2), solvers.OnePath(4),
    FeynmanKac(DDPM(3), Reward(lambda x: x["pos"].sum((1, 2))), 2),
]  # fmt: skip


def repr_of(solver: Any) -> str:
    view = getattr(solver, "view", None)
    return type(solver).__name__ + ("" if view is None else f" {view!r}")


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-6)], ids=["float64", "float32"])
@pytest.mark.parametrize("solver", WAYS, ids=repr_of)
def test_padded_samples_are_the_unpadded_ones(solver: Any, dtype: torch.dtype, tolerance: float) -> None:
    """Batches of one without padding, of all, and of all padded further, under every family of solvers."""
    sizes, net = [4, 2, 6, 5], denoiser(dtype)

    def draw(chosen: list[int], longest: int) -> Any:
        like, mask = empty(len(chosen), longest, dtype), masks([sizes[k] for k in chosen], longest)
        x = sample(net, like, solver=solver, noise=Noise(5, torch.tensor(chosen)), cond={"mask": mask})
        return crop(x, mask, PROCESS.space)

    with torch.no_grad():
        whole, longer = draw([0, 1, 2, 3], 6), draw([0, 1, 2, 3], 9)
        for k in range(4):
            (alone,) = draw([k], sizes[k])
            for other in (whole[k], longer[k]):
                assert distance(alone, other) < tolerance * max(1.0, *(float(p.abs().max()) for p in alone.values()))


@pytest.mark.parametrize("asked", ["plain", "guided", "given", "given by part", "start", "starts"])
def test_a_model_with_pairs_cuts_its_batches(asked: str) -> None:
    """Guidance, what is known and what is edited, in batches of one, three and all."""
    model = Model.new(Graphs())
    randomised(model.denoiser.network)
    keep = torch.tensor([True, True, False, True, False, False])
    known, pairs = graph(6, 3), Pairs().mask(keep[None])[0]
    by_part = {"pos": keep, "kind": keep, "tie": pairs, "far": pairs}
    what: dict[str, Any] = {
        "plain": {"size": [2, 6, 4, 1, 5]},
        "guided": {"size": [2, 6, 4, 1, 5], "group": ["few", "many", "few", "few", "many"], "guidance": 2.0},
        "given": {"size": 6, "given": model.known(known, keep)},
        "given by part": {"size": 6, "given": model.known(known, by_part)},
        "start": {"start": graph(4, 1), "strength": 0.5},
        "starts": {"start": [graph(n, n) for n in (4, 2, 6, 3, 5)], "size": [4, 2, 6, 3, 5]},
    }[asked]  # fmt: skip
    whole = model.sample(5, sampler=Euler(4), **what)
    sizes = what.get("size", 4)
    for x, size in zip(whole, [sizes] * 5 if isinstance(sizes, int) else sizes, strict=True):
        assert length_of(x, PROCESS.space) == size
    for batch in (1, 3):
        again = model.sample(5, sampler=Euler(4), batch=batch, **what)
        assert max(distance(a, b) for a, b in zip(whole, again, strict=True)) < 1e-5
    if asked.startswith("given"):
        for x in whole:
            assert all(torch.equal(x[k][at], known[k][at]) for k, at in (("tie", pairs), ("kind", keep)))
            assert not torch.equal(x["tie"][~pairs], known["tie"][~pairs])
            torch.testing.assert_close(x["far"][pairs], known["far"][pairs])
