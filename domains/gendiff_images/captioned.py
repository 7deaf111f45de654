"""Pictures with captions: single frames of sprite animations, and emoji in several styles.

Both files hold a table beside the pictures. Pictures become arrays of 8 bits one at a time, when they are asked for.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gendiff.conditions import Label, Text
from gendiff.domain import Example, Examples, Made, Rejected, data_file
from gendiff.errors import DataError, RequestError, check, nearest, refuse
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
        rows = table(data_file("images/emoji4_64.csv", root, "captions and styles"), ("code", "caption", "style"))
        return packed(
            data_file("images/emoji4_64.npz", root, "emoji as WebP files end to end"),
            split,
            keys=[row["code"] for row in rows],
            names=[f"emoji/{row['code']}/{row['style']}" for row in rows],
            cond=[{"caption": row["caption"], "style": row["style"]} for row in rows],
        )


@dataclass(frozen=True)
class ClipArt(PictureSource):
    """Clip art with captions (`images/openclipart_64`, public domain), 64x64 RGB on white.

    `split="test"` is a tenth of the drawings.
    """

    def look(self, root: Path | None = None) -> Look:
        return Look(64, 3, (), {"caption": Text()})

    def describe(self) -> str:
        return "4,148 drawings by 367 authors of the Open Clip Art Library, 64x64."

    def load(self, split: str, root: Path | None = None) -> Examples:
        rows = table(data_file("images/openclipart_64.csv", root, "titles"), ("caption", "path"))
        return packed(
            data_file("images/openclipart_64.npz", root, "drawings as WebP files end to end"),
            split,
            keys=[row["path"] for row in rows],
            names=[f"openclipart/{row['path']}" for row in rows],
            cond=[{"caption": row["caption"]} for row in rows],
        )


@dataclass(frozen=True)
class Several(PictureSource):
    """The pictures of several sources of one size, without what is said of them: what a codec learns from.

    Args:
        sources: In their order.
    """

    sources: tuple[PictureSource, ...] = (ClipArt(), Emoji())

    def __post_init__(self) -> None:
        check(self)
        if not self.sources:
            refuse(self, "sources", "one or more sources of pictures")

    def look(self, root: Path | None = None) -> Look:
        looks = [source.look(root) for source in self.sources]
        if len({(look.size, look.channels) for look in looks}) > 1:
            raise DataError(
                f"sources of {', '.join(f'{look.size} pixels and {look.channels} channels' for look in looks)}",
                "pictures of one size",
            )
        return Look(looks[0].size, looks[0].channels, (), {})

    def describe(self) -> str:
        return " ".join(source.describe() for source in self.sources)

    def load(self, split: str, root: Path | None = None) -> Examples:
        each = [source.load(split, root) for source in self.sources]
        names = [name for examples in each for name in examples.names]
        places = [(k, i) for k, examples in enumerate(each) for i in range(len(examples))]
        items = Made(Lazy(places, partial(artifact_at, [e.items for e in each])), [{} for _ in names], names)
        return Examples(
            items, [r for e in each for r in e.rejected], [o for e in each for o in e.others],
            [n for e in each for n in e.notes],
        )  # fmt: skip


def artifact_at(each: Sequence[Sequence[Example]], place: tuple[int, int]) -> Tensor:
    """The picture of one of several sequences of examples."""
    return each[place[0]][place[1]].artifact


def packed(
    path: Path, split: str, *, keys: Sequence[str], names: Sequence[str], cond: Sequence[dict[str, Any]]
) -> Examples:
    """Pictures of a file that holds WebP files end to end: a tenth of their keys, by a digest, are those of "test"."""
    if split not in ("train", "test"):
        raise RequestError(f"split {split!r}", '"train" or "test"')
    with open_arrays(path) as z:
        data, offset = z["image"], z["offset"]
    make = Kept(Packed(3))
    contents: list[bytes] = []
    used: list[int] = []
    rejected: list[Rejected] = []
    for i, key in enumerate(keys):
        if (hashlib.sha256(key.encode()).digest()[0] < 26) != (split == "test"):
            continue
        content = data[offset[i] : offset[i + 1]].tobytes()
        try:
            make(content)
        except DataError as error:
            rejected.append(Rejected(names[i], error.got))
            continue
        contents.append(content)
        used.append(i)
    return Examples(Pictures(Lazy(contents, make), [cond[i] for i in used], [names[i] for i in used]), rejected)
