"""Pictures as a domain.

A picture is a float32 tensor p [C, H, W] in [0, 1]; its state is x0 = (p - mean) / std [C, H, W], with one mean
and one std for all pixels, taken from the training pictures by `fit`. Decoding clamps, p = clip(mean + std x0, 0,
1), so encode and decode agree to float32 rounding. The state is noised by the straight path x = (1 - t) x0 + t z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import evaluation
from gendiff.conditions import Condition, Label
from gendiff.denoisers import Head, Velocity
from gendiff.domain import Domain, Examples, Request
from gendiff.errors import DataError, RequestError
from gendiff.evaluation import Measure
from gendiff.guidance import Given, Measurement
from gendiff.nn import grid_network, grid_sizes
from gendiff.processes import Gaussian, Process
from gendiff.processes.schedules import Linear
from gendiff.random import Noise
from gendiff.sampling.grids import PowerGrid
from gendiff.sampling.solvers import Adams, Solver
from gendiff.spaces import State
from gendiff_images import distances, io
from gendiff_images.grid import save_grid
from gendiff_images.judge import StateFeatures, known_classifier, trained_judge
from gendiff_images.masked import Masked
from gendiff_images.sources import CIFAR10, MNIST, Digits, Fashion, PictureSource, labels_of


@dataclass(frozen=True)
class Images(Domain):
    """Pictures of one size, with or without classes.

    `Images.of(source)` fills the fields in. The condition of a picture with classes is called `label`.

    Args:
        size: side in pixels, or (height, width).
        channels: 1 for grey, 3 for RGB.
        classes: names of the classes; empty for unlabelled pictures.
        source: where the pictures come from; None for a domain that only samples.
        flip: whether mirror images are as good as the originals (a training augmentation).
        mean: of all pixels, in [0, 1].
        std: of all pixels.
        asked: more that may be asked than the class, by name, e.g. {"caption": Text()}.
    """

    name: ClassVar[str] = "images"
    size: int | tuple[int, int] = 28
    channels: int = 1
    classes: tuple[str, ...] = ()
    source: PictureSource | None = None
    flip: bool = False
    mean: float = 0.5
    std: float = 0.5
    asked: Mapping[str, Condition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        io.check_size(self.size, "Images")
        if self.channels not in (1, 3) or not self.std > 0:
            raise RequestError(
                f"Images(channels={self.channels}, std={self.std})", "1 or 3 channels, and a positive std"
            )

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return io.check_size(self.size, "Images")

    @staticmethod
    def of(source: PictureSource, *, root: Path | None = None, flip: bool = False) -> Images:
        """The domain of a source: its size, channels and classes."""
        look = source.look(root)
        return Images(
            size=look.size, channels=look.channels, classes=look.classes, source=source, flip=flip, asked=look.asked
        )

    def with_source(self, source: PictureSource) -> Images:
        """The domain of another source, with mirror images or without, as here."""
        return Images.of(source, flip=self.flip)

    @property
    def process(self) -> Process:
        return Gaussian(Linear())

    @property
    def head(self) -> Head:
        return Velocity()

    def sampler(self) -> Solver:
        """Twelve steps: as near to the model's own fine samples as 20 of DPM-Solver++(2M) (benchmarks/README.md).

        Pictures decide what they show at more noise than data of few dimensions, so steps are nearly even in t.
        """
        return Adams(12, times=PowerGrid(1.1))

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**({"label": Label(self.classes)} if self.classes else {}), **self.asked}

    @property
    def suffix(self) -> str:
        return ".png"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple(io.WRITTEN)

    def units(self) -> tuple[float, float]:
        return 1 / self.std, -self.mean / self.std

    def encode(self, artifact: Any) -> Tensor:
        """A picture [C, H, W] in [0, 1] to its state [C, H, W].

        Raises:
            RequestError: not a picture, or one of another size.
        """
        picture = io.as_picture(artifact, channels=self.channels)
        if picture.shape[1:] != self.sides:
            raise RequestError(
                f"a picture of {picture.shape[2]}x{picture.shape[1]}",
                f"{self.sides[1]}x{self.sides[0]} (width x height)",
                f"read(path) of this domain cuts and resizes; or use Images(size={tuple(picture.shape[1:])}, ...)",
            )
        return (picture - self.mean) / self.std

    def decode(self, x: State) -> Tensor:
        """A state [C, H, W] to a picture [C, H, W] in [0, 1], clamped."""
        if not isinstance(x, Tensor):
            raise RequestError(f"a state of type {type(x).__name__}", "one tensor [C, H, W]")
        return (x.to(torch.float32) * self.std + self.mean).clamp(0, 1)

    def cut(self, x: State) -> float:
        """The share of values more than a tenth of the range beyond black or white.

        Of the shipped Fashion-MNIST model it is 0.002 at guidance 4, 0.02 at 8 and 0.54 at 30.
        """
        values = x * self.std + self.mean
        return float(((values < -0.1) | (values > 1.1)).float().mean())

    def request(self, n: int, *args: Any, **what: Any) -> Request:
        """n pictures, by what may be asked (`conditions`): one value, a list of n, or None for any."""
        if args:
            raise RequestError(
                f"{len(args)} arguments after the number of pictures", "keywords only", 'sample(16, label="bag")'
            )
        if n < 1:
            raise RequestError(f"{n} pictures", "at least one")
        like = torch.zeros(n, self.channels, *self.sides)
        return Request(like, self.encode_conditions(n, sites=self.sides, **what))

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """A `Masked` picture, as well as the core's own words.

        Raises:
            RequestError: a picture of another size than this domain's, or a whole one.
        """
        if isinstance(given, Tensor | np.ndarray):
            raise RequestError(
                "given=, a whole picture", "one of which a part is missing",
                "given=without(picture, top, left, bottom, right), given=Masked(picture, keep), or start=picture",
            )  # fmt: skip
        if not isinstance(given, Masked):
            return super().known(given, what)
        x0 = self.encode(given.picture)[None]
        return Given(x0, given.keep.expand_as(x0)), dict(what)

    @grid_sizes
    def network(self, **size: Any) -> nn.Module:
        """A U-Net, or a DiT where `width` is given; f(x [B, C, H, W], t [B], label=[B]).

        By default the U-Net has channels (64, 128) and patch 1 for at most 16 pixels, else (96, 160, 192) and 2; the
        DiT's patch is 2.
        """
        small, unet = max(self.sides) <= 16, size.get("width") is None
        if unet:
            size["channels"] = size.get("channels") or ((64, 128) if small else (96, 160, 192))
        size["patch"] = size.get("patch") or (1 if small and unet else 2)
        return grid_network(2, self.channels, self.conditions, sites=self.sides, **size)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        """The pictures of "train" or "test"; sizes, channels and labels fit this domain.

        Raises:
            DataError: no source, missing files, or pictures that do not fit.
        """
        if self.source is None:
            raise DataError("Images without a source", "a source of pictures", "Images.of(Fashion())")
        examples = self.source.load(split, root)
        for e in examples[:1]:
            shape = (self.channels, *self.sides)
            if tuple(e.artifact.shape) != shape:
                raise DataError(
                    f"{e.name} has the shape {tuple(e.artifact.shape)}", f"{shape}", f"Images.of({self.source!r})"
                )
        if self.classes and (highest := max(labels_of(examples), default=-1)) >= len(self.classes):
            raise DataError(
                f"a label {highest}", f"at most {len(self.classes) - 1}, the last of {len(self.classes)} classes"
            )
        return examples

    def fit(self, artifacts: Sequence[Any]) -> Images:
        """The same domain with mean and std of all training pixels: one picture at a time, in float64."""
        if not len(artifacts):
            raise DataError("no pictures to fit", "the training pictures")
        count = mean = scatter = 0.0
        for artifact in artifacts:
            x = io.as_picture(artifact, channels=self.channels).double()
            shift, n = float(x.mean()) - mean, x.numel()
            scatter += float((x - x.mean()).square().sum()) + shift * shift * count * n / (count + n)
            count, mean = count + n, mean + shift * n / (count + n)
        std = math.sqrt(scatter / count)
        if not std > 1e-9:
            raise DataError("training pictures that are all one flat colour", "pictures with contrast")
        return replace(self, mean=round(mean, 6), std=round(std, 6))

    def augment(self, x: State, noise: Noise) -> State:
        """Each picture of a batch [B, C, H, W] mirrored with probability 1/2, if `flip`."""
        if not self.flip or not isinstance(x, Tensor):
            return x
        mirrored = noise.uniform((x.shape[0],))[:, None, None, None] < 0.5
        return torch.where(mirrored.to(x.device), x.flip(-1), x)

    def variants(self, artifact: Any) -> list[Any]:
        """A picture, and its mirror image if `flip`."""
        picture = io.as_picture(artifact, channels=self.channels)
        return [picture, picture.flip(-1)] if self.flip else [picture]

    def with_statistics(self, other: Domain) -> Images:
        return replace(self, mean=other.mean, std=other.std) if isinstance(other, Images) else self

    def metrics(self) -> dict[str, Measure]:
        """What needs no trained network (see `gendiff_images.distances`); the judge "classifier" says more."""
        return {measure.name: measure for measure in distances.MEASURES}

    def judges(self) -> Mapping[str, Callable[[Examples, Examples], evaluation.Judge]]:
        """A classifier of the label trained on real pictures, of domains with classes."""
        return {"classifier": partial(trained_judge, self.classes, self.flip)} if len(self.classes) > 1 else {}

    def feature_network(self, root: Path | None = None) -> nn.Module:
        """The judge "classifier" on each of its resolutions, of domains with classes."""
        if len(self.classes) < 2:
            return super().feature_network(root)
        judge, _, _ = known_classifier(self.classes, self.flip, self.dataset("train", root), self.dataset("test", root))
        return StateFeatures(judge, self.mean, self.std)

    def read(self, path: str | Path) -> Tensor:
        """A picture in a file, brought to this domain's size as its source does it: the middle cut, by default."""
        return io.read(path, channels=self.channels, size=self.size, fit=self.source.fit if self.source else "crop")

    def write(self, artifact: Any, path: str | Path) -> None:
        """A picture as PNG, JPEG or WebP, by the name's ending."""
        io.write(io.as_picture(artifact, channels=self.channels), path)

    def plot(self, artifacts: Sequence[Any], path: str | Path, *, labels: Sequence[str] | None = None) -> None:
        """A contact sheet as PNG; up to ten pictures per row."""
        count = len(artifacts)
        save_grid(artifacts, path, labels=labels, columns=10 if count >= 20 else None)


def digits() -> Images:
    """scikit-learn's 8x8 digits; needs no file."""
    return Images.of(Digits())


def mnist() -> Images:
    """MNIST, 28x28."""
    return Images.of(MNIST())


def fashion() -> Images:
    """Fashion-MNIST, 28x28."""
    return Images.of(Fashion())


def cifar10() -> Images:
    """CIFAR-10, 32x32 RGB, with mirror images."""
    return Images.of(CIFAR10(), flip=True)
