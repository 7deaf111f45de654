"""A Dask cluster of two worker processes of this machine: what it prepares and draws, beside one process.

    pip install "gendiff[train,images,cluster]"
    python benchmarks/cluster.py      20,000 pictures of 64 px prepared; 256 samples of the shipped fashion model drawn,
                                      and drawn and evaluated

Whether shards, samples and scores are those of one process to the bit, also where a worker is killed (SIGKILL) in the
middle, and seconds of each. Every process has one thread. A killed worker's nanny begins another, which on a busy
machine takes longer than the 15 s that Dask waits for it by default: here it waits five minutes.
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
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

import gendiff
from gendiff.evaluation.scores import Scores
from gendiff.model import Model
from gendiff_recipes.evaluation import evaluate
from gendiff_recipes.images import folder
from gendiff_recipes.prepared import prepare

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
WORKERS = 2
WAIT = 300
"""Seconds that a worker may take to begin."""
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


def preparing(client: Any, home: Path, count: int, killed_count: int) -> dict[str, Any]:
    recipe = folder(str(home / "pictures"), size=64)
    stores = [home / name for name in ("one", "two", "killed")]
    for store in stores:
        shutil.rmtree(store, ignore_errors=True)
    one, report = timed("prepared by one process", lambda: prepare(recipe, stores[0]))
    with client.get_executor() as pool:
        client.wait_for_workers(WORKERS, timeout=WAIT)
        two, _ = timed("by two workers", lambda: prepare(recipe, stores[1], executor=pool))
        whole, few = stores[0], recipe
        if killed_count < count:
            whole, few = home / "few", recipe.override(f"limit={killed_count}")
            shutil.rmtree(whole, ignore_errors=True)
            timed(f"{killed_count} by one process", lambda: prepare(few, whole))
        tick = killing(list(client.run(os.getpid).values()))
        killed, _ = timed("one killed", lambda: prepare(few, stores[2], executor=pool, progress=tick))
    same = [contents(stores[0]) == contents(stores[1]), contents(whole) == contents(stores[2])]
    return {
        "examples": count, "examples where a worker was killed": killed_count,
        "report": report.splitlines()[0].replace(str(stores[0].resolve()), "STORE"),
        "seconds": {"one process": one, "two workers": two, "a worker killed": killed},
        "the same bits": same,
    }  # fmt: skip


def drawing(client: Any, n: int, steps: int | None) -> dict[str, Any]:
    model: Model = gendiff.load(FASHION)
    what: dict[str, Any] = {"seed": 0, "batch": 16, "steps": steps}
    one, whole = timed("drawn by one process", lambda: model.sample(n, **what))
    with client.get_executor() as pool:
        client.wait_for_workers(WORKERS, timeout=WAIT)
        two, drawn = timed("by two workers", lambda: gendiff.draw(FASHION, n, executor=pool, **what))
        tick = killing(list(client.run(os.getpid).values()))
        killed, again = timed("one killed", lambda: gendiff.draw(FASHION, n, executor=pool, progress=tick, **what))
    same = [all(torch.equal(a, b) for a, b in zip(whole, other, strict=True)) for other in (drawn, again)]
    seconds = {"one process": one, "two workers": two, "a worker killed": killed}
    facts = {"samples": n, "batch": 16, "sampler": repr(model.sampler) if steps is None else f"{steps} steps"}
    return {**facts, "seconds": seconds, "the same bits": same}


def evaluating(client: Any, n: int, steps: int | None) -> dict[str, Any]:
    """What `gendiff evaluate weights/images_fashion.safetensors label=boot --halves 20` says, also with --cluster."""
    model: Model = gendiff.load(FASHION)
    if steps is not None:
        model.sampler = replace(model.sampler, steps=steps)  # type: ignore[call-arg]
    what: dict[str, Any] = {"label": "boot", "halves": 20}
    one, alone = timed("evaluated by one process", lambda: evaluate(model, n, **what))
    with client.get_executor() as pool:
        client.wait_for_workers(WORKERS, timeout=WAIT)
        two, shared = timed("by two workers", lambda: evaluate(model, n, executor=pool, **what))
        tick = killing(list(client.run(os.getpid).values()))
        killed, again = timed("one killed", lambda: evaluate(model, n, executor=pool, progress=tick, **what))
    texts = [table.json() for table in (untimed(e.scores) for e in (alone, shared, again))]
    seconds = {"one process": one, "two workers": two, "a worker killed": killed}
    return {
        "samples": n, "of": "boots", "sampler": repr(model.sampler), "seconds": seconds,
        "scores": alone.scores.values(),
        "the same numbers": [text == texts[0] for text in texts[1:]],
    }  # fmt: skip


def untimed(scores: Scores) -> Scores:
    """A table without the seconds that it took."""
    return replace(scores, facts={**scores.facts, "seconds": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/cluster"), help="where pictures and stores are written")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--killed", type=int, help="pictures prepared where a worker is killed (all)")
    parser.add_argument("-n", type=int, default=256, help="samples")
    parser.add_argument("--steps", type=int, help="of the sampler (the model's own)")
    parser.add_argument("--only", choices=("preparing", "drawing", "evaluating"))
    args = parser.parse_args()
    import dask.config  # type: ignore[import-not-found]
    from distributed import Client, LocalCluster  # type: ignore[import-not-found]

    dask.config.set({"distributed.deploy.lost-worker-timeout": f"{WAIT}s"})
    torch.set_num_threads(1)
    if args.only in (None, "preparing"):
        write_pictures(args.data / "pictures", args.pictures)
    options: dict[str, Any] = {
        "n_workers": WORKERS,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": None,
    }
    path = RESULTS / "cluster.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    facts["machine"] = f"{os.cpu_count()} processors, shared with other work; one thread a process"
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "preparing": lambda: preparing(client, args.data, args.pictures, args.killed or args.pictures),
            "drawing": lambda: drawing(client, args.n, args.steps),
            "evaluating": lambda: evaluating(client, args.n, args.steps),
        }
        for name in [args.only] if args.only else parts:
            told = {"date": date.today().isoformat(), "command": f"python {' '.join(sys.argv)}"}
            facts[name] = {**told, **parts[name]()}
            RESULTS.mkdir(exist_ok=True)
            path.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
