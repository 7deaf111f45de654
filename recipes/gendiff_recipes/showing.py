"""Artifacts as a block of a report or of the page, whatever their domain: by the kind of file that it writes.

    .png           pictures
    .wav           sounds, each with its spectrogram and a player
    .pdb           chains in the 3D viewer
    anything else  the picture that the domain draws itself (`Domain.plot`)
    .npy           without one, pairs of numbers [sites, 2] as points, [sites] and [sites, a few] over the sites

A kind of file is added to `KINDS`: a function of the files' paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gendiff.domain import Domain
from gendiff.samples import draw_together

from . import drawing
from .report import Block, Pictures, Sound, Sounds, Structure, Structures, Text

COLUMNS = 6  # numbers of a site at most, where they are drawn


def pictures(title: str, paths: Sequence[Path], captions: Sequence[str], note: str) -> Block:
    """Pictures, enlarged: ten in a row where they and the words beneath are small."""
    from PIL import Image

    side = 1
    for path in paths:
        with Image.open(path) as picture:
            side = max(side, *picture.size)
    small = side <= 32 and len(paths) >= 10 and all(len(caption) <= 8 for caption in captions)
    width, columns = min(160, max(56, 2 * side)), 10 if small else None
    return Pictures(title, [path.read_bytes() for path in paths], captions, width=width, columns=columns, note=note)


def sounds(title: str, paths: Sequence[Path], captions: Sequence[str], note: str) -> Block:
    """Clips, each with its spectrogram and a player."""
    from scipy.io import wavfile

    every = []
    for path, caption in zip(paths, captions, strict=True):
        rate, found = wavfile.read(path)  # [n] or [n, channels]
        scale = 1.0 if found.dtype.kind == "f" else -float(np.iinfo(found.dtype).min)
        every.append(Sound(found.T.astype(np.float64) / scale, int(rate), caption))
    return Sounds(title, every, note)


def structures(title: str, paths: Sequence[Path], captions: Sequence[str], note: str) -> Block:
    """Chains in the 3D viewer."""
    texts = [path.read_text(encoding="utf8") for path in paths]
    return Structures(title, [Structure(text, c) for text, c in zip(texts, captions, strict=True)], note)


KINDS: dict[str, Callable[[str, Sequence[Path], Sequence[str], str], Block]] = {
    ".png": pictures,
    ".wav": sounds,
    ".pdb": structures,
}


def shown(title: str, domain: Domain, artifacts: Sequence[Any], captions: Sequence[str], note: str = "") -> Block:
    """Some artifacts of a domain, with a line of words for each.

    Args:
        title: Of the block.
        domain: Which writes them.
        artifacts: At least one.
        captions: A line for each.
        note: Shown where there are captions.

    Raises:
        DataError: For files that cannot be shown.
    """
    words, note = list(captions), note if any(captions) else ""
    suffix = next((suffix for suffix in domain.suffixes if suffix in KINDS), domain.suffix)
    with TemporaryDirectory() as folder:
        if suffix in KINDS:
            paths = [Path(folder) / f"{i}{suffix}" for i in range(len(artifacts))]
            for artifact, path in zip(artifacts, paths, strict=True):
                domain.write(artifact, path)
            return KINDS[suffix](title, paths, words, note)
        if type(domain).plot is not Domain.plot:
            path = Path(folder) / "all.png"
            draw_together(domain, artifacts, path, words)
            return Pictures(title, [path.read_bytes()], width=1000, note=note)
    if all(plain(artifact) for artifact in artifacts):
        plots = drawing.plots([np.asarray(artifact, dtype=np.float64) for artifact in artifacts])
        return Pictures(title, plots, words, width=200, note=note, smooth=True)
    return Text([f"{title}: {len(artifacts)} of {domain.name} ({domain.suffix})"])


def plain(artifact: Any) -> bool:
    """Whether an artifact is a few real numbers for each of its sites."""
    if not hasattr(artifact, "shape") or len(artifact.shape) not in (1, 2) or 0 in artifact.shape:
        return False
    found = np.asarray(artifact)
    return (
        found.dtype.kind in "iuf" and bool(np.isfinite(found).all()) and (found.ndim == 1 or found.shape[1] <= COLUMNS)
    )
