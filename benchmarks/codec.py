"""What a codec gives back of pictures it has not seen, beside principal components of the same size.

    gendiff train images.codec trainer.minutes=none trainer.steps=4400 trainer.threads=1 --out runs/codec
    python benchmarks/codec.py --codec runs/codec --sheet codec.png

PSNR in decibels of each picture in [0, 1], its mean over pictures with a bootstrap's interval of 95 %, and the paired
difference; tiles against the whole; and what latents of unseen pictures are like: covariance 1 is that of training.
The sheet shows pictures, what the codec makes of them, and what principal components do.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff import Codec
from gendiff.latents import Autoencoder
from gendiff_images.grid import save_grid

RESULTS = Path(__file__).parent / "results"


def psnr(codec: Codec, network: Autoencoder, picture: Tensor) -> float:
    """Of one picture's reconstruction."""
    made = codec.domain.decode(codec.restored(codec.domain.encode(picture), network))
    return -10 * math.log10(max(float((made - picture).double().square().mean()), 1e-10))


def interval(values: np.ndarray) -> dict[str, float]:
    """A mean and its bootstrapped interval."""
    picks = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return {"mean": round(float(values.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("-n", type=int, default=400, help="unseen pictures (400)")
    parser.add_argument("--fitted", type=int, default=2048, help="training pictures for principal components (2048)")
    parser.add_argument("--sheet", type=Path, help="a picture of ten of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = Codec.load(args.codec)
    domain, network, plain = codec.domain, codec.network, codec.built()
    seen, unseen = domain.dataset("train"), domain.dataset("test")
    rows = np.random.default_rng(0).permutation(len(seen))[: args.fitted]
    plain.begin(torch.cat([plain.patches(domain.encode(seen[int(i)].artifact)[None]) for i in rows]))
    rows = np.random.default_rng(1).permutation(len(unseen))[: args.n]
    pictures, names = [unseen[int(i)].artifact for i in rows], [unseen.names[int(i)] for i in rows]
    ours, theirs = (np.array([psnr(codec, net, p) for p in pictures]) for net in (network, plain))
    kinds = np.array([name.partition("/")[0] for name in names])
    z = codec.encode(torch.stack([domain.encode(p) for p in pictures]))
    whole = codec.decode(z[:8])
    spread = torch.linalg.eigvalsh(torch.cov(z.movedim(1, -1).flatten(0, -2).T.double()))
    found: dict[str, Any] = {
        "pictures": len(pictures),
        "numbers": {"state": int(np.prod(pictures[0].shape)), "latent": int(z[0].numel())},
        "codec": interval(ours),
        "principal components": interval(theirs),
        "difference, paired": interval(ours - theirs),
        "by source": {
            str(kind): {"n": int((kinds == kind).sum()), "codec": interval(ours[kinds == kind]),
                        "principal components": interval(theirs[kinds == kind])}
            for kind in np.unique(kinds)
        },
        "tiles against the whole": {
            str(tile): float((codec.decode(z[:8], tile) - whole).abs().max()) for tile in (2, 3, 5)
        },
        "latents of unseen pictures, variance along any direction": [float(spread.min()), float(spread.max())],
    }  # fmt: skip
    if args.sheet:
        made = [
            [domain.decode(codec.restored(domain.encode(p), net)) for p in pictures[:10]] for net in (network, plain)
        ]
        save_grid([*pictures[:10], *made[0], *made[1]], args.sheet, columns=10)
    training = args.codec / "training.json"
    report = {
        "date": date.today().isoformat(),
        "command": "python benchmarks/codec.py --codec runs/codec",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "training": json.loads(training.read_text()) if training.is_file() else args.codec.name,
        "size": {k: list(v) if isinstance(v, tuple) else v for k, v in codec.size.items()},
        "metrics": dict(codec.metrics),
        "result": found,
    }
    (RESULTS / "codec.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
