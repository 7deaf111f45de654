"""Pictures of sound: a sheet of log-mel spectrograms in decibels below the loudest cell of the sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gendiff_audio.clip import Clip, mono
from gendiff_audio.resample import resample
from gendiff_audio.spectrogram import LogMel

RANGE = 70.0  # decibels shown


def sheet(
    clips: Sequence[Clip], spectrogram: LogMel, path: str | Path, *, titles: Sequence[str] = (), columns: int = 4
) -> None:
    """Spectrograms of some clips as a PNG, with axes in seconds and hertz.

    Raises:
        ValueError: no clips.
    """
    from matplotlib.figure import Figure

    if not clips:
        raise ValueError("there is no clip to draw")
    pictures = [_decibels(clip, spectrogram) for clip in clips]
    top = max(float(picture.max()) for picture in pictures)
    columns = min(columns, len(clips))
    rows = math.ceil(len(clips) / columns)
    figure = Figure(figsize=(2.7 * columns + 0.9, 1.9 * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)).ravel()
    hertz = spectrogram.centers().numpy()
    ticks = [f for f in (125, 250, 500, 1000, 2000, 4000, 8000, 16000) if hertz[0] <= f <= hertz[-1]]
    image = None
    for i, axis in enumerate(axes):
        if i >= len(clips):
            axis.set_axis_off()
            continue
        extent = (0.0, pictures[i].shape[1] / spectrogram.rate, -0.5, spectrogram.mels - 0.5)
        image = axis.imshow(
            pictures[i],
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="magma",
            vmin=top - RANGE,
            vmax=top,
            interpolation="nearest",
        )
        axis.set_yticks(
            np.interp(ticks, hertz, np.arange(len(hertz))), [f"{f / 1000:g}k" if f >= 1000 else str(f) for f in ticks]
        )
        axis.set_title(titles[i] if i < len(titles) else "", fontsize=8, parse_math=False)
        axis.tick_params(labelsize=7)
        if i % columns == 0:
            axis.set_ylabel("Hz", fontsize=8)
        if i + columns >= len(clips):
            axis.set_xlabel("s", fontsize=8)
            axis.tick_params(labelbottom=True)
    axes[0].set_xlim(0, max(picture.shape[1] for picture in pictures) / spectrogram.rate)
    if image is not None:
        shrink = min(0.8, 6 / figure.get_figheight())
        figure.colorbar(image, ax=list(axes), label="dB", shrink=shrink, aspect=30, pad=0.01)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _decibels(clip: Clip, spectrogram: LogMel) -> np.ndarray:
    samples = resample(mono(clip), spectrogram.sample_rate).samples[0]
    return (spectrogram.analyse(torch.from_numpy(samples)) * (20 / math.log(10))).numpy().T
