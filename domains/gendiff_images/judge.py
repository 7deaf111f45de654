"""A judge: a small classifier trained on real pictures only, asked whether samples show what was requested.

    accuracy(samples, labels) = share of samples whose recognised class is the requested one
    frechet(samples, reference) = Frechet distance between the features before the last layer

It shares nothing with the generative network, and its accuracy on held-out real pictures (`Judge.held_out`)
bounds what a perfect generator would score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff import evaluation
from gendiff.conditions import Label
from gendiff.domain import Examples
from gendiff.errors import CheckpointError, RequestError
from gendiff.evaluation import distances as metrics
from gendiff.evaluation import measures
from gendiff.files import cache_folder
from gendiff_images.distances import stack


class _Classifier(nn.Module):
    """Three resolutions of 3x3 convolutions with batch norm, the middle ones residual; features are the global mean."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            )

        self.stem = conv(channels, width)
        self.grow = nn.ModuleList((conv(width, 2 * width), conv(2 * width, 4 * width)))
        self.deepen = nn.ModuleList((conv(2 * width, 2 * width), conv(4 * width, 4 * width)))
        self.out = nn.Linear(4 * width, classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Pictures [B, C, H, W] in [0, 1] to features of each resolution, the last [B, 4 width, H / 4, W / 4]."""
        levels = [self.stem((4 * x - 2).contiguous(memory_format=torch.channels_last))]
        for grow, deepen in zip(self.grow, self.deepen, strict=True):
            h = grow(F.max_pool2d(levels[-1], 2))
            levels.append(h + deepen(h))
        return levels

    def features(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [0, 1] to [B, 4 width]."""
        return self.maps(x)[-1].mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))


class StateFeatures(nn.Module):
    """The features of states of pictures by a judge, on each of its resolutions, with gradients.

    Args:
        judge: Trained.
        mean, std: Of pictures, by which states were made of them.
    """

    def __init__(self, judge: Judge, mean: float, std: float) -> None:
        super().__init__()
        self.classifier, self.mean, self.std = judge.network, mean, std

    def forward(self, x: Tensor) -> list[Tensor]:
        """States [B, C, H, W] to [B, width, H, W], [B, 2 width, H / 2, W / 2] and [B, 4 width, H / 4, W / 4]."""
        return self.classifier.maps(x * self.std + self.mean)


class Judge:
    """A trained classifier of pictures.

    Args:
        classes: names, in the order of the labels.
        channels: of the pictures.
        width: of the first layer.
        held_out: accuracy on real pictures it was not trained on; None if never measured.
    """

    def __init__(
        self, classes: Sequence[str], *, channels: int, width: int = 32, held_out: float | None = None
    ) -> None:
        self.classes, self.channels, self.width, self.held_out = tuple(classes), channels, width, held_out
        network = _Classifier(channels, len(self.classes), width).eval()
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def __repr__(self) -> str:
        return f"Judge({self.classes!r}, channels={self.channels}, width={self.width}, held_out={self.held_out})"

    @classmethod
    def train(
        cls,
        pictures: Sequence[Tensor],
        labels: Sequence[int],
        classes: Sequence[str],
        *,
        steps: int = 700,
        batch: int = 256,
        rate: float = 1e-2,
        shift: int = 2,
        flip: bool = False,
        seed: int = 0,
    ) -> Judge:
        """Train on real pictures: AdamW, one cycle of the learning rate, random shifts (and mirror images).

        Args:
            pictures: each [C, H, W] in [0, 1].
            labels: class of each.
            classes: their names.
            steps: of `batch` pictures each.
            rate: highest learning rate.
            shift: pictures are moved by up to this many pixels (0 for pictures below 16 pixels).
            flip: whether mirror images count as the same class.
            seed: of the weights, the order and the shifts.
        """
        x, y = stack(pictures), torch.as_tensor(list(labels), dtype=torch.int64)
        if len(x) != len(y):
            raise RequestError(f"{len(y)} labels for {len(x)} pictures", "one label for each picture")
        shift = shift if min(x.shape[2:]) >= 16 else 0
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            judge = cls(classes, channels=x.shape[1])
        net = judge.network.train()
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.05)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
        order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(steps * batch // len(x) + 1)])
        for step in range(steps):
            pick = order[step * batch : (step + 1) * batch]
            moved, now = x[pick], torch.randint(-shift, shift + 1, (2,), generator=generator).tolist()
            moved = F.pad(moved, (shift,) * 4)[
                :, :, shift + now[0] : shift + now[0] + x.shape[2], shift + now[1] : shift + now[1] + x.shape[3]
            ]
            if flip and step % 2:
                moved = moved.flip(-1)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                logits = net(moved)
            loss = F.cross_entropy(logits.float(), y[pick])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()
        net.eval()
        return judge

    def examine(self, pictures: Sequence[Tensor], labels: Sequence[int]) -> float:
        """Accuracy on real held-out pictures, remembered as `held_out`."""
        self.held_out = self.accuracy(pictures, labels)
        return self.held_out

    def _run(self, function: Callable[[Tensor], Tensor], pictures: Sequence[Tensor]) -> Tensor:
        x = stack(pictures)
        if x.shape[1] != self.channels:
            raise RequestError(f"pictures of {x.shape[1]} channels", f"{self.channels}, as this judge was trained")
        with torch.no_grad():
            return torch.cat([function(part).float() for part in x.split(500)])

    def probabilities(self, pictures: Sequence[Tensor]) -> Tensor:
        """Of each class, [N, classes]."""
        return self._run(self.network, pictures).softmax(-1)

    def recognise(self, pictures: Sequence[Tensor]) -> Tensor:
        """The most probable class of each picture, int64 [N]."""
        return self.probabilities(pictures).argmax(-1)

    def accuracy(self, pictures: Sequence[Tensor], labels: Sequence[int] | Tensor) -> float:
        """Share of pictures recognised as `labels`."""
        y = torch.as_tensor(labels, dtype=torch.int64)
        if len(y) != len(pictures):
            raise RequestError(f"{len(y)} labels for {len(pictures)} pictures", "one label for each picture")
        return float((self.recognise(pictures) == y).double().mean())

    def features(self, pictures: Sequence[Tensor]) -> Tensor:
        """What the last layer sees, float32 [N, 4 width]."""
        return self._run(self.network.features, pictures)

    def frechet(self, samples: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
        """Frechet distance between the features of two sets. Not comparable with FID: other features."""
        return metrics.frechet(self.features(samples).numpy(), self.features(reference).numpy())

    def save(self, path: Path | str) -> None:
        """Weights and settings as one safetensors file."""
        from safetensors.torch import save_file

        config = {"classes": self.classes, "channels": self.channels, "width": self.width, "held_out": self.held_out}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: v.contiguous() for name, v in self.network.state_dict().items()}
        save_file(weights, path, metadata={"gendiff_images.judge": json.dumps(config)})

    @classmethod
    def load(cls, path: Path | str) -> Judge:
        """Read what `save` wrote.

        Raises:
            CheckpointError: no such file, or not a judge.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                config = json.loads((file.metadata() or {})["gendiff_images.judge"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            judge = cls(**config)
            judge.network.load_state_dict(weights)
        except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
            raise CheckpointError(f"{path}: {type(e).__name__}: {e}", "a judge written by Judge.save") from e
        judge.network.eval()
        return judge


def trained_judge(classes: Sequence[str], flip: bool, train: Examples, test: Examples) -> evaluation.Judge:
    """A classifier of the label trained on real pictures, and how well it knows others; kept on disk between uses.

    Args:
        classes: Names.
        flip: Whether mirror images count as the same.
        train: What it learns from, up to 20,000 of them.
        test: What it is tried on, up to 2,000.
    """
    judge, known, tried = known_classifier(classes, flip, train, test)
    features = partial(vectors, judge)
    return evaluation.Judge(
        "classifier",
        (measures.between("frechet", features, metrics.frechet, least=4 * judge.width + 1),),
        {"label": partial(recognised, judge)},
        {"accuracy on real test pictures": judge.held_out, "n": tried, "trained on": known},
    )


def known_classifier(classes: Sequence[str], flip: bool, train: Examples, test: Examples) -> tuple[Judge, int, int]:
    """The classifier of `trained_judge`, on how many pictures it was trained, and on how many tried.

    Up to 30 epochs, and 700 steps of 256.
    """

    def chosen(examples: Examples, most: int) -> tuple[list[Tensor], list[int]]:
        order = np.random.default_rng(0).permutation(len(examples))[:most]
        own = [examples[int(k)] for k in order if examples.conds[int(k)].get("label") is not None]
        return [e.artifact for e in own], [label.number(e.cond["label"]) for e in own]

    label = Label(tuple(classes))
    known, tried = chosen(train, 20_000), chosen(test, 2_000)
    path = cache_folder() / "judges" / f"{fingerprint(*known, classes, flip)}.safetensors"
    if path.exists():
        judge = Judge.load(path)
    else:
        steps = min(700, 30 * len(known[0]) // 256 + 1)
        judge = Judge.train(*known, classes, flip=flip, steps=steps)
        judge.examine(*tried)
        judge.save(path)
    return judge, len(known[0]), len(tried[0])


def vectors(judge: Judge, pictures: Sequence[Tensor]) -> list[np.ndarray]:
    """The features of each picture."""
    return list(judge.features(pictures).numpy())


def recognised(judge: Judge, pictures: Sequence[Tensor]) -> list[str]:
    """The class of each picture."""
    return [judge.classes[k] for k in judge.recognise(pictures).tolist()]


def fingerprint(*parts: Any) -> str:
    """A name for what a judge was trained on and how."""
    found = hashlib.sha256()
    for part in parts:
        pictures = isinstance(part, list) and isinstance(part[0], Tensor)
        found.update(stack(part).numpy().tobytes() if pictures else repr(part).encode())
    return found.hexdigest()[:24]
