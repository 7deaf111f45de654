"""A Dask cluster of two worker processes of this machine: what it prepares and draws, beside one process.

    pip install "gendiff[train,images,cluster]"
    python benchmarks/cluster.py      20,000 pictures of 64 px prepared, 256 samples of the shipped fashion model drawn

Whether shards and samples are those of one process to the bit, also where a worker is killed (SIGKILL) in the middle,
and seconds of each. Every process has one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

import gendiff
from gendiff.model import Model
from gendiff_recipes.images import folder
from gendiff_recipes.prepared import prepare

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
FASHION = ROOT / "weights" / "images_fashion.safetensors"


def write_pictures(home: Path, count: int) -> None:
    """Pictures of 64 px in two classes: smooth fields of random colours, which PNG packs as it does photographs."""
    for i in range(count):
        path = home / ("ab"[i % 2]) / f"{i:05}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        few = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(few).resize((64, 64), Image.Resampling.BICUBIC).save(path, compress_level=1)


def timed(name: str, work: Callable[[], Any]) -> tuple[float, Any]:
    since = time.perf_counter()
    out = work()
    seconds = round(time.perf_counter() - since, 1)
    print(f"{name}: {seconds} s", flush=True)
    return seconds, out


def contents(store: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((store / "shards").iterdir())}


def killing(pids: list[int]) -> Callable[..., None]:
    """What kills a worker when a third of the work is done."""
    left = pids[:1]

    def tick(share: float, *_: object) -> None:
        if share > 1 / 3 and left:
            os.kill(left.pop(), signal.SIGKILL)

    return tick


def preparing(client: Any, home: Path, count: int) -> dict[str, Any]:
    recipe = folder(str(home / "pictures"), size=64)
    stores = [home / name for name in ("one", "two", "killed")]
    for store in stores:
        shutil.rmtree(store, ignore_errors=True)
    one, report = timed("prepared by one process", lambda: prepare(recipe, stores[0]))
    with client.get_executor() as pool:
        two, _ = timed("by two workers", lambda: prepare(recipe, stores[1], executor=pool))
        tick = killing(list(client.run(os.getpid).values()))
        killed, _ = timed("one killed", lambda: prepare(recipe, stores[2], executor=pool, progress=tick))
    found = [contents(store) for store in stores]
    return {
        "examples": count, "report": report.splitlines()[0].replace(str(stores[0].resolve()), "STORE"),
        "seconds": {"one process": one, "two workers": two, "a worker killed": killed},
        "the same bits": [found[0] == other for other in found[1:]],
    }  # fmt: skip


def drawing(client: Any, n: int, steps: int | None) -> dict[str, Any]:
    model: Model = gendiff.load(FASHION)
    what: dict[str, Any] = {"seed": 0, "batch": 16, "steps": steps}
    one, whole = timed("drawn by one process", lambda: model.sample(n, **what))
    with client.get_executor() as pool:
        two, drawn = timed("by two workers", lambda: gendiff.draw(FASHION, n, executor=pool, **what))
        tick = killing(list(client.run(os.getpid).values()))
        killed, again = timed("one killed", lambda: gendiff.draw(FASHION, n, executor=pool, progress=tick, **what))
    same = [all(torch.equal(a, b) for a, b in zip(whole, other, strict=True)) for other in (drawn, again)]
    seconds = {"one process": one, "two workers": two, "a worker killed": killed}
    return {"samples": n, "batch": 16, "steps": steps, "seconds": seconds, "the same bits": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/cluster"), help="where pictures and stores are written")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("-n", type=int, default=256, help="samples")
    parser.add_argument("--steps", type=int, help="of the sampler (the model's own)")
    parser.add_argument("--only", choices=("preparing", "drawing"))
    args = parser.parse_args()
    from distributed import Client, LocalCluster  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    write_pictures(args.data / "pictures", args.pictures)
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    path = RESULTS / "cluster.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    facts["machine"] = f"{os.cpu_count()} processors, shared with other work; one thread a process"
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "preparing": lambda: preparing(client, args.data, args.pictures),
            "drawing": lambda: drawing(client, args.n, args.steps),
        }
        for name in [args.only] if args.only else parts:
            told = {"date": date.today().isoformat(), "command": f"python {' '.join(sys.argv)}"}
            facts[name] = {**told, **parts[name]()}
            RESULTS.mkdir(exist_ok=True)
            path.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
