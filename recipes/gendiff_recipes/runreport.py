"""A run's folder as one HTML page: what the model draws, beside what is real, its curves, its recipe, its papers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import gendiff
from gendiff.config import read_json
from gendiff.errors import DataError, RecipeError, nearest
from gendiff.modelfile import model_path
from gendiff.samples import captions

from .curves import curves
from .demo import ASKED, OWN, about, real_captions
from .evaluation import default_request, subset
from .report import Details, Section, Table, write_report
from .showing import shown


def report(run: str | Path, out: str | Path | None = None, *, n: int = 12, seed: int = 0) -> Path:
    """Writes a run's report.

    Args:
        run: The run's folder: model.safetensors or adapter.safetensors, and as far as they are there metrics.csv and
            training.json.
        out: The file to write; report.html in the run's folder by default.
        n: Samples to draw and to show, all classes in turn.
        seed: Of the samples.

    Returns:
        The file's path.

    Raises:
        RecipeError: For a folder without a model.
    """
    folder = Path(run)
    if not model_path(folder).exists():
        begun = (folder / "recipe.json").exists()
        near = [path.parent for path in sorted(folder.parent.glob("*/model.safetensors"))]
        raise RecipeError(
            f"There is no model in {folder}" if folder.is_dir() else f"There is no folder {folder}",
            "The folder of a finished run" + nearest(folder, near),
            shlex.join(["gendiff", "train", str(folder), "--resume"]) if begun else "",
        )
    model = gendiff.load(folder)
    domain, asked = model.domain, default_request(model.domain, n)
    artifacts = model.sample(n, seed=seed, **asked)
    blocks: list[Any] = [shown("Generated", domain, artifacts, captions(domain, asked, n), ASKED)]
    note = ""
    try:
        real = subset(list(domain.dataset("test")), n, 0)
        blocks = [(blocks[0], shown("Test data", domain, [e.artifact for e in real], real_captions(domain, real), OWN))]
    except DataError as error:
        note = f"No data beside them: {error}"
    drawn = curves(folder)
    blocks += [tuple(drawn[i : i + 2]) for i in range(0, len(drawn), 2)]
    if model.metrics:
        rows = [[name.replace("_", " "), value] for name, value in model.metrics.items()]
        blocks.append(Table("Measured", ["measure", "value"], rows, about=about(domain)))
    blocks.append(Details("Recipe", json.dumps(model.recipe, indent=2)))
    training = folder / "training.json"
    facts = read_json(training) if training.exists() else {}
    name = model.recipe.get("name", folder.name)
    return write_report(
        out or folder / "report.html",
        f"{name}: {folder.name}",
        [Section("Samples", blocks, lead=note)],
        facts={
            **{key.capitalize(): value for key, value in facts.items() if isinstance(value, str | int | float)},
            "Parameters": sum(p.numel() for p in model.denoiser.parameters()),
            "Sampler": repr(model.sampler),
            "Guidance": repr(model.guidance),
            "Version": gendiff.__version__,
        },
        citations=gendiff.cite(model).split("\n\n"),
    )
