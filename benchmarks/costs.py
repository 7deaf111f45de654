"""What conditions cost a model that has none, and what large sets cost in memory and time.

    python benchmarks/costs.py step       a step and ten evaluations of a U-Net and a DiT without conditions
    python benchmarks/costs.py pictures   20,000 PNG files of 64 pixels, prepared and not: seconds, memory
    python benchmarks/costs.py sounds     three WAV files of 20 minutes, beside three of a second; a second of an hour

To compare two states of the code, run `step` in a checkout of each, by turns; it prints the least of some tries, since
other programs only add. The others write their files once, below --data, train in processes of their own, and write
what they find into --out. `resident` is the most of a process, with all that it imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import wave
import zlib
from collections.abc import Callable, Iterator
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


def child(*words: str) -> dict[str, float]:
    """Seconds and most resident MB of a gendiff command in a process of its own."""
    since = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "gendiff", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"gendiff {' '.join(words)} ended with {process.returncode}")
    return {"seconds": round(time.perf_counter() - since, 1), "resident_mb": round(used.ru_maxrss / 1e3)}


def pictures(home: Path, count: int = 20_000) -> Iterator[tuple[str, Any]]:
    """Training steps on many small pictures, and on one."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        path = home / "many" / f"c{i % 10}" / f"{i}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            small.resize((64, 64)).save(path, compress_level=1)
    own = ["images.folder", str(home / "many"), "--size", "64", "domain.source.test_share=0.01"]
    steps = ["trainer.show=0", "--quiet"]
    with tempfile.TemporaryDirectory(dir=home) as out:
        store, three = ["--prepared", f"{out}/store"], ["trainer.steps=3", *steps]
        long = ["trainer.batch=256", "network.channels=8,8", "trainer.steps=20", *steps]
        yield "digits, three steps", child("train", "images.digits", *three, "--out", f"{out}/a")
        yield "prepare", child("prepare", *own, "--quiet", "--out", f"{out}/store")
        yield "store, MB", round(sum(p.stat().st_size for p in Path(out, "store").rglob("*")) / 1e6)
        yield "prepared, three steps", child("train", *own, *three, *store, "--out", f"{out}/b")
        yield "not prepared, three steps", child("train", *own, *three, "--out", f"{out}/c")
        yield "prepared, 20 batches of 256", child("train", *own, *long, *store, "--out", f"{out}/d")
        yield "not prepared, 20 batches of 256", child("train", *own, *long, "--out", f"{out}/e")


def noise(path: Path, seconds: int, rate: int, channels: int) -> None:
    """A WAV file of 16 bits."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    part = path.with_suffix(".part")  # a file that was cut in the middle would be taken for whole
    with wave.open(str(part), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        for _ in range(seconds):
            file.writeframes((3000 * rng.standard_normal((rate, channels))).astype("<i2").tobytes())
    part.replace(path)


def sounds(home: Path) -> Iterator[tuple[str, Any]]:
    """Training steps on three recordings of 20 minutes, beside three of a second; a second out of an hour."""
    from gendiff_audio import read

    for i in range(3):
        noise(home / "long" / f"{i}.wav", 1200, 44_100, 2)
        noise(home / "short" / f"{i}.wav", 1, 44_100, 2)
    noise(home / "hour.wav", 3600, 48_000, 2)
    yield "hour, MB", round((home / "hour.wav").stat().st_size / 1e6)
    read(home / "short" / "0.wav")  # with its imports
    rng = np.random.default_rng(0)
    places = iter(rng.uniform(0, 3598, 21).tolist())
    spent = sorted(1e3 * timed(lambda: read(home / "hour.wav", start=next(places), seconds=1)) for _ in range(21))
    yield "a second of the hour, ms", {"median": round(spent[10], 1), "most": round(spent[-1], 1)}
    steps = ["trainer.steps=3", "trainer.batch=4", "trainer.show=0", "--quiet"]
    with tempfile.TemporaryDirectory(dir=home) as out:
        for name in ("short", "long"):
            own = ["audio.folder", str(home / name), "domain.source.window=1"]  # as long as the short ones
            yield f"{name}, three steps", child("train", *own, *steps, "--out", f"{out}/{name}")
            yield f"{name}, prepare", child("prepare", *own, "--quiet", "--out", f"{out}/{name}.store")
            store = ["--prepared", f"{out}/{name}.store", "--out", f"{out}/{name}.b"]
            yield f"{name}, prepared, three steps", child("train", *own, *steps, *store)


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call."""
    since = time.perf_counter()
    run()
    return time.perf_counter() - since


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "pictures", "sounds"))
    parser.add_argument("--data", type=Path, default=Path("data/costs"), help="where the files are written")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/costs.json"), help="what was found")
    args = parser.parse_args()
    if args.what == "step":
        step()
        return
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    found: dict[str, Any] = {}
    for name, value in {"pictures": pictures, "sounds": sounds}[args.what](args.data):
        print(f"{name}: {value}", flush=True)
        found[name] = value
        args.out.write_text(json.dumps({**before, args.what: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
