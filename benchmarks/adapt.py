"""Two digits taught to the shipped model of clothes by LoRA: does it draw them, and are the clothes what they were?

    python benchmarks/adapt.py --minutes 3 --rank 8

The model draws ten kinds of clothes; MNIST's threes and sevens become two classes more. A third of what it trains on
are clothes (`--replay`), none of it is the base: its weights stand still. The judge is a classifier of all twelve
classes, trained on real pictures alone; its shares on real test pictures bound what a perfect model would score. The
clothes of the base and of the adapted model are drawn by the same requests and seeds. Numbers go to
benchmarks/results/adapt.json; intervals are 95 % (Wilson).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import gendiff
from gendiff import Example, Examples, LoRA
from gendiff.model import Model
from gendiff_images import Fashion, Images
from gendiff_images.judge import Judge
from gendiff_images.sources import FASHION, MNIST, Look
from gendiff_recipes import images
from gendiff_recipes.recipe import Optimizer

try:
    from benchmarks.adapting import adapted, arguments, kept, written
    from benchmarks.asked import wilson
except ModuleNotFoundError:  # run as a file
    from adapting import adapted, arguments, kept, written  # type: ignore[import-not-found,no-redef]
    from asked import wilson  # type: ignore[import-not-found,no-redef]

NEW = {"three": 3, "seven": 7}
CLASSES = (*FASHION, *NEW)


@dataclass(frozen=True)
class Wardrobe(Fashion):
    """MNIST's threes and sevens, and clothes.

    Args:
        replay: Clothes for each digit.
    """

    replay: float = 1.0

    def look(self, root: Path | None = None) -> Look:
        return replace(super().look(root), classes=CLASSES)

    def load(self, split: str, root: Path | None = None) -> Examples:
        digits = [
            Example(e.artifact, {"label": len(FASHION) + place}, e.name)
            for place, digit in enumerate(NEW.values())
            for e in of_class(MNIST().load(split, root), digit)
        ]
        clothes = super().load(split, root)
        count = min(round(self.replay * len(digits)), len(clothes))
        return Examples([*digits, *(clothes[i] for i in range(0, len(clothes), max(len(clothes) // max(count, 1), 1)))])


def of_class(examples: Examples, number: int) -> list[Example]:
    """The examples with this label."""
    return [examples[i] for i, cond in enumerate(examples.conds) if cond["label"] == number]


def real(split: str, each: int) -> tuple[list[Tensor], list[int]]:
    """Real pictures of all twelve classes, as many of each, and their numbers."""
    clothes, digits = Fashion().load(split), MNIST().load(split)
    sets = [(clothes, k) for k in range(len(FASHION))] + [(digits, k) for k in NEW.values()]
    found = [(e.artifact, i) for i, (examples, k) in enumerate(sets) for e in of_class(examples, k)[:each]]
    return [picture for picture, _ in found], [i for _, i in found]


def taught(steps: int, width: int = 16, batch: int = 128) -> Judge:
    """A judge of all twelve classes, trained in float32 on real pictures moved by up to two pixels."""
    pictures, labels = real("train", 3000)
    x, y = torch.stack(pictures), torch.tensor(labels)
    torch.manual_seed(0)
    judge, generator = Judge(CLASSES, channels=1, width=width), torch.Generator().manual_seed(0)
    net = judge.network.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        pick = torch.randint(len(x), (batch,), generator=generator)
        dx, dy = torch.randint(-2, 3, (2,), generator=generator).tolist()
        loss = F.cross_entropy(net(torch.roll(x[pick], (dx, dy), (2, 3))), y[pick])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        cycle.step()
    net.eval()
    judge.examine(*real("test", 200))
    return judge


def drawn(model: Model, classes: Sequence[str], each: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """As many pictures of each class, as a person gets who says nothing else, and their numbers."""
    labels = [name for name in classes for _ in range(each)]
    pictures = model.sample(len(labels), label=labels, seed=seed)
    return pictures, torch.tensor([CLASSES.index(name) for name in labels])


def judged(judge: Judge, pictures: Sequence[Tensor], labels: Tensor) -> dict[str, Any]:
    """The share recognised, with its interval, and by class."""
    right = judge.recognise(pictures) == labels
    by_class = {CLASSES[k]: round(float(right[labels == k].double().mean()), 3) for k in labels.unique().tolist()}
    return {**wilson(right), "by class": by_class}


def main() -> None:
    parser = arguments(__doc__, "adapt", "images_fashion", minutes=3.0, rate=3e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=24, help="examples a step")
    parser.add_argument("--replay", type=float, default=0.5, help="clothes for each digit")
    parser.add_argument("-n", type=int, default=20, help="pictures of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", type=Path, help="a file where the judge is kept")
    parser.add_argument("--judge-steps", type=int, default=500)
    parser.add_argument("--sheet", type=Path, help="a picture of samples to look at")
    args = parser.parse_args()
    torch.set_num_threads(1)

    if args.judge is not None and args.judge.is_file():
        judge = Judge.load(args.judge)
    else:
        judge = taught(args.judge_steps)
        if args.judge is not None:
            judge.save(args.judge)
    pictures, labels = real("test", 200)
    floor = torch.tensor(labels)
    old, new = floor < len(FASHION), floor >= len(FASHION)
    found: dict[str, Any] = {
        "real clothes": judged(judge, [p for p, is_old in zip(pictures, old, strict=True) if is_old], floor[old]),
        "real digits": judged(judge, [p for p, is_new in zip(pictures, new, strict=True) if is_new], floor[new]),
    }
    reference = [p for p, is_old in zip(pictures, old, strict=True) if is_old]
    base = gendiff.load(args.base)
    clothes, asked = drawn(base, FASHION, args.n, 1)
    found["clothes of the base"] = {**judged(judge, clothes, asked), "frechet": judge.frechet(clothes, reference)}
    print(json.dumps(found), flush=True)

    recipe = replace(
        images.fashion(), name="images.wardrobe", domain=Images.of(Wardrobe(args.replay)), adapter=LoRA(args.rank),
        optimizer=Optimizer(lr=args.rate, warmup=20, decay=0.5),
    )  # fmt: skip
    model, facts = adapted(recipe, args, f"trainer.seed={args.seed}", f"trainer.batch={args.batch}")
    digits, wanted = drawn(model, tuple(NEW), 4 * args.n, 1)
    found["digits of the adapted"] = judged(judge, digits, wanted)
    clothes, asked = drawn(model, FASHION, args.n, 1)
    found["clothes of the adapted"] = {**judged(judge, clothes, asked), "frechet": judge.frechet(clothes, reference)}
    if args.sheet is not None:
        model.domain.plot(
            [*digits[:: max(len(digits) // 20, 1)][:20], *clothes[:: max(len(clothes) // 40, 1)][:40]], args.sheet
        )
    result = {"result": found, "judge_held_out": judge.held_out, "training": facts}
    written({**result, "base_bits_kept": kept(base, model, but="label")}, args)


if __name__ == "__main__":
    main()
