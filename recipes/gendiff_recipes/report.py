"""A report as one file: pictures, sound, 3D structures, curves and tables in a page that loads nothing from anywhere.

    write_report("report.html", "Three domains in ten minutes", [
        Section("Digits", lead="...", facts={"Trained for": "92 s"}, blocks=[
            (Pictures("Generated", samples), Pictures("Test data", examples)),  # a tuple stands side by side
            Curve("Training loss", {"loss": (steps, losses)}),
            Table("Distances", ["", "generated", "floor"], [["FID", 12.3, 1.1]]),
            Details("Configuration", recipe_json),
        ]),
    ])

Everything is inlined (pictures and sound as data URIs, the viewer as a script), and the page's content security policy
forbids it to fetch anything, so a report can be mailed and opened years later. Without WebGL or scripts a structure is
a picture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from gendiff.errors import DataError

from . import drawing

if TYPE_CHECKING:
    from jinja2 import Environment

View = dict[str, Any]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 240, 48, 12, 12, 40  # of a plot, in its own units
DIGIT = 7.5  # units that a character of an axis's numbers takes


def data_uri(kind: str, content: bytes) -> str:
    """`content` as a link that carries itself."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def number(value: Any) -> str:
    """A table's cell: floats to three digits, long integers with commas, nothing as a dash, the rest as it stands."""
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}".replace("-", "−")
    if isinstance(value, bool) or not isinstance(value, float | np.floating):
        return str(value)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value) if abs(value) > 1e-12 else 0.0  # what rounding leaves of a zero
    if size >= 1e6 or 0 < size < 1e-4:
        return f"{value:.2e}".replace("-", "−")
    digits = 3 if size == 0 else max(0, 2 - math.floor(math.log10(size)))
    return f"{value:,.{digits}f}".replace("-", "−")


def asset(name: str) -> str:
    """The text of a file in the folder of assets."""
    return files("gendiff_recipes").joinpath("assets", name).read_text(encoding="utf-8")


def templates() -> Environment:
    """The templates among the assets, in which every text is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


class Block(ABC):
    """A piece of a section."""

    @abstractmethod
    def view(self) -> View:
        """What the page's template draws; `kind` names the macro."""


@dataclass(frozen=True)
class Text(Block):
    """Paragraphs, one a string."""

    paragraphs: Sequence[str]

    def view(self) -> View:
        return {"kind": "text", "paragraphs": list(self.paragraphs)}


@dataclass(frozen=True)
class Pictures(Block):
    """Pictures as a grid: arrays `[H, W]`, `[1, H, W]`, `[3, H, W]` in [0, 1] (or uint8), or the bytes of a PNG.

    `width` is that of one picture on the page, in pixels; small pictures are enlarged without smoothing, unless
    `smooth`. `columns` fills the page with that many a row instead, say one a class.
    """

    title: str
    pictures: Sequence[Any]
    captions: Sequence[str] = ()
    width: int = 72
    columns: int | None = None
    note: str = ""
    smooth: bool = False

    def view(self) -> View:
        if self.captions and len(self.captions) != len(self.pictures):
            raise DataError(
                f"{len(self.captions)} captions for {len(self.pictures)} pictures", "one caption a picture, or none"
            )
        captions = self.captions or [""] * len(self.pictures)
        cells = [
            {"uri": data_uri("image/png", drawing.png(p)), "caption": c, "alt": c or f"{self.title}, {i}"}
            for i, (p, c) in enumerate(zip(self.pictures, captions, strict=True), 1)
        ]
        layout = {"width": self.width, "columns": self.columns, "smooth": self.smooth}
        return {"kind": "pictures", "title": self.title, "note": self.note, "cells": cells, **layout}


@dataclass(frozen=True)
class Sound:
    """A sound `[n]` or `[channels, n]` in [-1, 1] at `rate` hertz; `picture` (PNG) replaces the spectrogram."""

    samples: Any
    rate: int
    caption: str = ""
    picture: bytes | None = None


@dataclass(frozen=True)
class Sounds(Block):
    """Sounds, each a spectrogram with a player."""

    title: str
    sounds: Sequence[Sound]
    note: str = ""

    def view(self) -> View:
        cells = []
        for i, sound in enumerate(self.sounds, 1):
            samples = np.asarray(sound.samples)
            picture = sound.picture or drawing.spectrogram(samples, sound.rate)
            cells.append(
                {
                    "uri": data_uri("audio/wav", drawing.wav(samples, sound.rate)),
                    "picture": data_uri("image/png", picture),
                    "caption": sound.caption or f"{i}",
                    "facts": f"{samples.shape[-1] / sound.rate:.2f} s, {sound.rate / 1000:g} kHz",
                }
            )
        return {"kind": "sounds", "title": self.title, "note": self.note, "cells": cells}


@dataclass(frozen=True)
class Structure:
    """A protein as PDB text (N, CA, C, O: helices and strands show); `highlight`: residue numbers of a motif."""

    pdb: str
    caption: str = ""
    highlight: tuple[int, ...] = ()
    picture: bytes | None = None


def _turn(pdb: str) -> list[float]:
    """The rotation under which a structure is first shown, as that of its picture: a quaternion (x, y, z, w)."""
    axes = drawing.across_the_page(drawing.trace(pdb)[0])
    return Rotation.from_matrix(axes).as_quat().round(6).tolist()


@dataclass(frozen=True)
class Structures(Block):
    """Structures in one 3D view, chosen by their pictures; coloured from the N (blue) to the C terminus (red)."""

    title: str
    structures: Sequence[Structure]
    note: str = ""

    def view(self) -> View:
        cells = [
            {
                "picture": data_uri(
                    "image/png", structure.picture or drawing.chain_picture(structure.pdb, structure.highlight)
                ),
                "caption": structure.caption or f"{i}",
                "facts": f"{len(drawing.trace(structure.pdb)[0])} residues",
            }
            for i, structure in enumerate(self.structures, 1)
        ]
        chains = [{"pdb": s.pdb, "highlight": list(s.highlight), "turn": _turn(s.pdb)} for s in self.structures]
        return {"kind": "structures", "title": self.title, "note": self.note, "cells": cells, "chains": chains}


@dataclass(frozen=True)
class Curve(Block):
    """Lines over a common axis: name -> (x, y). Long series are binned; a band shows their middle 80 %.

    `log`: a logarithmic axis, where all values are positive.
    """

    title: str
    series: Mapping[str, tuple[drawing.Series, drawing.Series]]
    x: str = "step"
    y: str = "loss"
    log: bool = False
    note: str = ""

    def view(self) -> View:
        thinned = {name: drawing.thin(*xy) for name, xy in self.series.items()}
        lines = {name: rows for name, rows in thinned.items() if rows.shape[1]}
        if not lines:
            raise DataError(f"no finite point in the curve {self.title!r}", "at least one")
        every = np.concatenate(list(lines.values()), axis=1)
        log = self.log and every[1:].min() > 0
        x_all = np.concatenate([np.asarray(x, float) for x, _ in self.series.values()])
        x_span = (np.nanmin(x_all), np.nanmax(x_all))
        low, high = every[1:].min(), every[1:].max()
        margin = (high / low) ** 0.05 if log else 0.06 * (high - low)
        y_span = (low / margin, high * margin) if log else (low - margin, high + margin)
        x_span, y_span = (
            s if s[1] > s[0] else (s[0] - 0.5 * (abs(s[0]) or 1), s[0] + 0.5 * (abs(s[0]) or 1))
            for s in (x_span, y_span)
        )

        scale = np.log if log else np.asarray

        x_ticks, y_ticks = drawing.ticks(*x_span), drawing.log_ticks(*y_span) if log else drawing.ticks(*y_span)
        left = max(LEFT, 12 + round(DIGIT * max((len(f"{v:,g}") for v in y_ticks), default=0)))
        right = WIDTH - max(RIGHT, round(DIGIT * max((len(f"{v:,g}") for v in x_ticks), default=0) / 2))

        def across(v: Any) -> Any:
            return left + (np.asarray(v) - x_span[0]) / (x_span[1] - x_span[0]) * (right - left)

        def up(v: Any) -> Any:
            bottom, top = scale(y_span[0]), scale(y_span[1])
            return HEIGHT - BOTTOM - (scale(np.asarray(v)) - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

        def path(xs: Any, ys: Any) -> str:
            return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(xs), up(ys), strict=True))

        drawn = []
        for name, (x, y, lower, upper) in lines.items():
            band = (
                path(np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])) + "Z"
                if (upper > lower).any()
                else ""
            )
            drawn.append({"name": name, "path": path(x, y), "band": band, "last": number(float(y[-1]))})
        return {
            "kind": "curve",
            "title": self.title,
            "note": self.note,
            "x": self.x,
            "y": self.y + (" (log)" if log else ""),
            "lines": drawn,
            "x_ticks": [(f"{float(across(v)):.1f}", f"{v:,g}") for v in x_ticks],
            "y_ticks": [(f"{float(up(v)):.1f}", f"{v:,g}") for v in y_ticks],
            "box": {
                "width": WIDTH,
                "height": HEIGHT,
                "left": left,
                "right": right,
                "top": TOP,
                "bottom": HEIGHT - BOTTOM,
            },
        }


@dataclass(frozen=True)
class Table(Block):
    """Rows under `columns`; the first column names the row, floats are shown to three digits.

    `about`: name of a row -> a sentence on what it is, shown below the name.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    def view(self) -> View:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise DataError(
                f"the row {list(wrong[0])} in the table {self.title!r}",
                f"{len(self.columns)} cells: {list(self.columns)}",
            )
        rows = [[(number(cell), isinstance(cell, int | float | np.number)) for cell in row] for row in self.rows]
        numeric = [all(row[i][1] for row in rows) and bool(rows) for i in range(len(self.columns))]
        return {
            "kind": "table",
            "title": self.title,
            "note": self.note,
            "about": self.about,
            "columns": list(zip(self.columns, numeric, strict=True)),
            "rows": rows,
        }


@dataclass(frozen=True)
class Details(Block):
    """A text as it stands (a recipe's JSON, BibTeX), folded away under its title."""

    title: str
    text: str

    def view(self) -> View:
        return {"kind": "details", "title": self.title, "text": self.text}


@dataclass(frozen=True)
class Section:
    """A part of the report: a title, one sentence that says what is seen, facts (label -> value), and blocks.

    A tuple among the blocks stands side by side where the page is wide enough.
    """

    title: str
    blocks: Sequence[Block | tuple[Block, ...]]
    lead: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        rows = [[b.view() for b in (block if isinstance(block, tuple) else (block,))] for block in self.blocks]
        return {"title": self.title, "lead": self.lead, "facts": _facts(self.facts), "rows": rows}


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(label, number(value)) for label, value in facts.items()]


def write_report(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    facts: Mapping[str, Any] | None = None,
    citations: Sequence[str] = (),
) -> Path:
    """Write one self-contained HTML page and return its path; the folder is made.

    Args:
        path: Where to; the name should end in .html.
        title: The page's title.
        sections: Its parts, in order.
        lead: One or two sentences under the title.
        facts: Label -> value for the whole run: date, device, seconds, versions.
        citations: BibTeX entries, listed at the end.

    Raises:
        DataError: a picture, sound, structure or series that cannot be shown.
    """
    from markupsafe import Markup

    views = [section.view() for section in sections]
    solid = any(block["kind"] == "structures" for view in views for row in view["rows"] for block in row)
    html = (
        templates()
        .get_template("report.html.j2")
        .render(
            title=title,
            lead=lead,
            facts=_facts(facts or {}),
            sections=views,
            citations=list(citations),
            style=Markup(asset("report.css")),
            script=Markup(asset("report.js")),
            viewer=Markup(asset("3Dmol-min.js")) if solid else "",
            viewer_licence=asset("3Dmol.LICENSE.txt") if solid else "",
            palette=drawing.palette() if solid else [],
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path
