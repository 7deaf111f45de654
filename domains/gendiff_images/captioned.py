"""Pictures with captions: single frames of sprite animations, and emoji in several styles.

Both files hold a table beside the pictures. Pictures become arrays of 8 bits one at a time, when they are asked for.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.conditions import Label, Text
from gendiff.domain import Examples, Rejected, data_file
from gendiff.errors import DataError, RequestError, nearest
from gendiff.files import open_arrays
from gendiff.lazy import Kept, Lazy
from gendiff_images.sources import Look, Packed, Pictures, PictureSource

WHITE = 255


@dataclass(frozen=True, eq=False)
class Frames(Sequence[np.ndarray]):
    """Frames of animations in indexed colours, on white, each made [64, 64, 3] when it is asked for.

    Args:
        cells: uint8 [N, frames, 64, 64].
        palette: uint8 [N, colours, 4]; where alpha is 0 is background.
        which: (animation, frame) of each.
    """

    cells: np.ndarray
    palette: np.ndarray
    which: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            which = self.which[key]
            first, stop = min(which, default=(0, 0))[0], max(which, default=(-1, 0))[0] + 1  # no more than is needed
            return Frames(self.cells[first:stop], self.palette[first:stop], tuple((i - first, k) for i, k in which))
        i, frame = self.which[key]
        rgba = self.palette[i][self.cells[i, frame]]
        return np.where(rgba[..., 3:] > 0, rgba[..., :3], WHITE).astype(np.uint8)


def hidden(top: str, color: str, share: float = 0.2) -> bool:
    """Whether a garment in this colour is kept from training; garments of one colour never are."""
    digest = hashlib.sha256(f"{top}|{color}".encode()).digest()
    return bool(color) and int.from_bytes(digest[:4], "big") < share * 2**32


def table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns.

    Raises:
        DataError: For one that lacks a column.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for column in columns:
        if not rows or column not in rows[0]:
            have = ", ".join(rows[0]) if rows else "no rows"
            raise DataError(
                f"{path} has no column {column!r}", f"it has {have}.{nearest(column, rows[0] if rows else ())}"
            )
    return rows


@dataclass(frozen=True)
class Sprites(PictureSource):
    """Frames of captioned sprite animations (Liberated Pixel Cup, CC BY-SA 3.0 / GPL-3), 64x64 RGB on white.

    The split "test" holds all animations of some pairs of a garment and a colour, so that no picture of such a pair is
    among those of "train", though each garment and each colour is.

    Args:
        frames: of each animation, evenly spread over it.
    """

    frames: int = 4

    def look(self, root: Path | None = None) -> Look:
        return Look(64, 3, (), {"caption": Text()})

    def describe(self) -> str:
        return "3,000 captioned sprite animations of the Liberated Pixel Cup (opengameart.org), single frames of 64x64."

    def rows(self, root: Path | None = None) -> list[dict[str, str]]:
        """The table: a row for each animation, with the column caption and the attributes that it names."""
        where = "captioned animations from the Liberated Pixel Cup: index, caption, top, color, n_frames, ..."
        return table(data_file("video/lpc64.csv", root, where), ("caption", "top", "color", "n_frames"))

    def load(self, split: str, root: Path | None = None) -> Examples:
        if split not in ("train", "test"):
            raise RequestError(f"split {split!r}", '"train" or "test"')
        rows = self.rows(root)
        with open_arrays(data_file("video/lpc64.npz", root, "idx [N, 8, 64, 64] and palette [N, 193, 4]")) as z:
            index, palette = z["idx"], z["palette"]
        if (
            index.dtype != np.uint8
            or index.shape[1:] != (8, 64, 64)
            or len(index) != len(rows)
            or len(palette) != len(rows)
        ):
            raise DataError(
                f"idx {index.dtype} {index.shape} and {len(rows)} captions", "uint8 [N, 8, 64, 64], a row each"
            )
        chosen, names, cond = [], [], []
        for i, row in enumerate(rows):
            if hidden(row["top"], row["color"]) == (split == "test"):
                count = int(row["n_frames"])
                for frame in sorted({k * count // self.frames for k in range(self.frames)}):
                    chosen.append((i, frame))
                    names.append(f"sprites/{i}/{frame}")
                    cond.append({"caption": row["caption"]})
        return Examples(Pictures(Frames(index, palette, tuple(chosen)), cond, names))


@dataclass(frozen=True)
class Emoji(PictureSource):
    """Emoji in five drawing styles with captions (`images/emoji4_64`), 64x64 RGB on white.

    Some pairs of an emoji and a style are missing on purpose; `split="test"` is a tenth of the emoji, in all styles.

    Args:
        tokens: Whether a network gets the words of a caption, to attend to, beside the one vector of all of them.
    """

    tokens: bool = True

    def look(self, root: Path | None = None) -> Look:
        with open_arrays(data_file("images/emoji4_64.npz", root, "emoji as WebP files end to end")) as z:
            styles = tuple(str(name) for name in z["styles"])
        return Look(64, 3, (), {"caption": Text(tokens=self.tokens), "style": Label(styles)})

    def describe(self) -> str:
        return "6,434 pictures of 1,428 emoji by five projects (Fluent, Noto, Twemoji, OpenMoji and others), 64x64."

    def load(self, split: str, root: Path | None = None) -> Examples:
        if split not in ("train", "test"):
            raise RequestError(f"split {split!r}", '"train" or "test"')
        rows = table(data_file("images/emoji4_64.csv", root, "captions and styles"), ("code", "caption", "style"))
        with open_arrays(data_file("images/emoji4_64.npz", root, "emoji as WebP files end to end")) as z:
            data, offset = z["image"], z["offset"]
        make = Kept(Packed(3))
        keys, names, cond, rejected = [], [], [], []
        for i, row in enumerate(rows):
            test = hashlib.sha256(row["code"].encode()).digest()[0] < 26
            if test != (split == "test"):
                continue
            name = f"emoji/{row['code']}/{row['style']}"
            key = data[offset[i] : offset[i + 1]].tobytes()
            try:
                make(key)
            except DataError as error:
                rejected.append(Rejected(name, error.got))
                continue
            keys.append(key)
            names.append(name)
            cond.append({"caption": row["caption"], "style": row["style"]})
        return Examples(Pictures(Lazy(keys, make), cond, names), rejected)
