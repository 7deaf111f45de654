"""Contact sheets: many pictures in one PNG, whole pixels only, so that every picture can be read back exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from gendiff.errors import RequestError
from gendiff_images.io import from_values, to_bytes

BACKGROUND = 255


@dataclass(frozen=True)
class Sheet:
    """Where each picture lies on a contact sheet.

    Args:
        columns: pictures per row.
        zoom: screen pixels per pixel of a picture, along each axis.
        gap: white pixels between pictures.
        caption: height of the line of text below each picture; 0 without labels.
    """

    columns: int
    zoom: int = 1
    gap: int = 2
    caption: int = 0

    def corner(self, index: int, height: int, width: int) -> tuple[int, int]:
        """Top and left of picture number `index`."""
        row, column = divmod(index, self.columns)
        top = self.gap + row * (self.zoom * height + self.caption + self.gap)
        return top, self.gap + column * (self.zoom * width + self.gap)

    def cut(self, sheet: np.ndarray, index: int, height: int, width: int) -> Tensor:
        """Picture number `index`, as it was put on the sheet (uint8 [H, W] or [H, W, 3])."""
        top, left = self.corner(index, height, width)
        return from_values(
            sheet[top : top + self.zoom * height : self.zoom, left : left + self.zoom * width : self.zoom]
        )


def save_grid(
    pictures: Sequence[Tensor],
    path: Path | str,
    *,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    zoom: int | None = None,
    gap: int = 2,
) -> Sheet:
    """Write pictures of one shape as a contact sheet.

    Args:
        pictures: each [C, H, W] in [0, 1].
        path: ends in .png.
        columns: per row; the default makes the sheet about square.
        labels: a line of text below each picture.
        zoom: repeats every pixel; the default brings pictures to about 64 screen pixels.
        gap: white pixels between pictures.

    Returns:
        The layout, with which `Sheet.cut` finds a picture again.

    Raises:
        RequestError: no pictures, unequal shapes, or a wrong number of labels.
    """
    from PIL import Image, ImageDraw, ImageFont

    path = Path(path)
    if not len(pictures):
        raise RequestError("save_grid([])", "at least one picture")
    shapes = sorted({tuple(p.shape) for p in pictures})
    if len(shapes) > 1:
        raise RequestError(f"pictures of shapes {shapes}", "pictures of one shape")
    if labels is not None and len(labels) != len(pictures):
        raise RequestError(f"{len(labels)} labels for {len(pictures)} pictures", "one label for each picture")
    if path.suffix.lower() != ".png":
        raise RequestError(f"save_grid(..., {path.name!r})", "a name that ends in .png")
    tiles = [to_bytes(p) for p in pictures]
    height, width = tiles[0].shape[:2]
    zoom = zoom or max(1, round(64 / max(height, width)))
    columns = min(len(tiles), columns or math.ceil(math.sqrt(len(tiles))))
    sheet = Sheet(columns, zoom, gap, 0 if labels is None else 12)
    bottom, _ = sheet.corner(math.ceil(len(tiles) / columns) * columns, height, width)
    _, right = Sheet(columns + 1, zoom, gap, 0).corner(columns, height, width)
    canvas = np.full((bottom, right, *tiles[0].shape[2:]), BACKGROUND, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = sheet.corner(i, height, width)
        big = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
        canvas[top : top + zoom * height, left : left + zoom * width] = big
    image = Image.fromarray(canvas)
    if labels is not None:
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=10)
        for i, label in enumerate(labels):
            top, left = sheet.corner(i, height, width)
            room = zoom * width
            shown = " ".join(label.split())
            while shown and draw.textlength(shown, font=font) > room:
                shown = shown.rstrip("…")[:-1] + "…" if len(shown) > 2 else ""
            draw.text((left, top + zoom * height), shown, fill=0 if image.mode == "L" else (0, 0, 0), font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return sheet
