"""Recipes for pictures: a class-conditional U-Net on the straight path, with labels dropped for guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gendiff.denoisers import X0, EDMHead, Velocity
from gendiff.errors import DataError
from gendiff.latents import KL, Latent, Reconstruction, open_codec
from gendiff.processes import Gaussian
from gendiff.processes.schedules import EDM
from gendiff.sampling.grids import PowerGrid
from gendiff.sampling.solvers import Adams
from gendiff.training import (
    ConsistencyTraining,
    LogitNormal,
    LogNormal,
    MeanFlow,
    Objective,
    Output,
    ScoreRegularized,
)
from gendiff_images import CIFAR10, Digits, Emoji, Fashion, Folder, Images, PictureSource, Several, Sprites
from gendiff_images.io import SUFFIXES

from .fewstep import student
from .recipe import CodecRecipe, Optimizer, Recipe, Trainer, home_of, table_of


def digits() -> Recipe:
    """scikit-learn's 8 x 8 digits, built in: two minutes on a laptop's processor."""
    return Recipe(
        "images.digits",
        Images.of(Digits()),
        network={"channels": (64, 128), "blocks": 1},
        times=LogitNormal(0.0, 1.0),
        ema=0.995,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.01),
        trainer=Trainer(steps=2000, minutes=2, batch=64, show=500),
        sampler=Adams(12, times=PowerGrid(1.1)),
        guidance=1.5,
    )


def fashion() -> Recipe:
    """Fashion-MNIST, 28 x 28: twenty minutes on two cores. Measured in benchmarks/results/quality_fashion.json."""
    return Recipe(
        "images.fashion",
        Images.of(Fashion()),
        network={"channels": (64, 128), "blocks": 1, "patch": 2},
        times=LogitNormal(0.0, 1.0),
        ema=0.999,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.01),
        trainer=Trainer(steps=20000, minutes=20, batch=64, show=1000, samples=40),
        sampler=Adams(12, times=PowerGrid(1.1)),
        guidance=2.0,
    )


def cifar10() -> Recipe:
    """CIFAR-10, 32 x 32 in colour: for a GPU (trainer.devices, trainer.compile); on a processor only a smoke test."""
    return Recipe(
        "images.cifar10",
        Images.of(CIFAR10(), flip=True),
        network={"channels": (128, 256, 256), "blocks": 2, "dropout": 0.1, "patch": 1},
        times=LogitNormal(0.0, 1.0),
        ema=0.9995,
        optimizer=Optimizer(lr=3e-4, weight_decay=0.01, warmup=1000, decay=0.3),
        trainer=Trainer(steps=200000, batch=256, show=5000, checkpoint=5000, samples=40),
        sampler=Adams(20, times=PowerGrid(1.1)),
        guidance=1.5,
    )


def fashion_meanflow() -> Recipe:
    """Fashion-MNIST in 1 to 4 evaluations: gendiff train images.fashion_meanflow --from MODEL.

    MeanFlow, and from two fifths on its whole jumps matched by scores too (rCM): 25 minutes on one core. Measured in
    benchmarks/results/fewstep_fashion.json.
    """
    plain = fashion()
    method = ScoreRegularized(flow=MeanFlow(same=0.2, zero=0.5), begin=0.4, critic=1, guidance=2.0)
    return student(
        plain, method, 4, name="images.fashion_meanflow", optimizer=replace(plain.optimizer, lr=5e-4),
        trainer=replace(plain.trainer, steps=1250, minutes=None, show=0),
    )  # fmt: skip


def cifar10_consistency() -> Recipe:
    """CIFAR-10 in 1 or 2 evaluations by consistency from data (Song & Dhariwal 2024; Geng et al. 2024): for a GPU."""
    plain = replace(cifar10(), drop=0.0, process=Gaussian(EDM()), head=EDMHead(0.5), times=LogNormal(-1.1, 2.0))
    return student(plain, ConsistencyTraining(huber=5.4e-4), 2, name="images.cifar10_consistency")


def _captioned(name: str, source: PictureSource, minutes: float, **network: Any) -> Recipe:
    """A recipe for captions: a transformer over patches that predicts the picture, trained by its velocity."""
    return Recipe(
        name,
        Images.of(source),
        network=network,
        head=X0(),
        times=LogitNormal(0.4, 1.0),
        objective=Objective(Output(0.05, Velocity())),
        ema=0.999,
        optimizer=Optimizer(lr=6e-4, weight_decay=0.01, warmup=300, decay=0.3),
        trainer=Trainer(steps=100000, minutes=minutes, batch=64, show=2000, samples=24),
        sampler=Adams(16, times=PowerGrid(1.1)),
        guidance=1.75,
    )


def sprites() -> Recipe:
    """Sprites by captions, 64 x 64: 100 minutes on one core. Measured in benchmarks/results/asked_sprites.json.

    The data are share-alike: models of them are not to be shipped.
    """
    return _captioned("images.sprites", Sprites(), 100, width=192, depth=6, heads=6, patch=8)


def emoji() -> Recipe:
    """Emoji by caption and style, 64 x 64: three hours on two cores.

    Measured by benchmarks/emoji.py after 83 minutes of one core with `network.patch=16 domain.source.tokens=false`:
    styles are learned, captions hardly.

    Two of the five styles are share-alike: models of them are not to be shipped.
    """
    return _captioned("images.emoji", Emoji(), 180, width=256, depth=6, heads=8, patch=8)


def codec() -> CodecRecipe:
    """A codec of drawings, 64 x 64 x 3 to 8 x 8 x 24: half an hour on one core. See benchmarks/results/codec.json.

    A part of the data is share-alike: such a codec is not to be shipped.
    """
    return CodecRecipe(
        "images.codec",
        Images.of(Several(), flip=True),
        network={"latent": 24, "stride": 8, "widths": (96, 160), "blocks": 1, "deep": 2},
        loss=Reconstruction(l1=0.5, l2=1.0),
        bottleneck=KL(1e-4, std=0.1),
        ema=0.995,
        optimizer=Optimizer(lr=1e-3, warmup=50, decay=0.5),
        trainer=Trainer(steps=100000, minutes=30, batch=16, show=0, precision="float32"),
    )


def emoji_latent(codec: str) -> Recipe:
    """Emoji by caption and style on latents: gendiff train images.emoji_latent runs/images.codec.

    Measured in benchmarks/results/asked_emoji.json: 3,000 steps without `refine`, then 3,625 and 4,015 more with it, of
    captions as one vector (domain.domain.source.tokens=false); 3,000 steps of captions as tokens too are better.

    Args:
        codec: The run of images.codec, or its file; or the folder of an AutoencoderKL, AutoencoderDC or AutoencoderTiny
            as diffusers saves it, which is measured on the training pictures.
    """
    recipe = _captioned("images.emoji_latent", Emoji(), 120, width=256, depth=6, heads=8, patch=2, refine=64)
    domain = Latent(recipe.domain, open_codec(codec, recipe.domain))
    return replace(recipe, domain=domain, head=Velocity(), objective=Objective(), guidance=2.5)


SIDES = (8, 16, 24, 32, 48, 64)


def folder(
    path: str,
    *,
    size: int | None = None,
    labels: str = "",
    column: str = "label",
    channels: int | None = None,
    flip: bool = False,
    captions: str = "",
    conditions: str = "",
    ask: str = "",
) -> Recipe:
    """Pictures of your own: gendiff train images.folder PATH; sub-folders are classes. Twenty minutes on two cores.

    Args:
        path: The folder.
        size: Side in pixels; without it the largest of 8 to 64 that nine in ten of the pictures have.
        labels: A CSV table with the columns path and label, instead of sub-folders.
        column: Of the table, the class.
        channels: 1 for grey, 3 for colour; without it 1 if all pictures are grey.
        flip: Whether mirror images are as good as the originals.
        captions: "txt" for a text NAME.txt beside each picture, or a CSV table with the columns path and caption.
        conditions: A CSV or JSONL table with the column path: every other column may be asked (numbers, classes,
            texts); "txt" for a text NAME.txt beside each picture.
        ask: Columns of it, "pitch,kind:label"; all by default. A kind that is not said follows from the values.
    """
    home = home_of(path)
    if home.is_file():
        raise DataError(f"{home} is a file", "a folder of pictures", f"gendiff train images.folder {home.parent}")
    if size is None or channels is None:
        found, grey = _look(home)
        size = found if size is None else size  # a 0 is refused by the source, not taken for nothing said
        channels = (1 if grey else 3) if channels is None else channels
    table: dict[str, Any] = {"manifest": str(Path(labels).resolve()), "column": column} if labels else {}
    table |= table_of(conditions, ask)
    told = captions if captions in ("", "txt") else str(Path(captions).resolve())
    domain = Images.of(Folder(str(home), size, channels, captions=told, **table), flip=flip)
    asked = len(domain.classes) > 1 or bool(domain.asked)
    return Recipe(
        "images.folder",
        domain,
        network={"channels": (64, 128), "blocks": 1, "patch": 1 if size <= 16 else 2 if size <= 32 else 4},
        times=LogitNormal(0.0, 1.0),
        drop=0.1 if asked else 0.0,
        ema=0.995,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.01),
        trainer=Trainer(steps=100_000, minutes=20, batch=32, show=1000, samples=40),
        sampler=Adams(12, times=PowerGrid(1.1)),
        guidance=2.0 if asked else 1.0,
    )


def _look(home: Path, most: int = 200) -> tuple[int, bool]:
    """A side that suits the pictures of a folder, and whether all of them are grey; from some of them.

    Raises:
        DataError: For a folder without pictures.
    """
    from PIL import Image, UnidentifiedImageError

    files = [p for p in sorted(home.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    sides, grey = [], True
    for file in files[:: max(1, len(files) // most)]:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
                grey = grey and (image.mode in ("1", "L", "LA", "F") or image.mode[0] == "I")
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # the source counts it among the rejected, with the reason
    if not sides:
        raise DataError(f"There are no pictures in {home}", f"files that end in {', '.join(SUFFIXES)}")
    enough = sorted(sides)[len(sides) // 10]
    return max([side for side in SIDES if side <= enough], default=SIDES[0]), grey
