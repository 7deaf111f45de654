"""What a backbone costs: seconds and memory of a design, beside the same network with point attention written plainly.

    python benchmarks/ipa.py MODEL [--length 80] [--batch 16] [--steps K]

The plain attention is the equation, over all pairs of points at once (Jumper et al. 2021, algorithm 22),

    logit_ij = q_i . k_j / sqrt(c) + bias_ij - w/2 sum_a |T_i q_ia - T_j k_ja|^2,

with a tensor [B, H, N, N, points, 3] of differences, as OpenFold's and most others' are; it takes the weights of the
fused one, and its output is compared first. Seconds are of processor time of one thread, the least of the tries, arms
by turns; memory is what a process of its own holds when the model is loaded, and the most that it held when it had
drawn a chain of 256 residues. Results go to benchmarks/results/ipa.json.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gendiff
from gendiff_proteins.networks import PointAttention


class PlainAttention(PointAttention):
    """The same function by its definition."""

    def forward(self, h: Tensor, pos: Tensor, rot: Tensor, bias: Tensor) -> Tensor:
        b, n, _ = h.shape
        q, k, v = self.scalars(h).view(b, n, self.heads, -1).float().split(self.channels, dim=-1)
        local = self.place(h).view(b, n, -1, 3).float()
        spots = (local @ rot.mT + pos[:, :, None]).view(b, n, self.heads, -1, 3)
        tq, tk, tv = spots.split([self.points, self.points, self.values], dim=3)
        w = self.sharpness.exp()[None, :, None, None] / self.points
        apart = (tq.transpose(1, 2)[:, :, :, None] - tk.transpose(1, 2)[:, :, None]).square().sum((-2, -1))
        scalar = torch.einsum("bihc,bjhc->bhij", q, k) / math.sqrt(self.channels)
        weight = (scalar + bias.float() - 0.5 * w * apart).softmax(-1)
        said = torch.einsum("bhij,bjhc->bihc", weight, v)
        points = torch.einsum("bhij,bjhpx->bihpx", weight, tv).flatten(2, 3)
        points = (points - pos[:, :, None]) @ rot
        length = (points.square().sum(-1) + 1e-8).sqrt()
        by_head = torch.cat([said, points.view(b, n, self.heads, -1)], -1)
        return self.out(torch.cat([said.flatten(2), by_head[..., self.channels :].flatten(2), length], -1))


def plainly(model: gendiff.Model) -> None:
    for module in model.denoiser.network.modules():
        if isinstance(module, PointAttention):
            module.__class__ = PlainAttention


def state(model: gendiff.Model, count: int, length: int) -> dict[str, Tensor]:
    request = model.domain.request(count, length=length)
    return model.denoiser.process.endpoint(request.like, gendiff.Noise.of(0, count))  # type: ignore[return-value]


def differs(path: str) -> float:
    """The largest difference of both networks' outputs, at t = 0.5, relative to their size."""
    one, other = gendiff.load(path), gendiff.load(path)
    plainly(other)
    x, t = state(one, 2, 40), torch.full((2,), 0.5)
    with torch.no_grad():
        a, b = (getattr(out, "output", out)["pos"] for out in (m.denoiser.network(x, t) for m in (one, other)))
    return float((a - b).abs().max() / a.abs().max())


def memory(path: str, plain: bool, length: int) -> dict[str, float]:
    """MB with the model loaded, and the most while one chain is drawn, of a process of its own."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, gendiff, ipa
torch.set_num_threads(1)
model = gendiff.load({path!r})
if {plain}: ipa.plainly(model)
model.sample(1, length=40, steps=2)
def told(key):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(key))
loaded = told("VmRSS")
model.sample(1, length={length}, steps=2)
print(loaded, told("VmHWM"))  # of this program alone: ru_maxrss has its parent's too
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return dict(zip(("loaded", "most"), map(float, out.stdout.split()), strict=True))


def timed(run: Any) -> float:
    since = time.process_time()
    run()
    return time.process_time() - since


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--length", type=int, default=80)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ipa.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    told = {} if args.steps is None else {"steps": args.steps}
    ours, plain = gendiff.load(args.model), gendiff.load(args.model)
    plainly(plain)
    arms = {"fused": ours, "plain": plain}
    least = dict.fromkeys(arms, math.inf)
    for _ in range(args.tries):
        for name, model in arms.items():
            seconds = timed(lambda m=model: m.sample(args.batch, length=args.length, batch=args.batch, **told))
            least[name] = min(least[name], seconds / args.batch)
    evaluation = dict.fromkeys(arms, math.inf)
    x, t = state(ours, args.batch, args.length), torch.full((args.batch,), 0.5)
    for _ in range(3 * args.tries):
        for name, model in arms.items():
            with torch.inference_mode():
                took = timed(lambda m=model: m.denoiser.network(x, t))
            evaluation[name] = min(evaluation[name], 1000 * took / args.batch)
    found = {
        "length": args.length, "batch": args.batch, "sampler": repr(ours.sampler), "steps": args.steps,
        "largest difference": differs(args.model),
        "seconds a design": least, "milliseconds a sample an evaluation": evaluation,
        "MB, 256 residues": {name: memory(args.model, name == "plain", 256) for name in arms},
    }  # fmt: skip
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    kept[Path(args.model).stem] = found
    args.out.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(found, indent=1), f"\nresident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
