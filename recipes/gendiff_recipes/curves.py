"""What a run wrote down of its losses and metrics, as plots."""

from __future__ import annotations

import csv
from pathlib import Path

from .report import Block, Curve


def columns(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The series of a run's metrics.csv: name to steps and values."""
    path, series = folder / "metrics.csv", {}
    if not path.exists():
        return series
    with path.open(encoding="utf8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if text and name not in ("step", "epoch"):
                    xs, ys = series.setdefault(name, ([], []))
                    xs.append(float(row["step"]))
                    ys.append(float(text))
    return series


def curves(folder: Path) -> list[Block]:
    """The losses in one plot, and every metric in one of its own."""
    series = columns(folder)
    losses = {name.removeprefix("train/"): xy for name, xy in series.items() if name.startswith("train/")}
    losses = {name: xy for name, xy in losses.items() if name not in ("ms_per_step", "examples_per_second")}
    rate = losses.pop("lr", None)
    found: list[Block] = [Curve("Training loss", losses, log=True)] if losses else []
    found += [Curve("Learning rate", {"learning rate": rate}, y="rate")] if rate else []
    for name, xy in series.items():
        if name.startswith("metrics/"):
            title = name.removeprefix("metrics/")
            found.append(Curve(title, {title: xy}, y=title))
    return found
