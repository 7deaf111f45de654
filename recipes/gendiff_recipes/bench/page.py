"""The benchmark as one HTML file: curves, tables, and behind every cell its samples; nothing is loaded from anywhere.

A curve is a measure against evaluations as they were counted, on a logarithmic axis, with intervals over seeds; real
data in the samples' place are the dashed line, in their interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.errors import GendiffError
from gendiff.modelfile import write_whole
from gendiff_recipes import drawing
from gendiff_recipes.report import DIGIT, Block, Pictures, Text, asset, number, templates
from gendiff_recipes.showing import KINDS, plain

from .running import Outcome
from .suite import slug
from .tables import INTERVAL, Stat, Table, Tables

View = dict[str, Any]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 250, 48, 14, 12, 40  # of a plot, in its own units
COLOURS = 5  # of the style; further methods are drawn with dashes
APART = 2.5  # between the intervals of two methods, in the plot's units
DECADES = 30.0  # the ratio of values above which an axis is logarithmic


def chart(table: Table) -> View | None:
    """A measure against evaluations; None where there is nothing to draw."""
    lines: dict[str, list[tuple[float, Stat]]] = {}
    for name, own in table.rows.items():
        points = [(one.calls if math.isfinite(one.calls) else count, one) for count, one in own.items() if one.seeds]
        lines[name] = sorted(points, key=lambda point: point[0])
    every = [one for points in lines.values() for _, one in points]
    if not every:
        return None
    levels = [one for one in (table.floor, table.chance) if one is not None and one.seeds]
    ends = [v for one in (*every, *levels) for v in (one.mean, one.low, one.high) if math.isfinite(v)]
    low, high = min(ends), max(ends)
    log = low > 0 and high / low > DECADES
    margin = (high / low) ** 0.05 if log else 0.06 * (high - low) or abs(high) or 1.0
    span = (low / margin, high * margin) if log else (low - margin, high + margin)
    counts = sorted({x for points in lines.values() for x, _ in points})
    x_low, x_high = math.log2(counts[0]), math.log2(counts[-1])
    x_low, x_high = (x_low, x_high) if x_high > x_low else (x_low - 1, x_high + 1)
    ticks = drawing.log_ticks(*span) if log else drawing.ticks(*span)
    left = max(LEFT, 12 + round(DIGIT * max((len(f"{v:,g}") for v in ticks), default=0)))

    def across(v: float) -> float:
        return round(left + 8 + (math.log2(v) - x_low) / (x_high - x_low) * (WIDTH - RIGHT - left - 16), 1)

    def up(v: float) -> float:
        a, b, c = (math.log(one) for one in (v, *span)) if log else (v, *span)
        return round(HEIGHT - BOTTOM - (a - b) / (c - b) * (HEIGHT - TOP - BOTTOM), 1)

    def bar(one: Stat) -> tuple[float, float] | None:
        return (up(one.low), up(one.high)) if math.isfinite(one.low) and (not log or one.low > 0) else None

    middle = (len(lines) - 1) / 2
    drawn = [
        {
            "name": name,
            "colour": k % COLOURS,
            "dashed": k >= COLOURS,
            "path": "M" + "L".join(f"{across(x)},{up(one.mean)}" for x, one in points),
            "points": [
                {
                    "x": across(x),
                    "y": up(one.mean),
                    "bar": bar(one),
                    "aside": round(across(x) + APART * (k - middle), 1),
                }
                for x, one in points
            ],
            "last": points[-1][1].text(),
        }
        for k, (name, points) in enumerate(lines.items())
        if points
    ]
    said = [
        (name, one)
        for name, one in (("real data", table.floor), ("chance", table.chance))
        if one is not None and one.seeds
    ]
    return {
        "title": table.title, "note": table.about, "y": "logarithmic" if log else "", "lines": drawn,
        "levels": [{"name": name, "y": up(one.mean), "band": bar(one), "value": one.text()} for name, one in said],
        "x_ticks": [(across(v), f"{v:g}") for v in apart(counts, across)],
        "y_ticks": [(up(v), f"{v:,g}") for v in ticks],
        "box": {
            "width": WIDTH, "height": HEIGHT, "left": left, "right": WIDTH - RIGHT, "top": TOP,
            "bottom": HEIGHT - BOTTOM,
        },
    }  # fmt: skip


def apart(values: Sequence[float], across: Any, least: float = 22.0) -> list[float]:
    """The values whose places leave room for their numbers; the last of those too near."""
    found: list[float] = []
    for value in values:
        if found and across(value) - across(found[-1]) < least:
            found.pop()
        found.append(value)
    return found


def sheets(outcome: Outcome) -> dict[tuple[str, str, int], View]:
    """What stands behind each cell: its samples, and how they were drawn; or its error."""
    found: dict[tuple[str, str, int], View] = {}
    for one in outcome.cells:
        key = one["domain"], one["method"], one["evaluations"]
        failed = "error" in one
        if key in found and not failed:
            found[key]["seeds"].append(one)
            continue
        own = found.setdefault(key, {"seeds": [], "blocks": [], "id": f"cell-{len(found)}"})
        own["seeds"].append(one)
        if failed:
            own["blocks"].append(Text([f"Seed {one['seed']} failed: {one['error']}"]))
    for (domain, method, count), own in found.items():
        own["title"] = f"{domain}: {method}, {count} evaluations"
        own["facts"] = facts_of(own["seeds"])
        for one in own["seeds"]:
            if one.get("files"):
                folder = outcome.out / "cells" / place_of(one)
                own["blocks"].insert(0, samples(folder, one["files"], one.get("captions", []), f"Seed {one['seed']}"))
        own["warnings"] = list(dict.fromkeys(text for one in own["seeds"] for text in one.get("warnings", [])))
        own["views"] = [block.view() for block in own["blocks"]]
    return found


def place_of(one: Mapping[str, Any]) -> Path:
    """The folder of a cell, below that of all."""
    return Path(slug(one["domain"])) / slug(one["method"]) / f"{one['evaluations']}-{one['seed']}"


def facts_of(seeds: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """How the samples of a cell were drawn."""
    own = [one for one in seeds if "error" not in one]
    if not own:
        return []
    first = own[0]
    seconds = sum(one["cpu_seconds"] for one in own) / sum(one["n"] for one in own)
    facts = {
        "Sampler": first["sampler"], "Guidance": first["guidance"], "Evaluations": f"{first['calls']:g}",
        "Network passes": f"{first['passes']:g}", "Samples": f"{len(own)} x {first['n']}",
        "Processor time a sample": f"{1000 * seconds:.3g} ms",
    }  # fmt: skip
    return [(label, number(value)) for label, value in facts.items()]


def samples(folder: Path, names: Sequence[str], words: Sequence[str], title: str) -> Block:
    """A cell's samples as a block: by the kind of file, or the domain's picture of them all, or plots of numbers."""
    paths = [folder / name for name in names]
    if folder / "all.png" in paths:
        return Pictures(title, [(folder / "all.png").read_bytes()], width=1000)
    suffix = paths[0].suffix
    words = list(words) if len(words) == len(paths) else [""] * len(paths)
    try:
        if suffix == ".pdb":  # pictures: a page of a hundred 3D views would be none
            texts = [path.read_text(encoding="utf8") for path in paths]
            return Pictures(title, [drawing.chain_picture(text) for text in texts], words, width=180, smooth=True)
        if suffix in KINDS:
            return KINDS[suffix](title, paths, words, "")
        if suffix == ".npy":
            arrays = [np.load(path, allow_pickle=False) for path in paths]
            if all(map(plain, arrays)):
                plots = drawing.plots([array.astype(np.float64) for array in arrays])
                return Pictures(title, plots, words, width=180, smooth=True)
    except (GendiffError, ValueError, OSError) as error:
        return Text([f"{title}: these samples cannot be shown ({error})"])
    return Text([f"{title}: {len(paths)} files in {folder}"])


def rows_of(table: Table, behind: Mapping[tuple[str, str, int], View]) -> list[View]:
    """The rows of a table, each cell with the sheet behind it."""
    _, lines = table.grid()
    rows = []
    for line in lines:
        name = line[0][0]
        cells = [
            {
                "text": text,
                "best": best,
                "sheet": behind.get((table.domain, name, count), {}).get("id", "") if name in table.rows else "",
            }
            for count, (text, best) in zip(table.evaluations, line[1:], strict=True)
        ]
        rows.append({"name": name, "level": name not in table.rows, "cells": cells})
    return rows


def where(one: Mapping[str, Any]) -> str:
    """Which unit a result is of, in words."""
    seed = f", seed {one['seed']}" if one["kind"] in ("cell", "real") else ""
    what = {"cell": f"{one['method']}, {one['evaluations']} evaluations", "fit": f"fitting {one['method']}"}
    return f"{one['domain']}: {what.get(one['kind'], 'real data')}{seed}"


def write_page(outcome: Outcome, tables: Tables, path: Path) -> Path:
    """Writes the page of a benchmark.

    Args:
        outcome: What a run has found.
        tables: Its tables.
        path: The file.

    Returns:
        The path.
    """
    from markupsafe import Markup

    behind, suite = sheets(outcome), outcome.suite
    sections = []
    for entry in suite.domains:
        own = [one for one in tables.domains().get(entry.name, []) if not one.empty]
        charts = [one for one in map(chart, (one for one in own if not one.cost)) if one is not None]
        first = next((one for one in outcome.cells if one["domain"] == entry.name), {})
        n = first.get("n", entry.n)
        sections.append(
            {
                "title": entry.name,
                "facts": [
                    ("Samples", f"{n} a seed"),
                    ("Model", entry.model or f"trained: {entry.recipe or entry.domain}"),
                ],
                "notes": tables.notes(entry.name),
                "charts": charts,
                "tables": [{"view": one, "rows": rows_of(one, behind)} for one in own],
            }
        )
    machine = next((one["machine"] for one in outcome.cells if "machine" in one), {})
    html = (
        templates()
        .get_template("bench.html.j2")
        .render(
            title=suite.name,
            lead=f"{INTERVAL} Every number opens its samples. The best of a column is bold; intervals may doubt it.",
            facts=[
                ("Methods", str(len(suite.methods))), ("Domains", str(len(suite.domains))),
                ("Seeds", ", ".join(map(str, suite.seeds))), ("Processor", machine.get("processor", "–")),
                ("gendiff", machine.get("gendiff", "–")), ("torch", machine.get("torch", "–")),
            ],
            sections=sections,
            sheets=list(behind.values()),
            errors=[{"where": where(one), "error": one["error"]} for one in outcome.errors],
            style=Markup(asset("report.css") + asset("bench.css")),
            script=Markup(asset("report.js") + asset("bench.js")),
        )
    )  # fmt: skip
    return write_whole(path, html.encode())
