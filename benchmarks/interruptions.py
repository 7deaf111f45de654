"""What an interrupted run loses: nothing, to the bit.

A run of 60 steps on a tiny domain of a stranger's (pairs of numbers, or sequences of 2 to 9 of them) is interrupted and
resumed until it is over, and its weights are compared with those of a run that nobody interrupted, bit for bit; so are
the rows of metrics.csv. The recipe has all that carries state from step to step: labels that are dropped, dropout,
learned times, an average, a learning rate that warms up and falls, samples drawn on the way.

    python -m benchmarks.interruptions --kills 100 --out benchmarks/results/interruptions.json

`chains` cuts one run in each of its steps by an exception (before the step, after it, after its average, in the write
of a checkpoint); `cuts` cuts a run of its own in each; `kills` ends runs by SIGKILL inside the write of a checkpoint,
again and again, at random moments; `devices` kills one of two processes that train together (gloo). Processes are
forked from this one, so that each costs no import.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import Domain, Example, Examples, Gaussian, Label, Linear, Request
from gendiff.nn import Jumps, LabelEmbedding
from gendiff.training import ImportanceTimes
from gendiff_recipes import checkpoints
from gendiff_recipes.callbacks import Clock, EMAWeights, Report
from gendiff_recipes.module import Denoising
from gendiff_recipes.recipe import Optimizer, Recipe, Trainer
from gendiff_recipes.training import train

STEPS = 60


class Net(nn.Module):
    """A multilayer perceptron on sites [B, N, 2], with dropout and a label; it may be told a jump and a scale."""

    def __init__(self, width: int = 16, dropout: float = 0.2, jumps: bool = False, guided: bool = False) -> None:
        super().__init__()
        self.takes_to, self.takes_guidance = jumps, guided
        self.label = LabelEmbedding(2, width)
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)
        self.jumps = Jumps(width, jumps, guided) if jumps or guided else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        kind: Tensor | None = None,
        mask: Tensor | None = None,
        to: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        time = t.reshape(-1, 1, 1).expand(*x.shape[:-1], 1)
        told = self.label(kind)["vector"]
        told = told if self.jumps is None else self.jumps(told.expand(len(x), -1), t, to, guidance)
        h = self.first(torch.cat([x, time], -1)) + told[:, None]
        return self.last(self.dropout(h.tanh()))


@dataclass(frozen=True)
class Pairs(Domain):
    """Two numbers [1, 2] around one of two centres."""

    name: ClassVar[str] = "pairs"
    count: int = 50
    shift: float = 0.0

    @property
    def conditions(self) -> dict[str, Label]:
        return {"kind": Label(("left", "right"))}

    @property
    def process(self) -> Gaussian:
        return Gaussian(Linear())

    def encode(self, artifact: Tensor) -> Tensor:
        return artifact

    def decode(self, x: Tensor) -> Tensor:
        return x

    def request(self, n: int, **what: Any) -> Request:
        return Request(torch.empty(n, 1, 2), self.encode_conditions(n, **what))

    def network(self, **size: Any) -> nn.Module:
        return Net(**size)

    def lengths(self, rng: np.random.Generator) -> np.ndarray:
        return np.ones(self.count, dtype=int)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        rng = np.random.default_rng(["train", "test"].index(split))
        lengths, kinds = self.lengths(rng), rng.integers(2, size=self.count)
        return Examples(
            [
                Example(torch.from_numpy(rng.normal(2 * k - 1 + self.shift, 0.3, (n, 2))).float(), {"kind": int(k)})
                for n, k in zip(lengths, kinds, strict=True)
            ]
        )

    def metrics(self) -> dict[str, Any]:
        return {"mean": lambda samples, reference: float(torch.stack([s.mean() for s in samples]).mean())}


@dataclass(frozen=True)
class Chains(Pairs):
    """Sequences [2 to 9, 2] around one of two centres: ragged."""

    name: ClassVar[str] = "chains"
    ragged: ClassVar[bool] = True

    def request(self, n: int, **what: Any) -> Request:
        return Request(torch.empty(n, 5, 2), {**self.encode_conditions(n, **what), "mask": torch.ones(n, 5).bool()})

    def lengths(self, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(2, 10, size=self.count)


def install(folder: Path) -> None:
    """Makes the two domains findable by name, as an installed package of a stranger's would be."""
    info = folder / "interrupted-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: interrupted\nVersion: 1.0\n")
    points = "\n".join(f"{kind.name} = {kind.__module__}:{kind.__name__}" for kind in (Pairs, Chains))
    (info / "entry_points.txt").write_text(f"[gendiff.domains]\n{points}\n")
    sys.path.insert(0, str(folder))


def recipe(domain: Domain, **trainer: Any) -> Recipe:
    """60 steps of batches of 8; a checkpoint every fourth; an epoch is 6 steps."""
    options = Trainer(
        **{
            "steps": STEPS,
            "batch": 8,
            "accelerator": "cpu",
            "precision": "float32",
            "logger": ("csv",),
            "threads": 1,
            "checkpoint": 4,
            "show": 20,
            "samples": 2,
            "measure": 25,
            "measured": 4,
            **trainer,
        }
    )
    return Recipe(
        f"{domain.name}.tiny",
        domain,
        times=ImportanceTimes(-8.0, 8.0, bins=5, every=7),
        drop=0.3,
        ema=0.9,
        optimizer=Optimizer(lr=1e-2, warmup=5),
        trainer=options,
    )


def bits(folder: Path) -> bytes:
    """The tensors of a model file, without its config."""
    data = (folder / "model.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without what a clock has measured."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if "per_s" not in k} for row in rows]


class Cut(RuntimeError):
    """A power cut."""


PLACES = {
    "before": (Denoising, "training_step"),
    "stepped": (Clock, "after"),
    "averaged": (EMAWeights, "after"),
    "reported": (Report, "after"),
}


@contextmanager
def cut_at(step: int, place: str, nth: int | None = None) -> Iterator[None]:
    """A power cut in a step (from 1): before its forward pass, or just before what follows it at a place.

    Or, at the place "writing", when a tensor is about to be digested or written, counted over all checkpoints.
    """
    if place == "writing":
        whole = checkpoints.raw
        written = []

        def raw(tensor: Tensor) -> Any:
            written.append(tensor)
            if len(written) == (nth or 14 * step):  # of about 900 in a run
                raise Cut
            return whole(tensor)

        with patch.object(checkpoints, "raw", raw):
            yield
        return
    owner, name = PLACES[place]
    method = getattr(owner, name)

    def cut(self: Any, *args: Any) -> Any:
        module = self if isinstance(self, Denoising) else args[1]
        reached = module.step + (place in ("before", "stepped"))
        if reached == step:
            raise Cut
        return method(self, *args)

    with patch.object(owner, name, cut):
        yield


def resumed(run: Recipe, folder: Path) -> None:
    """Resumes a run to its end, or begins it where it was cut before there was anything."""
    train(run, folder, quiet=True, resume=(folder / "recipe.json").exists())


def cuts(run: Recipe, folder: Path, steps: Iterable[int], places: Iterable[str] = ()) -> dict[str, Any]:
    """Cuts a run in each of the steps, at each of the places or (without) at the next in turn; tells what differs."""
    train(run, folder / "whole", quiet=True)
    want, rows = bits(folder / "whole"), metrics(folder / "whole")
    tried, wrong, torn = 0, [], []
    for step in steps:
        for place in places or [[*PLACES, "writing"][step % (len(PLACES) + 1)]]:
            out = folder / "cut"
            try:
                with cut_at(step, place):
                    train(run, out, quiet=True)
            except Cut:
                tried += 1
            resumed(run, out)
            if bits(out) != want:
                wrong.append([step, place])
            if metrics(out) != rows:
                torn.append([step, place])
            shutil.rmtree(out)
    return {"cuts": tried, "other_weights": wrong, "other_metrics": torn}


def chain(run: Recipe, folder: Path, offset: int) -> dict[str, Any]:
    """Cuts one run in every one of its steps, one after the other, and lets it end."""
    whole, out = folder / "whole", folder / "cut"
    if not whole.exists():
        train(run, whole, quiet=True)
    tried, places = 0, [*PLACES, "writing"]
    for step in range(1, STEPS + 1):
        try:
            with cut_at(step, places[(step + offset) % len(places)], 1 + 7 * step % 50):
                resumed(run, out)
        except Cut:
            tried += 1
    resumed(run, out)
    found = {"cuts": tried, "other_weights": bits(out) != bits(whole), "other_metrics": metrics(out) != metrics(whole)}
    shutil.rmtree(out)
    return found


def forked(work: Callable[[], Any]) -> int:
    """Runs `work` in a forked process; returns its id. It ends with status 0, or 1 after an exception."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  a child must never return into its parent's stack
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int) -> int:
    """The exit code of a forked process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kills(run: Recipe, folder: Path, n: int, seed: int = 0) -> dict[str, Any]:
    """Kills runs inside the write of a checkpoint, at random moments, resumes and kills them again, n times in all."""
    rng = random.Random(seed)
    assert wait(forked(lambda: train(run, folder / "whole", quiet=True))) == 0, "the uninterrupted run failed"
    want, rows = bits(folder / "whole"), metrics(folder / "whole")
    found = dict.fromkeys(["kills", "runs", "parts_left", "unusable", "failed", "other_weights", "other_metrics"], 0)
    while found["kills"] < n:
        out, ended = folder / "killed", False
        while not ended:
            reader, writer = os.pipe()

            def child(out: Path = out, writer: int = writer) -> None:
                whole = checkpoints.raw

                def slow(tensor: Tensor) -> Any:
                    os.write(writer, b".")
                    time.sleep(0.0003)
                    return whole(tensor)

                with patch.object(checkpoints, "raw", slow):
                    resumed(run, out)

            pid = forked(child)
            os.close(writer)
            # A checkpoint is about 60 tensors, digested and then written: within the first three, or not at all.
            moment, seen = rng.randrange(1, 180) if found["kills"] < n else 1 << 30, 0
            while seen < moment and os.read(reader, 1):
                seen += 1
            if seen == moment:
                time.sleep(rng.random() * 0.001)
                os.kill(pid, signal.SIGKILL)
            os.close(reader)
            code = wait(pid)
            ended = code == 0
            if code == -signal.SIGKILL:
                found["kills"] += 1
                found["parts_left"] += bool(list(out.glob("checkpoints/*.part")))
                states = list(checkpoints.newest(out / "checkpoints"))
                found["unusable"] += any(not isinstance(state, dict) for _, state in states)
            elif code:
                found["failed"] += 1
                break
        if ended:
            found["runs"] += 1
            found["other_weights"] += bits(out) != want
            found["other_metrics"] += metrics(out) != rows
        shutil.rmtree(out, ignore_errors=True)
    return found


def together(work: Callable[[], Any]) -> list[int]:
    """Runs `work` in two processes that train together, as torchrun starts them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    shared |= {"GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "here"}

    def child(rank: int) -> None:
        os.environ.update({k: str(v) for k, v in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()})
        work()

    return [wait(pid) for pid in [forked(partial(child, rank)) for rank in range(2)]]


def devices(run: Recipe, folder: Path, steps: Iterable[int]) -> dict[str, Any]:
    """Two processes that train together (gloo); one is killed in a step, and the run is resumed by two."""
    run = replace(run, trainer=replace(run.trainer, devices=2))
    assert together(lambda: train(run, folder / "whole", quiet=True)) == [0, 0]
    want, rows = bits(folder / "whole"), metrics(folder / "whole")
    found: dict[str, Any] = {"kills": 0, "failed": 0, "other_weights": 0, "other_metrics": 0}
    method = Denoising.training_step
    for step in steps:
        out = folder / "killed"

        def die(self: Denoising, *args: Any, step: int = step) -> Any:
            if self.step + 1 == step and self.trainer.global_rank == step % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(self, *args)

        with patch.object(Denoising, "training_step", die):
            found["kills"] += all(together(lambda out=out: train(run, out, quiet=True)))
        if together(lambda out=out: resumed(run, out)) != [0, 0]:
            found["failed"] += 1
        else:
            found["other_weights"] += bits(out) != want
            found["other_metrics"] += metrics(out) != rows
        shutil.rmtree(out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["chains", "cuts", "kills", "devices"])
    parser.add_argument("--domains", nargs="+", default=["pairs", "chains"], help="pairs (flat), chains (ragged)")
    parser.add_argument(
        "--kills",
        type=int,
        default=100,
        help="inside a write, half of ragged data; as many with workers (100)",
    )
    parser.add_argument("--every", type=int, default=1, help="cut in every so many-th step (1)")
    parser.add_argument("--out", type=Path, help="a JSON file; what it holds of others stays")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"steps": STEPS, "torch": torch.__version__}
    if args.out and args.out.exists():
        found = {**json.loads(args.out.read_text(encoding="utf8")), **found}

    def note(key: str, what: Callable[[], dict[str, Any]]) -> None:
        since = time.perf_counter()
        found[key] = what()
        print(key, found[key], f"{time.perf_counter() - since:.0f} s", flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf8")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(folder / "site")
        for domain in [kind() for kind in (Pairs, Chains) if kind.name in args.domains]:
            for workers in (0, 2):
                run, key = recipe(domain, workers=workers), f"{domain.name}, {workers} workers"
                steps, n = range(1, STEPS + 1, args.every), args.kills // 2
                if "cuts" in args.only:
                    note(f"cuts: {key}", lambda run=run, key=key, steps=steps: cuts(run, folder / f"cuts {key}", steps))
                if "chains" in args.only and not workers:
                    for offset in range(0, 5, args.every):
                        where = folder / f"chain {domain.name}"
                        note(f"cut in every step, {domain.name}, {offset}", partial(chain, run, where, offset))
                if "kills" in args.only and n:
                    note(f"kills: {key}", lambda run=run, key=key, n=n: kills(run, folder / f"kills {key}", n))
            if "devices" in args.only:
                steps = range(1, STEPS + 1, args.every)
                note(
                    f"two processes: {domain.name}",
                    lambda domain=domain, steps=steps: devices(recipe(domain), folder / f"two {domain.name}", steps),
                )


if __name__ == "__main__":
    main()
