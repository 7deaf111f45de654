"""The demo: every embedded domain trained, sampled, judged and shown in minutes on a laptop's processor.

demo/  images/ audio/ proteins/  (each: model.safetensors, recipe.json, metrics.csv, final/, real/)  report.html
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

import gendiff
from gendiff.domain import Domain
from gendiff.errors import RequestError
from gendiff.evaluation import measure_of
from gendiff.model import Model
from gendiff.samples import captions, write_samples

from . import audio, images, proteins
from .curves import curves
from .evaluation import Evaluation, default_request, evaluate, subset
from .recipe import Recipe
from .report import Details, Section, Table, write_report
from .showing import shown as shown_block
from .training import train

ASKED, OWN = "The words are what was asked for.", "The words are the labels of the data."  # notes on captions


@dataclass(frozen=True)
class Show:
    """One domain's part of the demo.

    Attributes:
        title, lead: Of its section.
        recipe: Makes the recipe.
        share: Of the training time.
        n: Samples to judge.
        shown: Samples to show.
    """

    title: str
    lead: str
    recipe: Callable[[], Recipe]
    share: float
    n: int
    shown: int


SHOWS: dict[str, Show] = {
    "images": Show(
        "Images: handwritten digits",
        "A U-Net on scikit-learn's 8 x 8 digits, asked for one digit after the other.",
        images.digits, 0.2, 200, 40,
    ),
    "audio": Show(
        "Audio: plucked strings and vowels",
        "A 1-D U-Net on log-mel frames of sounds made by physical models; Griffin-Lim makes them audible.",
        audio.tones, 0.3, 120, 8,
    ),
    "proteins": Show(
        "Proteins: backbones in SE(3)",
        "An equivariant network on frames: positions by a straight flow, rotations along geodesics, two clocks.",
        proteins.ideal, 0.5, 32, 6,
    ),
}  # fmt: skip


def real_captions(domain: Domain, examples: list[Any]) -> list[str]:
    """What the conditions say of real examples, in words."""
    return [" ".join(own.words(e.cond.get(name)) for name, own in domain.conditions.items()) for e in examples]


def about(domain: Domain) -> dict[str, str]:
    """What each measure of a domain sees."""
    said = {name: measure_of(name, f).about.replace("`", "") for name, f in domain.metrics().items()}
    return {name.replace("_", " "): line for name, line in said.items() if line}


def section(show: Show, model: Model, result: Evaluation, folder: Path) -> Section:
    """What a domain made, beside its data, in pictures and numbers."""
    domain = model.domain
    test = domain.dataset("test")
    real = subset(list(test), show.shown, seed=0)
    n = len(result.samples)
    chosen = [round(i * (n - 1) / (show.shown - 1)) for i in range(show.shown)] if domain.ragged else range(show.shown)
    asked = {
        k: [v[i] for i in chosen] for k, v in default_request(domain, n).items()
    }  # short and long ones, of every class
    shown = [result.samples[i] for i in chosen]
    training = json.loads((folder / "training.json").read_text(encoding="utf8"))
    head, rows = result.scores.grid()
    seen = {row[0]: score.measure.about for row, score in zip(rows, result.scores.rows, strict=True)}
    made = shown_block("Generated", domain, shown, captions(domain, asked, len(shown)), ASKED)
    known = shown_block("Test data", domain, [e.artifact for e in real], real_captions(domain, real), OWN)
    return Section(
        show.title,
        [
            (made, known),
            (
                Table(
                    "Against test data",
                    head,
                    rows,
                    note="Each measure of the samples with its 95 % interval, and of real examples in their place: "
                    "what a perfect model would show.",
                    about=seen,
                ),
                *curves(folder)[:1],  # the loss
            ),
            Details("Recipe", json.dumps(model.recipe, indent=2)),
        ],
        lead=show.lead,
        facts={
            "Trained for": f"{training['seconds']:.0f} s, {training['steps']} steps",
            "Parameters": sum(p.numel() for p in model.denoiser.parameters()),
            "Sampler": repr(model.sampler),
            "Judged on": f"{len(result.samples)} samples, {result.seconds:.0f} s to draw",
        },
    )


def demo(out: str | Path, *, minutes: float = 6.5) -> Path:
    """Trains, samples, judges and shows every domain.

    Args:
        out: The folder to write.
        minutes: Training time over all domains.

    Returns:
        The path of report.html.
    """
    out, since = Path(out), time.perf_counter()
    if any((out / name).exists() for name in SHOWS):
        raise RequestError(f"{out} holds a demo already", "a new folder", f"Name another: --out {out}-2")
    sections, models = [], []
    for name, show in SHOWS.items():
        print(f"== {show.title}: training for {60 * minutes * show.share:.0f} s", flush=True)
        recipe = show.recipe().override(
            f"trainer.minutes={minutes * show.share}", "trainer.show=0", "trainer.steps=1000000"
        )
        model = train(recipe, out / name)
        result = evaluate(model, show.n)
        model.metrics = result.generated
        model.save(out / name / "model.safetensors")
        asked = {"seed": 0, "guidance": recipe.guidance, "request": default_request(model.domain, show.n)}
        write_samples(model, result.samples[: show.shown], out / name / "final", asked)
        real = subset(model.domain.dataset("test").artifacts, show.shown, 0)
        write_samples(model, real, out / name / "real", {"made_by": "the test examples of the data", "sampler": None})
        sections.append(section(show, model, result, out / name))
        models.append(model)
    return write_report(
        out / "report.html",
        "One core, three domains",
        sections,
        lead="The same process, loss, trainer and samplers made pictures, sounds and protein backbones on this "
        "machine, from data that comes with the package.",
        facts={
            "Date": date.today().isoformat(),
            "Machine": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} processors, "
            + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
            "Whole demo": f"{(time.perf_counter() - since) / 60:.1f} minutes",
            "Versions": f"gendiff {gendiff.__version__}, torch {torch.__version__}",
        },
        citations=gendiff.cite(*models).split("\n\n"),
    )
