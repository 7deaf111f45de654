"""What the benchmarks of adaptation share: the arguments, the training of an adapter and its costs, the results."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from gendiff.model import Model
from gendiff_recipes import train
from gendiff_recipes.recipe import Recipe

HOME = Path(__file__).parent


def arguments(text: str | None, name: str, base: str, minutes: float, rate: float) -> argparse.ArgumentParser:
    """A parser with what each of them takes: the base, the budget, the learning rate, the file of results."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=HOME.parent / "weights" / f"{base}.safetensors")
    parser.add_argument("--minutes", type=float, default=minutes, help="of training")
    parser.add_argument("--steps", type=int, help="of training, instead: for a machine that does other work beside")
    parser.add_argument("--rate", type=float, default=rate, help="the learning rate")
    parser.add_argument("--out", type=Path, default=HOME / "results" / f"{name}.json")
    return parser


def adapted(recipe: Recipe, args: argparse.Namespace, *settings: str) -> tuple[Model, dict[str, Any]]:
    """The base adapted by a recipe on one thread, and what that took: steps, seconds, the bytes of the adapter."""
    budget = [f"trainer.minutes={args.minutes}", "trainer.steps=100000"]
    if args.steps is not None:
        budget = ["trainer.minutes=none", f"trainer.steps={args.steps}"]
    own = recipe.override(
        *budget, "trainer.show=0", "trainer.logger=csv", "trainer.threads=1", "trainer.precision=float32", *settings
    )
    with tempfile.TemporaryDirectory() as home:
        run, begun, spent = Path(home) / "run", time.time(), time.process_time()
        model = train(own, run, start=args.base, quiet=True)
        facts = json.loads((run / "training.json").read_text())
        facts |= {
            "wall_seconds": round(time.time() - begun),
            "cpu_seconds": round(time.process_time() - spent),
            "bytes": (run / "adapter.safetensors").stat().st_size,
            "numbers": sum(p.numel() for p in model.denoiser.parameters() if p.requires_grad),
        }
    return model, facts


def kept(base: Model, model: Model, but: str = "") -> bool:
    """Whether the adapted model holds the base's weights, to the bit; but those whose names contain a word."""
    own = model.denoiser.network.state_dict()
    every = base.denoiser.network.state_dict().items()
    return all(torch.equal(value, own[name]) for name, value in every if not but or but not in name)


def written(result: dict[str, Any], args: argparse.Namespace) -> None:
    """The results with their arguments, in the file and on the screen."""
    said = {k: str(v) for k, v in vars(args).items() if isinstance(v, int | float)}
    where = {"date": str(date.today()), "machine": f"{platform.machine()}, one thread", "torch": torch.__version__}
    text = json.dumps({**result, "arguments": said, **where}, indent=2)
    args.out.write_text(text + "\n")
    print(text)
