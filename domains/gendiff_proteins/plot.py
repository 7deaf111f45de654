"""Pictures of backbones: a smooth tube through CA, coloured by secondary structure, seen from its flat side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from gendiff.errors import MissingExtra

from .metrics import secondary_structure
from .structure import Structure

COLOURS = {"H": "#c8443f", "E": "#2f6fb2", "C": "#9a9a9a"}
_WIDTHS = {"H": 4.5, "E": 3.5, "C": 1.8}
_FINE = 6  # points of the tube per residue


def facing(ca: np.ndarray) -> np.ndarray:
    """The points in their principal axes, the longest along x, the shortest towards the viewer; never mirrored."""
    centred = ca - ca.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes[2] *= np.sign(np.linalg.det(axes))
    return centred @ axes.T


def tube(ca: np.ndarray) -> np.ndarray:
    """A cubic spline through the CA atoms, `[6 (N - 1) + 1, 3]`."""
    from scipy.interpolate import make_interp_spline

    place = np.arange(len(ca))
    fine = np.linspace(0, len(ca) - 1, _FINE * (len(ca) - 1) + 1)
    return make_interp_spline(place, ca, k=min(3, len(ca) - 1))(fine)


def plot(
    structures: Sequence[Structure], path: str | Path, *, columns: int = 4, labels: Sequence[str] | None = None
) -> None:
    """A grid of structures: helices red, strands blue, near parts over far ones.

    Raises:
        MissingExtra: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("Drawing structures", "matplotlib", "proteins") from None
    columns = min(columns, max(len(structures), 1))
    rows = max(math.ceil(len(structures) / columns), 1)
    figure = Figure(figsize=(3 * columns, 3.1 * rows), dpi=110)
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel in panels:
        panel.set_axis_off()
        panel.set_aspect("equal")
    for panel, label in zip(panels, labels or (), strict=False):
        panel.set_title(label, fontsize=8, parse_math=False)
    for panel, structure in zip(panels, structures, strict=False):
        letters, ca = secondary_structure(structure), facing(structure.ca)
        edges = [0, *(b + 1 for b in structure.breaks), len(structure)]
        lines, colours, widths, depths = [], [], [], []
        for a, b in pairwise(edges):
            if b - a < 2:
                continue
            curve = tube(ca[a:b])
            for k in range(len(curve) - 1):
                letter = letters[a + (k + _FINE // 2) // _FINE]
                lines.append(curve[k : k + 2, :2])
                colours.append(COLOURS[letter])
                widths.append(_WIDTHS[letter])
                depths.append(curve[k, 2])
        order = np.argsort(depths)
        near = np.array(depths)[order]
        fade = 0.35 + 0.65 * (near - near.min(initial=0)) / max(float(np.ptp(near)) if len(near) else 0.0, 1e-6)
        panel.add_collection(
            LineCollection(
                [lines[i] for i in order],
                colors=[_faded(colours[i], f) for i, f in zip(order, fade, strict=True)],
                linewidths=[widths[i] for i in order],
                capstyle="round",
            )
        )
        panel.autoscale_view()
        panel.set_title(f"{structure.name or 'structure'}, {len(structure)} residues", fontsize=8, parse_math=False)
    figure.tight_layout()
    figure.savefig(path)


def _faded(colour: str, strength: float) -> tuple[float, float, float]:
    """The colour mixed with white: far parts are pale."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(1 - strength * (1 - value) for value in (red, green, blue))  # type: ignore[return-value]
