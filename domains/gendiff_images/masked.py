"""A picture of which a part is known, the rest to be painted by a model.

half = Masked(picture, keep)                    # bool [H, W], True where the picture is known
hole = without(picture, 8, 8, 20, 20)           # rows 8 to 19 of columns 8 to 19 are unknown
takes = [hole.mend(take) for take in model.sample(4, given=hole)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import RequestError
from gendiff_images.io import as_picture


@dataclass(frozen=True, eq=False)
class Masked:
    """A picture [C, H, W] in [0, 1] and the mask `keep` [H, W] of what is known in it: bool, or numbers 0 and 1.

    Raises:
        RequestError: not a picture, a mask of another shape or with other values, nothing known, or nothing unknown.
    """

    picture: Tensor
    keep: Any

    def __post_init__(self) -> None:
        picture, keep = as_picture(self.picture), torch.as_tensor(self.keep)
        if keep.ndim == 3 and keep.shape[0] == 1:
            keep = keep[0]
        if keep.shape != picture.shape[1:]:
            raise RequestError(
                f"a mask of shape {tuple(keep.shape)} for a picture of shape {tuple(picture.shape)}",
                f"one value for each pixel, {tuple(picture.shape[1:])}",
            )
        if keep.dtype != torch.bool and not bool(((keep == 0) | (keep == 1)).all()):
            raise RequestError(f"a mask of {keep.dtype} with values beside 0 and 1", "True where known", "mask > 0.5")
        keep = keep.bool()
        if not keep.any() or keep.all():
            got = "a mask that is nowhere True" if not keep.any() else "a mask that is True everywhere"
            raise RequestError(got, "True where the picture is known, False where it is to be painted")
        object.__setattr__(self, "picture", picture)
        object.__setattr__(self, "keep", keep)

    def mend(self, take: Tensor) -> Tensor:
        """The picture itself where it is known, and `take` [C, H, W] elsewhere."""
        if take.shape != self.picture.shape:
            raise RequestError(f"a picture of shape {tuple(take.shape)}", f"{tuple(self.picture.shape)}")
        return torch.where(self.keep, self.picture, take)


def without(picture: Tensor, top: int, left: int, bottom: int, right: int) -> Masked:
    """The picture without the rows `top` to `bottom` - 1 of the columns `left` to `right` - 1.

    Raises:
        RequestError: a hole that is empty or not inside the picture.
    """
    picture = as_picture(picture)
    height, width = picture.shape[1:]
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise RequestError(
            f"a hole from ({top}, {left}) to ({bottom}, {right}) in a picture of {height} rows, {width} columns",
            f"0 <= top < bottom <= {height} and 0 <= left < right <= {width}",
        )
    keep = torch.ones(height, width, dtype=torch.bool)
    keep[top:bottom, left:right] = False
    return Masked(picture, keep)
