"""What conditions cost a model that has none, and what a large folder costs.

    python benchmarks/costs.py step      a training step and ten evaluations of a U-Net and a DiT without conditions
    python benchmarks/costs.py folder    20,000 PNG files of 64 pixels: seconds to the third step, and memory

To compare two states of the code, run `step` in a checkout of each, by turns; it prints the least of some tries, since
other programs only add. `folder` writes its pictures once, below --data, and trains in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendiff import Denoiser, DPMpp2M, Gaussian, Linear, Velocity, sample
from gendiff.nn import DiT, UNet
from gendiff.random import Noise
from gendiff.training import denoising_loss


def least(run: Callable[[int], object], tries: int) -> float:
    """The least milliseconds of some tries."""
    found = []
    for i in range(tries):
        since = time.perf_counter()
        run(i)
        found.append(time.perf_counter() - since)
    return 1e3 * min(found)


def step() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    size: dict[str, Any] = {"in_channels": 1, "out_channels": 1}
    networks = {
        "U-Net": UNet(2, channels=(32, 64), blocks=1, attention=(False, True), patch=2, **size),
        "DiT": DiT(2, patch=4, width=128, depth=4, heads=4, **size),
    }
    for name, network in networks.items():
        denoiser, x = Denoiser(network, Velocity(), Gaussian(Linear())), torch.randn(16, 1, 28, 28)
        t, noise = 0.05 + 0.9 * torch.rand(16, dtype=torch.float64), Noise.of(0, 16)

        def train(i: int, denoiser: Denoiser = denoiser, x: torch.Tensor = x, t: torch.Tensor = t) -> None:
            denoising_loss(denoiser, x, t, Noise.of(0, 16).at(i))["loss"].mean().backward()

        @torch.no_grad()
        def draw(_: int, denoiser: Denoiser = denoiser, x: torch.Tensor = x, noise: Noise = noise) -> None:
            sample(denoiser, x, solver=DPMpp2M(10), noise=noise)

        print(f"{name}: a step {least(train, 25):.2f} ms, ten evaluations {least(draw, 6):.2f} ms")


def folder(home: Path, count: int = 20_000) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        path = home / f"c{i % 10}" / f"{i}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            small.resize((64, 64)).save(path, compress_level=1)
    with tempfile.TemporaryDirectory() as out:
        call = ["train", "images.folder", str(home), "--size", "64", "trainer.steps=3", "trainer.show=0", "--quiet"]
        since = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gendiff", *call, "--out", f"{out}/run"], check=True)
        seconds = time.perf_counter() - since
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{count} pictures: {seconds:.1f} s to the end of the third step, {memory:.2f} GiB resident")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "folder"))
    parser.add_argument("--data", type=Path, default=Path("data/many"), help="where the pictures of `folder` are")
    args = parser.parse_args()
    step() if args.what == "step" else folder(args.data)


if __name__ == "__main__":
    main()
