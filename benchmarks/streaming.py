"""Libraries that stream shards, for training from more than one disk holds.

    pip install litdata webdataset datasets
    python benchmarks/streaming.py        litdata, webdataset, Hugging Face datasets, and a prepared store

20,000 states of 3 x 64 x 64 numbers in shards of 16 MiB, each library in a process of its own. Asked of each: seconds
to its first batch of 64; resident memory that reading an epoch adds; whether an epoch can follow an order of all
examples that was drawn elsewhere, so that batches are functions of (seed, number) on any number of machines and after
any interruption; and milliseconds a batch in that order, or in its own where it cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
COUNT, BATCH = 20_000, 64


def state(i: int) -> np.ndarray:
    """The i-th example: numbers that tell which it is."""
    return np.random.default_rng(i).random((3, 64, 64), dtype=np.float32)


def resident() -> float:
    """MB of this process that are no shared file's: a mapped file's pages are the system's to take back."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no /proc/self/smaps_rollup")


def with_litdata(home: Path) -> tuple[Callable[[], Any], str]:
    import litdata  # type: ignore[import-not-found]

    if not home.exists():
        litdata.optimize(item, list(range(COUNT)), str(home), chunk_bytes="16MB", num_workers=1)
    return lambda: litdata.StreamingDataset(str(home)), "index"


def item(i: int) -> dict[str, Any]:
    return {"i": i, "x": torch.from_numpy(state(i))}


def with_datasets(home: Path) -> tuple[Callable[[], Any], str]:
    import datasets  # type: ignore[import-not-found]

    datasets.disable_progress_bars()
    if not home.exists():
        features = datasets.Features({"i": datasets.Value("int64"), "x": datasets.Array3D((3, 64, 64), "float32")})
        made = datasets.Dataset.from_generator(
            lambda: ({"i": i, "x": state(i)} for i in range(COUNT)), features=features, cache_dir=str(home) + ".cache"
        )
        made.save_to_disk(str(home), max_shard_size="16MB")
        shutil.rmtree(str(home) + ".cache", ignore_errors=True)
    return lambda: datasets.load_from_disk(str(home)).with_format("torch"), "index"


def with_webdataset(home: Path) -> tuple[Callable[[], Any], str]:
    import webdataset  # type: ignore[import-not-found]

    if not home.exists():
        home.mkdir(parents=True)
        with webdataset.ShardWriter(str(home / "%05d.tar"), maxsize=2**24, verbose=0) as out:
            for i in range(COUNT):
                out.write({"__key__": f"{i:06d}", "x.npy": state(i), "i.cls": i})
    shards = sorted(str(p) for p in home.glob("*.tar"))
    return lambda: webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).decode(), "stream"


def with_store(home: Path) -> tuple[Callable[[], Any], str]:
    from dataclasses import replace

    from gendiff.domain import Example, Examples
    from gendiff_images import Images
    from gendiff_images.sources import Look, PictureSource
    from gendiff_recipes import images
    from gendiff_recipes.prepared import Prepared, prepare

    @dataclass(frozen=True)
    class Noise(PictureSource):
        def look(self, root: Path | None = None) -> Look:
            return Look(64, 3, (), {})

        def describe(self) -> str:
            return "Noise."

        def load(self, split: str, root: Path | None = None) -> Examples:
            return Examples([Example(torch.from_numpy(state(i)), {}, str(i)) for i in range(COUNT)])

    if not home.exists():
        prepare(replace(images.digits(), domain=Images.of(Noise()), name="images.noise"), home)
    return lambda: Prepared(home), "index"


WAYS = {"litdata": with_litdata, "datasets": with_datasets, "webdataset": with_webdataset, "store": with_store}


def batches(data: Any, kind: str, order: np.ndarray) -> Iterator[list[Any]]:
    """An epoch in batches of 64."""
    if kind == "index":
        for begin in range(0, COUNT - BATCH + 1, BATCH):
            yield [data[int(i)] for i in order[begin : begin + BATCH]]
        return
    held: list[Any] = []
    for one in data:
        held.append(one)
        if len(held) == BATCH:
            yield held
            held = []


def measure(name: str, home: Path) -> dict[str, Any]:
    since = time.perf_counter()
    opened, kind = WAYS[name](home / name)
    made = time.perf_counter() - since
    order = np.random.default_rng(0).permutation(COUNT)
    before, since = resident(), time.perf_counter()
    data, first, most, took = opened(), 0.0, 0.0, []
    for number, _ in enumerate(batches(data, kind, order)):
        took.append(time.perf_counter() - since)
        first = first or took[0]
        if number % 25 == 0:
            most = max(most, resident() - before)
        since = time.perf_counter()
    return {
        "seconds to write": round(made, 1), "seconds to the first batch": round(first, 3),
        "MB that an epoch adds": round(most), "an order from elsewhere": kind == "index",
        "ms a batch": round(1e3 * float(np.median(took)), 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/streaming"), help="where the shards are written")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), help="of them")
    parser.add_argument("--only", choices=WAYS)
    args = parser.parse_args()
    if args.only:
        torch.set_num_threads(1)
        print(json.dumps(measure(args.only, args.data)))
        return
    found: dict[str, Any] = {}
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in args.ways:
        for _ in range(2):  # the second reads what the first has written
            call = [sys.executable, __file__, "--only", name, "--data", str(args.data)]
            done = subprocess.run(call, check=False, capture_output=True, text=True, env=alone)
            if done.returncode:
                print(name, done.stderr[-2000:])
                break
            row = json.loads(done.stdout.strip().splitlines()[-1])
            row["seconds to write"] = found.get(name, row)["seconds to write"]
            found[name] = row
        print(name, found.get(name), flush=True)
    facts = {"date": date.today().isoformat(), "command": f"python {' '.join(sys.argv)}", "result": found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "streaming.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
