"""Does a model do what it is asked? Judged by what was trained or made on real data alone, beside real data and chance.

    python benchmarks/asked.py sprites --model runs/sprites     captions: pose, garment, colours, by classifiers
    python benchmarks/asked.py tones --model runs/tones         pitch in hertz, by librosa's YIN
    python benchmarks/asked.py brightness --model runs/bright   mean brightness of garments, by the pixels themselves
    python benchmarks/asked.py structure --model runs/structured   helix and strand by residue, by DSSP and torsions

Models: gendiff train images.sprites --out runs/sprites (100 minutes);
gendiff train audio.tones domain.source.pitch=true domain.source.count=3200 trainer.steps=20000 --minutes 12 --out
runs/tones; python benchmarks/asked.py brightness --minutes 12 trains its own. Numbers go to
benchmarks/results/asked_NAME.json. Intervals are 95 %, of shares by Wilson, else by bootstrap over samples.

Sprites: six things are looked for, direction, action, sex, garment, its colour and the colour of the hair. The
classifier of all but colours sees frames of scrambled colours (a random affine map of RGB), since a plain one tells a
garment by the colours it was trained with; that of colours sees them as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import gendiff
from gendiff import Example, Examples, Number
from gendiff.model import Model
from gendiff_images import Fashion, Images, Sprites
from gendiff_images.captioned import hidden
from gendiff_images.sources import Look, Pictures
from gendiff_recipes import images, train

RESULTS = Path(__file__).parent / "results"
SHAPES, COLOURS = ("direction", "action", "sex", "top"), ("color", "hair_color")
SIX = (*SHAPES, *COLOURS)
BESIDE = ("top", "pants", "shoes", "body", "hat")  # what the judge of colours also learns, to tell things apart


def wilson(right: Sequence[bool] | Tensor) -> dict[str, float]:
    """A share with its 95 % interval (Wilson 1927)."""
    x = torch.as_tensor(right).double()
    n, p, z = len(x), float(x.mean()), 1.96
    if not n:
        return {"share": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    middle, half = (p + z * z / 2 / n) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    half /= 1 + z * z / n
    return {"share": p, "low": middle - half, "high": middle + half, "n": n}


class Eye(nn.Module):
    """A small convolutional classifier of 64 x 64 pictures with several heads."""

    def __init__(self, heads: dict[str, int], width: int = 32) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 3 * width, 4 * width]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, stride=2, padding=1),
                nn.GroupNorm(8, b), nn.SiLU(),
            )
            for a, b in pairwise(sizes)
        )  # fmt: skip
        self.dropout = nn.Dropout(0.3)
        self.heads = nn.ModuleDict({name: nn.Linear(16 * sizes[-1], count) for name, count in heads.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = 2 * x - 1
        for layer in self.layers:
            x = layer(x)
        x = self.dropout(x.flatten(1))
        return {name: head(x) for name, head in self.heads.items()}


def scrambled(x: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures [B, 3, H, W] with another random affine map of the colours of each; near white is white."""
    n = len(x)
    turn = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator))[0]
    turn = turn * (0.5 + torch.rand(n, 1, 1, generator=generator))
    shift = 0.4 * torch.rand(n, 3, 1, 1, generator=generator) + 0.2
    background = (x > 0.93).all(1, keepdim=True)
    y = (torch.einsum("bij,bjhw->bihw", turn, x - 0.4) + shift).clamp(0, 1)
    return torch.where(background, 1.0, y)


@dataclass
class Judges:
    """Both classifiers, and the names of what they tell."""

    shapes: Eye
    colours: Eye
    names: dict[str, list[str]]

    @torch.no_grad()
    def tell(self, pictures: Tensor) -> dict[str, Tensor]:
        """The number of each attribute of each picture; what is told by shape is the mean over eight scramblings."""
        self.shapes.eval()
        self.colours.eval()
        g = torch.Generator().manual_seed(0)
        out: dict[str, list[Tensor]] = {name: [] for name in SIX}
        for x in pictures.split(100):
            votes = [self.shapes(scrambled(x, g)) for _ in range(8)]
            for name in SHAPES:
                out[name].append(sum(v[name].softmax(-1) for v in votes).argmax(-1))  # type: ignore[union-attr]
            seen = self.colours(x)
            for name in COLOURS:
                out[name].append(seen[name].argmax(-1))
        return {name: torch.cat(parts) for name, parts in out.items()}


def labelled(split: str, frames: int = 4) -> tuple[Tensor, list[dict[str, str]], list[int]]:
    """All frames of a split, the rows they belong to, and which animation each is of."""
    source, examples = Sprites(frames), Sprites(frames).load(split)
    rows = source.rows()
    which = [int(e.name.split("/")[1]) for e in examples]
    return torch.stack([e.artifact for e in examples]), [rows[i] for i in which], which


def fit_judges(minutes: float, home: Path | None) -> tuple[Judges, dict[str, Any]]:
    """Trains both on nine tenths of the characters of training frames; what they get right of others is told.

    Args:
        minutes: Of processor time each is trained for.
        home: A folder where they are kept, and found when they were trained before.
    """
    names = {name: sorted({row[name] for row in Sprites().rows()}) for name in dict.fromkeys((*SIX, *BESIDE))}
    found = {}
    for kind, heads in (("shapes", SHAPES), ("colours", (*COLOURS, *BESIDE))):
        torch.manual_seed(0)
        eye = Eye({name: len(names[name]) for name in heads})
        file = home / f"{kind}_{minutes:g}.safetensors" if home else None
        if file is not None and file.is_file():
            eye.load_state_dict(load_file(file))
        else:
            teach(eye, kind, {name: names[name] for name in heads}, 60 * minutes)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                save_file(eye.state_dict(), file)
        found[kind] = eye
    judges = Judges(found["shapes"], found["colours"], names)
    pictures, rows, _ = labelled("train")
    held = torch.tensor([int(row["character"]) % 10 == 0 for row in rows])
    floors = {
        "real, trained pairs (characters the judge has not seen)": score(
            judges, pictures[held], [r for r, h in zip(rows, held, strict=True) if h]
        ),
        "real, pairs never trained together": score(judges, *labelled("test")[:2]),
    }
    return judges, floors


def teach(eye: Eye, kind: str, names: dict[str, list[str]], seconds: float) -> None:
    """Trains one of the classifiers on all eight frames of the training animations, but for a tenth of characters."""
    pictures, rows, _ = labelled("train", 8)
    truth = {name: torch.tensor([known.index(row[name]) for row in rows]) for name, known in names.items()}
    index = torch.tensor([i for i, row in enumerate(rows) if int(row["character"]) % 10])
    optimizer = torch.optim.AdamW(eye.parameters(), 2e-3, weight_decay=0.05)
    g, step, begin = torch.Generator().manual_seed(1), 0, time.process_time()
    eye.train()
    while (done := (time.process_time() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - done)
        pick = index[torch.randint(len(index), (96,), generator=g)]
        x = pictures[pick]
        if kind == "shapes":
            x = scrambled(x, g)
        elif torch.rand((), generator=g) < 0.5:
            x = x.flip(3)  # colours are the same in a mirror
        dx, dy = (int(v) for v in torch.randint(-3, 4, (2,), generator=g))
        x = torch.roll(x, (dx, dy), (2, 3))
        loss = torch.zeros(())
        for name, logits in eye(x).items():
            weight = 2.0 if name in ("color", "top") else 1.0
            loss = loss + weight * F.cross_entropy(logits, truth[name][pick], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1


def score(judges: Judges, pictures: Tensor, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Shares of pictures on which each attribute of its row is found; colours of those garments that have one."""
    told = judges.tell(pictures)
    right = {}
    for name in SIX:
        wanted = torch.tensor(
            [judges.names[name].index(r[name]) if r[name] in judges.names[name] else -1 for r in rows]
        )
        right[name] = told[name] == wanted
    coloured = torch.tensor([bool(r["color"]) for r in rows])
    out: dict[str, Any] = {name: wilson(right[name]) for name in SHAPES}
    out["color"] = wilson(right["color"][coloured])
    out["hair_color"] = wilson(right["hair_color"])
    out["direction and action"] = wilson(right["direction"] & right["action"])
    out["garment with its colour"] = wilson((right["top"] & right["color"])[coloured])
    out["all six"] = wilson(torch.stack([right[name] for name in SIX]).all(0)[coloured])
    return out


def sprites(args: argparse.Namespace) -> dict[str, Any]:
    judges, floors = fit_judges(args.judge, args.judges)
    print(json.dumps({k: {n: round(v["share"], 3) for n, v in f.items()} for k, f in floors.items()}), flush=True)
    model = gendiff.load(args.model)
    rng, source = np.random.default_rng(0), Sprites().rows()
    chosen = {
        "trained captions": [r for r in source if not hidden(r["top"], r["color"]) and r["color"]],
        "pairs never trained together": [r for r in source if hidden(r["top"], r["color"])],
    }
    picked = {k: [rows[i] for i in rng.permutation(len(rows))[: args.n]] for k, rows in chosen.items()}
    found: dict[str, Any] = {"judges on real frames": floors}

    def drawn(rows: Sequence[dict[str, str]], guidance: float, seed: int) -> Tensor:
        return torch.stack(model.sample(len(rows), caption=[r["caption"] for r in rows], guidance=guidance, seed=seed))

    for which, rows in picked.items():
        for guidance in args.guidance:
            key = f"{which}, guidance {guidance:g}"
            pictures = drawn(rows, guidance, 1)
            found[key] = score(judges, pictures, rows)
            print(key, {n: round(v["share"], 3) for n, v in found[key].items()}, flush=True)
            if guidance == args.guidance[len(args.guidance) // 2]:
                turned = [rows[(i + len(rows) // 2) % len(rows)] for i in range(len(rows))]
                found[f"{which}, captions shuffled"] = score(judges, pictures, turned)
                if args.sheet:
                    model.domain.plot(
                        list(pictures[:40]), args.sheet.with_stem(f"{args.sheet.stem}_{which.split()[0]}")
                    )
    return {"result": found, "training": trained(args.model)}


def trained(path: Path) -> Any:
    """What a run's folder says of its training."""
    file = path / "training.json"
    return json.loads(file.read_text()) if file.is_file() else str(path)


def heard(clip: Any) -> float:
    """The median pitch in hertz of the louder frames, by YIN (de Cheveigne and Kawahara 2002); NaN without one."""
    import librosa

    x = np.asarray(clip.samples, dtype=np.float64).mean(0)
    x = np.pad(x, (0, max(0, 2048 - len(x))))
    f0 = librosa.yin(x, fmin=60, fmax=900, sr=clip.sample_rate, frame_length=1024, trough_threshold=0.2)
    level = librosa.feature.rms(y=x, frame_length=1024, hop_length=256)[0][: len(f0)]
    good = level > 0.3 * level.max()
    return float(np.median(f0[good])) if good.any() else math.nan


def tones(args: argparse.Namespace) -> dict[str, Any]:
    model = gendiff.load(args.model)
    rng = np.random.default_rng(0)
    real = list(model.domain.dataset("test"))[: args.n]

    def cents(found: Sequence[float], asked: Sequence[float]) -> np.ndarray:
        return np.abs(1200 * np.log2(np.asarray(found) / np.asarray(asked)))

    def table(off: np.ndarray) -> dict[str, Any]:
        return {**wilson([bool(c < 30) for c in off]), "median cents": float(np.nanmedian(off)),
                "nothing heard": float(np.isnan(off).mean())}  # fmt: skip

    # Each class is asked for pitches in its own range, drawn anew: hardly any is one of the training values.
    spans = {"pluck-low": (85, 155), "pluck-mid": (170, 310), "pluck-high": (330, 620)}
    sounds = [list(model.domain.labels["sound"])[i % 8] for i in range(args.n)]
    asked = [float(lo * (hi / lo) ** rng.uniform()) for lo, hi in (spans.get(s, (95, 230)) for s in sounds)]
    found: dict[str, Any] = {
        "real clips": table(cents([heard(e.artifact) for e in real], [e.cond["pitch"] for e in real])),
    }
    for guidance in args.guidance:
        clips = model.sample(args.n, sound=sounds, pitch=asked, guidance=guidance, seconds=0.7, seed=1)
        pitches = [heard(clip) for clip in clips]
        found[f"guidance {guidance:g}"] = table(cents(pitches, asked))
        found[f"guidance {guidance:g}, by sound"] = {
            s: table(cents([p for p, k in zip(pitches, sounds, strict=True) if k == s],
                           [a for a, k in zip(asked, sounds, strict=True) if k == s])) for s in dict.fromkeys(sounds)
        }  # fmt: skip
        found[f"guidance {guidance:g}, pitches shuffled"] = table(cents(pitches, asked[8:] + asked[:8]))
        print(guidance, found[f"guidance {guidance:g}"], flush=True)
    return {"result": found, "training": trained(args.model)}


@dataclass(frozen=True)
class Bright(Fashion):
    """Fashion-MNIST with the mean brightness of each picture, from 0 to 1."""

    def look(self, root: Path | None = None) -> Look:
        return replace(super().look(root), asked={"brightness": Number()})

    def load(self, split: str, root: Path | None = None) -> Examples:
        examples = super().load(split, root)
        items = examples.items
        assert isinstance(items, Pictures)
        cond = [{**c, "brightness": float(v.mean() / 255)} for c, v in zip(items.cond, items.values, strict=True)]
        return Examples(Pictures(items.values, cond, items.names))


def brightness(args: argparse.Namespace) -> dict[str, Any]:
    from scipy.stats import spearmanr

    recipe = replace(images.fashion(), domain=Images.of(Bright()), name="images.bright")
    if args.model is None or not args.model.exists():
        out = args.model or Path("runs/bright")
        model: Model = train(recipe.override(f"trainer.minutes={args.minutes}", "trainer.show=0"), out, quiet=True)
    else:
        model = gendiff.load(args.model, parts=[Bright])
    test = list(model.domain.dataset("test"))
    rng = np.random.default_rng(0)
    picked: list[Example] = [test[i] for i in rng.permutation(len(test))[: args.n]]
    labels, asked = [e.cond["label"] for e in picked], [e.cond["brightness"] for e in picked]
    found: dict[str, Any] = {}
    for guidance in args.guidance:
        pictures = model.sample(args.n, label=labels, brightness=asked, guidance=guidance, seed=1)
        means = np.array([float(p.mean()) for p in pictures])

        def rank(a: Any, b: Any) -> float:
            found: Any = spearmanr(a, b)
            return float(found.statistic)

        picks = [rng.integers(0, args.n, args.n) for _ in range(500)]
        spread = np.quantile([rank(means[p], np.asarray(asked)[p]) for p in picks], [0.025, 0.975])
        found[f"guidance {guidance:g}"] = {
            "spearman": rank(means, asked), "low": float(spread[0]), "high": float(spread[1]), "n": args.n,
            "mean error": float(np.abs(means - np.asarray(asked)).mean()),
            "spearman within classes": float(np.mean([
                rank(means[np.asarray(labels) == k], np.asarray(asked)[np.asarray(labels) == k]) for k in range(10)
            ])),
        }  # fmt: skip
        print(guidance, found[f"guidance {guidance:g}"], flush=True)
    pictures = model.sample(args.n, label=labels, brightness=None, guidance=1.0, seed=1)
    free: Any = spearmanr([float(p.mean()) for p in pictures], asked)
    found["not asked"] = {"spearman": float(free.statistic)}
    return {"result": found, "training": trained(args.model or Path("runs/bright"))}


def structure(args: argparse.Namespace) -> dict[str, Any]:
    """Helix and strand asked residue by residue, by the patterns of real test chains, and what is found in samples."""
    from gendiff_proteins.bonding import three_states
    from gendiff_proteins.metrics import MEASURES, torsions

    model = gendiff.load(args.model)
    test = [e for e in model.domain.dataset("test") if len(e.artifact) <= 96]
    rng = np.random.default_rng(0)
    picked = [test[i] for i in rng.permutation(len(test))[: args.n]]
    patterns, reference = [e.cond["structure"] for e in picked], [e.artifact for e in picked]
    lengths = [len(p) for p in patterns]

    def beta(s: Any) -> list[bool | None]:
        """Whether phi and psi of each residue are those of a strand: phi -180 to -45, psi 90 to 180 or below -150."""
        return [
            None if math.isnan(phi + psi) else -180 < phi < -45 and (psi > 90 or psi < -150)
            for phi, psi in zip(*torsions(s), strict=True)
        ]

    def obeyed(samples: Sequence[Any], asked: Sequence[str]) -> dict[str, Any]:
        said = [three_states(s) for s in samples]
        pairs = [(a, f) for want, got in zip(asked, said, strict=True) for a, f in zip(want, got, strict=True)]
        both = [pair for want, s in zip(asked, samples, strict=True) for pair in zip(want, beta(s), strict=True)]
        turned = [flag for a, flag in both if a == "E" and flag is not None]
        return {
            "helix asked, helix by DSSP": wilson([f == "H" for a, f in pairs if a == "H"]),
            "strand asked, beta torsions": wilson(turned),
            "strand asked, strand by DSSP": wilson([f == "E" for a, f in pairs if a == "E"]),
            "coil asked, no helix or strand": wilson([f == "L" for a, f in pairs if a == "L"]),
        }

    found: dict[str, Any] = {"real chains": obeyed(reference, patterns)}
    quality = {}
    for guidance in args.guidance:
        samples = model.sample(args.n, length=lengths, structure=patterns, fold=None, guidance=guidance, seed=1)
        found[f"guidance {guidance:g}"] = obeyed(samples, patterns)
        quality[f"asked, guidance {guidance:g}"] = {m.name: m(samples, reference) for m in MEASURES}
        turned = [p[::-1] for p in patterns]
        found[f"guidance {guidance:g}, patterns reversed"] = obeyed(samples, turned)
        print(guidance, {k: round(v["share"], 3) for k, v in found[f"guidance {guidance:g}"].items()}, flush=True)
    for name, other in (("not asked", model), ("the model without the condition", gendiff.load(args.base))):
        free: dict[str, Any] = {"structure": None} if name == "not asked" else {}
        samples = other.sample(args.n, length=lengths, fold=None, guidance=1.0, seed=1, **free)
        quality[name] = {m.name: m(samples, reference) for m in MEASURES}
    quality["real chains"] = {m.name: m(reference, reference) for m in MEASURES}
    return {"result": found, "quality": quality, "training": trained(args.model)}


TASKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "sprites": sprites, "tones": tones, "brightness": brightness, "structure": structure,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--model", type=Path)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.5, 4.0])
    parser.add_argument("--judge", type=float, default=12, help="minutes of training of each judge of sprites")
    parser.add_argument("--judges", type=Path, help="a folder where the judges of sprites are kept")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument(
        "--sheet", type=Path, help="also draw forty sprites here: of share-alike data, not to be shipped"
    )
    parser.add_argument("--base", type=Path, default=Path("weights/proteins_backbones.safetensors"))
    args = parser.parse_args()
    found = TASKS[args.task](args)
    facts = {
        "date": date.today().isoformat(),
        "command": f"python {' '.join(sys.argv)}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"asked_{args.task}.json").write_text(json.dumps({**facts, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
