"""Memory and time of a training step with activations kept, and made again (`trainer.checkpoint_activations`).

    python benchmarks/recomputing.py

A DiT on pictures; each arm in processes of its own, by turns: the peak of resident memory above that before the step,
and processor time of a step (medians).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from gendiff import Model, Noise, denoising_loss
from gendiff.nn import recomputed
from gendiff.testing import randomised
from gendiff_images import Images

RESULTS = Path(__file__).parent / "results"
SIZE: dict[str, Any] = {"width": 192, "depth": 12, "heads": 6}


def peak() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(again: bool, batch: int) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model.new(Images(size=32, channels=3), **SIZE)
    network = randomised(model.denoiser.network)
    x0, t = torch.randn(batch, 3, 32, 32), torch.linspace(0.1, 0.9, batch)

    def step(x0: torch.Tensor, t: torch.Tensor) -> float:
        loss = denoising_loss(model.denoiser, x0, t, Noise.of(0, len(x0)))["loss"].mean()
        loss.backward()
        return float(loss)

    with recomputed(network) if again else nullcontext():
        step(x0[:1], t[:1])  # gradients are allocated
        before, since = peak(), time.process_time()
        loss = step(x0, t)
        return {"MB": peak() - before, "seconds": time.process_time() - since, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=("kept", "again"))
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only == "again", args.batch)))
        return
    found: dict[str, list[dict[str, float]]] = {"kept": [], "again": []}
    for _ in range(args.turns):
        for name, rows in found.items():
            call = [sys.executable, __file__, "--only", name, "--batch", str(args.batch)]
            done = subprocess.run(call, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(name, rows[-1], flush=True)
    assert len({row["loss"] for rows in found.values() for row in rows}) == 1
    result = {
        name: {key: round(statistics.median(row[key] for row in rows), 2) for key in ("MB", "seconds")}
        for name, rows in found.items()
    }
    facts = {
        "date": date.today().isoformat(), "command": f"python {' '.join(sys.argv)}", "network": f"DiT {SIZE}",
        "batch": args.batch, "machine": "one thread, shared with other work", "result": result,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "recomputing.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
