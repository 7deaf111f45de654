"""Arrays to what a browser shows: PNG, WAV, SVG.

A chain of CA atoms is drawn as a tube of segments sorted by depth: centred, turned to its principal axes (the longest
across the page), smoothed by a cubic spline, coloured from its first residue to its last by `palette`.
A spectrogram shows 20 log10 |STFT| over the upper `DECIBELS` of its range, frequency upwards.
"""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.signal import stft

from gendiff.errors import DataError

DECIBELS = 70.0
GREY = "#7d8088"  # of axes, on a light page and a dark one
Series = Sequence[float] | np.ndarray


def png(picture: Any) -> bytes:
    """A picture as PNG: grey `[H, W]`, `[1, H, W]` or RGB `[3, H, W]`, in [0, 1] or uint8; a PNG's bytes pass."""
    from PIL import Image

    if isinstance(picture, bytes):
        return picture
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise DataError(f"a picture of shape {pixels.shape}", "[H, W], [1, H, W] or [3, H, W]")
    if pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise DataError("a picture with NaN or Inf", "values in [0, 1]")
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.moveaxis(pixels, 0, -1)).save(file, "png", optimize=True)
    return file.getvalue()


def channels(samples: Any) -> np.ndarray:
    """A sound `[n]` or `[channels, n]` as float64 `[channels, n]`."""
    sound = np.atleast_2d(np.asarray(samples, dtype=np.float64))
    if sound.ndim != 2 or sound.size == 0:
        raise DataError(f"a sound of shape {sound.shape}", "[n] or [channels, n]")
    if not np.isfinite(sound).all():
        raise DataError("a sound with NaN or Inf", "samples in [-1, 1]")
    return sound


def wav(samples: Any, rate: int) -> bytes:
    """Sound `[n]` or `[channels, n]` in [-1, 1] at `rate` hertz as 16-bit WAV; what is louder is scaled down."""
    sound = channels(samples)
    sound = sound / max(1.0, float(np.abs(sound).max()))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(len(sound))
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(sound.T * 32767).astype("<i2").tobytes())
    return file.getvalue()


def spectrogram(samples: Any, rate: int, size: tuple[int, int] = (320, 120)) -> bytes:
    """The sound's spectrogram as PNG of `size` (width, height): 32 ms Hann windows, 0 to rate / 2 upwards."""
    from matplotlib import colormaps
    from PIL import Image

    sound = channels(samples).mean(axis=0)
    window = max(16, round(0.032 * rate))
    sound = np.pad(sound, (0, max(0, window - len(sound))))
    power = np.abs(stft(sound, rate, nperseg=window, noverlap=window - max(1, window // 8), nfft=2 * window)[2])
    level = 20 * np.log10(np.maximum(power, 1e-10 * max(float(power.max()), 1e-10)))
    shade = np.clip(1 + (level - level.max()) / DECIBELS, 0, 1)
    image = Image.fromarray((colormaps["magma"](shade[::-1])[..., :3] * 255).astype(np.uint8))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).quantize(128).save(file, "png", optimize=True)
    return file.getvalue()


def palette(n: int = 32) -> list[str]:
    """`n` colours from the N terminus (blue) to the C terminus (red), as #rrggbb."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["turbo"](u)) for u in np.linspace(0.08, 0.92, n)]


def trace(pdb: str) -> tuple[np.ndarray, np.ndarray]:
    """The CA atoms `[N, 3]` of a PDB text, in angstrom, and their residue numbers `[N]`."""
    rows = [line for line in pdb.splitlines() if line.startswith(("ATOM", "HETATM")) and line[12:16].strip() == "CA"]
    if len(rows) < 4:
        raise DataError(f"a PDB text with {len(rows)} CA atoms", "at least 4")
    return np.array([[float(row[i : i + 8]) for i in (30, 38, 46)] for row in rows]), np.array(
        [int(row[22:26]) for row in rows]
    )


def across_the_page(ca: np.ndarray) -> np.ndarray:
    """The proper rotation `[3, 3]` that turns a chain's longest extent to x, the next to y: a helix keeps its hand."""
    axes = np.linalg.svd(ca - ca.mean(axis=0), full_matrices=False)[2]
    axes[2] *= np.sign(np.linalg.det(axes))
    return axes


def chain_picture(pdb: str, highlight: Sequence[int] = (), pixels: int = 360) -> bytes:
    """The chain as PNG on a clear background, the stand-in for the 3D view; beside a `highlight` the rest is grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    ca, residue = trace(pdb)
    turned = (ca - ca.mean(axis=0)) @ across_the_page(ca).T
    fine = CubicSpline(np.arange(len(ca)), turned)(np.linspace(0, len(ca) - 1, 8 * len(ca)))
    across, depth = fine[:, :2], fine[:, 2]
    colours = np.array([to_rgb(c) for c in palette(256)])[np.linspace(0, 255, len(fine) - 1).astype(int)]
    if highlight:
        nearest = np.rint(np.linspace(0, len(ca) - 1, len(fine) - 1)).astype(int)
        colours = np.where(np.isin(residue, highlight)[nearest, None], colours, 0.74)
    far = np.clip((depth.max() - depth[:-1, None]) / max(float(np.ptp(depth)), 6.0), 0, 1)  # what lies deeper is paler
    colours = (1 - 0.45 * far) * colours + 0.45 * far * 0.62
    extent = 1.08 * max(np.abs(across).max(), 6.0)
    width = min(9.0, max(2.4, 120 / extent)) * pixels / 360
    segments = np.stack([across[:-1], across[1:]], axis=1)

    figure = Figure(figsize=(pixels / 100, pixels / 100), dpi=100)
    plot = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[], aspect="equal")
    plot.set(xlim=(-extent, extent), ylim=(-extent, extent))
    # Back to front, each segment a dark rim under its own colour: rims cover what lies behind and nothing else.
    order = np.argsort(depth[:-1])
    pairs = np.repeat(segments[order], 2, axis=0)
    tones = np.stack([0.35 * colours[order], colours[order]], axis=1).reshape(-1, 3)
    plot.add_collection(
        LineCollection(list(pairs), colors=list(tones), linewidths=[width + 1.4, width] * len(order), capstyle="butt")
    )
    file = io.BytesIO()
    figure.patch.set_alpha(0)
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", transparent=True)
    return file.getvalue()


def plots(arrays: Sequence[np.ndarray], pixels: int = 400) -> list[bytes]:
    """A plot of each array as PNG on a clear background, all with the same axes: pairs `[N, 2]` as points in a plane,
    `[N]` and `[N, C]` over their places."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = all(array.ndim == 2 and array.shape[1] == 2 for array in arrays)
    rows = [a if points else np.column_stack([np.arange(1, len(a) + 1), a]) for a in arrays]
    across, up = (
        [float(f([f(part) for part in parts])) for f in (np.min, np.max)]
        for parts in ([row[:, 0] for row in rows], [row[:, 1:] for row in rows])
    )
    found = []
    for row in rows:
        figure = Figure(figsize=(pixels / 100, pixels / 100), dpi=100)
        plot = figure.add_axes((0.16, 0.12, 0.8, 0.84))
        for column in row[:, 1:].T:
            plot.plot(row[:, 0], column, "o" if points else "o-", markersize=5, linewidth=1, alpha=0.8)
        for limits, set_limits in ((across, plot.set_xlim), (up, plot.set_ylim)):
            margin = 0.06 * (limits[1] - limits[0]) or 1.0
            set_limits(limits[0] - margin, limits[1] + margin)
        plot.tick_params(colors=GREY, labelsize=13)
        plot.set_facecolor("none")
        plot.spines[["top", "right"]].set_visible(False)
        plot.spines[["bottom", "left"]].set_color(GREY)
        figure.patch.set_alpha(0)
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", transparent=True)
        found.append(file.getvalue())
    return found


def ticks(low: float, high: float, aim: int = 5) -> list[float]:
    """About `aim` round numbers (1, 2 or 5 times a power of ten apart) in [low, high]."""
    raw = (high - low) / aim
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / raw)))
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; where fewer than three fit also 2 and 5 between, else even steps."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5)):
        found = [m * 10.0**k for k in decades for m in digits if low <= m * 10.0**k <= high]
        if len(found) >= 3:
            return found
    return ticks(low, high)


def thin(x: Series, y: Series, bins: int = 160) -> np.ndarray:
    """A long series in at most `bins` bins: `[4, bins]`, mean x, mean y, tenth and ninetieth percentile of y."""
    both = np.stack([np.asarray(x, float), np.asarray(y, float)])
    both = both[:, np.isfinite(both).all(axis=0)]
    parts = np.array_split(both, max(1, min(bins, both.shape[1])), axis=1)
    rows = [(p[0].mean(), p[1].mean(), *np.quantile(p[1], (0.1, 0.9))) for p in parts if p.size]
    return np.array(rows).T.reshape(4, -1)
