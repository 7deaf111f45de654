"""The molecules' network against a pair-bias transformer of equal size in plain torch, in one run.

    python benchmarks/molecules_speed.py                       # three minutes of one thread, nothing beside it

`Plain` is what one writes first: positions are inputs, pairs are full matrices [B, N, N, C], attention has a bias by
pair, pairs learn from both atoms by a concatenation, 3.3 million parameters as the recipe's network has. Measured on
batches of 64 of QM9, sizes as the loader batches them, one thread: training steps a second (forward, losses, backward,
AdamW), and molecules a processor-second at 50 evaluations, `Plain` in a loop of Euler steps, gendiff by `model.sample`
with its churn and its solver. Alternating, medians of the ratios. Then the peak of memory of a process that samples 64
molecules, and of one that samples 1,024. GENDIFF_DATA names the data folder; results/molecules_speed.json.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportUnhashable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gendiff
from gendiff.domain import collate
from gendiff.random import Noise
from gendiff.spaces import to_square
from gendiff.training import Objective, denoising_loss
from gendiff_molecules import QM9, Molecules


class Plain(nn.Module):
    """A pair-bias transformer on full matrices of pairs."""

    def __init__(self, kinds: int, width: int = 160, pair: int = 64, depth: int = 9, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.atom, self.bond = nn.Embedding(kinds + 1, width), nn.Embedding(5, pair)
        self.place, self.far, self.time = nn.Linear(3, width), nn.Linear(24, pair), nn.Linear(64, width)
        layers = {
            "qkv": lambda: nn.Linear(width, 3 * width), "out": lambda: nn.Linear(width, width),
            "bias": lambda: nn.Linear(pair, heads), "up": lambda: nn.Linear(width, 4 * width),
            "down": lambda: nn.Linear(4 * width, width), "pair_up": lambda: nn.Linear(pair + 2 * width, 2 * pair),
            "pair_down": lambda: nn.Linear(2 * pair, pair), "norm": lambda: nn.LayerNorm(width),
            "norm_2": lambda: nn.LayerNorm(width), "pair_norm": lambda: nn.LayerNorm(pair),
        }  # fmt: skip
        self.layers = nn.ModuleList(nn.ModuleDict({k: make() for k, make in layers.items()}) for _ in range(depth))
        self.velocity, self.kinds, self.orders = nn.Linear(width, 3), nn.Linear(width, kinds), nn.Linear(pair, 4)

    def forward(self, pos: Tensor, atom: Tensor, bond: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        b, n = atom.shape
        length = (pos[:, :, None] - pos[:, None]).norm(dim=-1)
        bumps = torch.exp(-((length[..., None] - torch.linspace(0, 6, 24)) ** 2) * 8)
        angle = t[:, None] * torch.linspace(0, 3, 32).exp()
        h = self.atom(atom) + self.place(pos) + self.time(torch.cat([angle.sin(), angle.cos()], -1))[:, None]
        e = self.bond(bond) + self.far(bumps)
        hidden = torch.where(mask, 0.0, -1e4)[:, None, None]
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm"](h)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            bias = layer["bias"](e).permute(0, 3, 1, 2) + hidden
            seen = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype)).transpose(1, 2).reshape(b, n, -1)
            h = h + layer["out"](seen)
            h = h + layer["down"](F.silu(layer["up"](layer["norm_2"](h))))
            ends = h[:, :, None].expand(b, n, n, -1), h[:, None].expand(b, n, n, -1)
            both = torch.cat([layer["pair_norm"](e), *ends], -1)
            e = e + layer["pair_down"](F.silu(layer["pair_up"](both)))
        return self.velocity(h), self.kinds(h), self.orders(e + e.transpose(1, 2))


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


def plain_step(network: nn.Module, optimizer: Any, x: dict[str, Tensor], mask: Tensor, dtype: torch.dtype) -> None:
    """A training step as one writes it by hand."""
    b, n = x["atom"].shape
    t = torch.rand(b)
    noise = torch.randn(b, n, 3)
    square = to_square(x["bond"], n)
    pos = (1 - t[:, None, None]) * x["pos"] + t[:, None, None] * noise
    atom = torch.where(torch.rand(b, n) < t[:, None], network.atom.num_embeddings - 1, x["atom"])
    hide = torch.rand(b, n, n).triu() < t[:, None, None]
    bond = torch.where(hide | hide.transpose(1, 2), 4, square)
    with autocast(dtype):
        velocity, kinds, orders = network(pos, atom, bond, t, mask)
    real = mask[:, :, None] & mask[:, None]
    loss = (velocity.float() - (noise - x["pos"]))[mask].square().mean()
    loss = loss + F.cross_entropy(kinds.float()[mask], x["atom"][mask])
    loss = loss + F.cross_entropy(orders.float()[real], square[real])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def plain_sample(network: nn.Module, sizes: list[int], dtype: torch.dtype, steps: int = 50) -> None:
    """Euler's steps, classes shown one after the other."""
    b, n = len(sizes), max(sizes)
    mask = torch.arange(n) < torch.tensor(sizes)[:, None]
    last = network.atom.num_embeddings - 1
    pos, atom, bond = torch.randn(b, n, 3), torch.full((b, n), last), torch.full((b, n, n), 4)
    for k in range(steps):
        t = torch.full((b,), 1 - k / steps)
        with autocast(dtype):
            velocity, kinds, orders = network(pos, atom, bond, t, mask)
        pos = pos - velocity.float() / steps
        drawn = torch.distributions.Categorical(logits=kinds.float()).sample()
        atom = torch.where((atom == last) & (torch.rand(b, n) < 1 / (steps - k)), drawn, atom)
        drawn = torch.distributions.Categorical(logits=orders.float()).sample().triu(1)
        show = (torch.rand(b, n, n) < 1 / (steps - k)).triu(1)
        bond = torch.where((bond == 4) & (show | show.transpose(1, 2)), drawn + drawn.transpose(1, 2), bond)


def alternating(
    one: Callable[[int], None], other: Callable[[int], None], rounds: int
) -> tuple[list[float], list[float]]:
    """Processor seconds of both, one after the other."""
    spent: tuple[list[float], list[float]] = ([], [])
    for k in range(-1, rounds):
        for call, own in zip((one, other), spent, strict=True):
            since = time.process_time()
            call(k)
            if k >= 0:
                own.append(time.process_time() - since)
    return spent


def memory(n: int) -> float:
    """Peak memory of a process that samples n, MB."""
    command = [sys.executable, __file__, "--sampling", str(n)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def fitted() -> Molecules:
    domain = Molecules(source=QM9(), templates=True)
    return domain.fit(domain.dataset("train").artifacts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--sampling", type=int, default=0, help="sample so many and say the peak of memory")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    domain = fitted()
    model = gendiff.Model.new(domain)
    if args.sampling:
        model.sample(args.sampling, seed=0, steps=5)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    examples = domain.dataset("train")
    pick = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))[: 64 * (args.rounds + 1)].tolist()
    pick.sort(key=lambda k: len(examples[k].artifact))
    batches = []
    for k in range(0, len(pick), 64):
        x, mask = collate(
            [domain.encode(examples[i].artifact) for i in pick[k : k + 64]], True, None, domain.process.space
        )
        batches.append((x, mask))
    plain = Plain(len(domain.kinds), depth=9)
    ours = model.denoiser.network
    result: dict[str, Any] = {"parameters": {"gendiff": count(ours), "plain": count(plain)}}
    both = [torch.optim.AdamW(network.parameters(), lr=1e-4) for network in (ours, plain)]
    objective = Objective(parts={"atom": 0.3, "bond": 2.0}, previous=0.0)
    sizes = domain.preview(64)["atoms"]

    for dtype in (torch.float32, torch.bfloat16):

        def learn(k: int, dtype: torch.dtype = dtype) -> None:
            x, mask = batches[k]
            t = torch.rand(64, dtype=torch.float64)
            with autocast(dtype):
                told = denoising_loss(
                    model.denoiser, x, t, Noise.of(k + 1, 64), objective=objective, auxiliary=domain.losses, mask=mask
                )
            told["loss"].mean().backward()
            both[0].step()
            both[0].zero_grad()

        def learn_plain(k: int, dtype: torch.dtype = dtype) -> None:
            plain_step(plain, both[1], *batches[k], dtype)

        mine, theirs = alternating(learn, learn_plain, args.rounds)
        name = str(dtype).removeprefix("torch.")
        result[f"training steps a second, {name}"] = row([1 / s for s in mine], [1 / s for s in theirs])
        print(json.dumps(result), flush=True)

    def draw(k: int) -> None:
        model.sample(64, atoms=sizes, seed=k + 1)

    mine, theirs = alternating(draw, lambda k: plain_sample(plain, sizes, torch.float32), 3)
    result["molecules a processor-second, 50 evaluations"] = row([64 / s for s in mine], [64 / s for s in theirs])
    result["peak MB by molecules asked"] = {str(n): round(memory(n), 1) for n in (64, 1024)}
    print(json.dumps(result, indent=2))
    (args.results / "molecules_speed.json").write_text(json.dumps(result, indent=2) + "\n")


def count(network: nn.Module) -> int:
    """Its parameters."""
    return sum(p.numel() for p in network.parameters())


def row(mine: list[float], theirs: list[float]) -> dict[str, float]:
    """Rates, and the median of their ratios."""
    ratio = median(a / b for a, b in zip(mine, theirs, strict=True))
    return {"gendiff": round(median(mine), 3), "plain": round(median(theirs), 3), "ratio": round(ratio, 3)}


if __name__ == "__main__":
    main()
