"""Pictures in files: a picture is a float32 tensor [C, H, W] in [0, 1], C = 1 (grey) or 3 (RGB).

Writing rounds to 8 bits, v -> round(255 v) / 255, so write and read agree within 1/510 and a second round trip is
exact.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import DataError, RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def as_picture(values: object, *, channels: int | None = None) -> Tensor:
    """Check a picture: any float array [C, H, W] (or [H, W]) in [0, 1], to a float32 tensor [C, H, W].

    Raises:
        RequestError: another shape, integers, non-finite values, or values outside [0, 1].
    """
    x = torch.as_tensor(values)  # pyright: ignore[reportArgumentType]
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or x.shape[0] not in (1, 3) or (channels is not None and x.shape[0] != channels):
        wanted = "1 or 3" if channels is None else str(channels)
        fix = "Move the channels first: picture.permute(2, 0, 1)" if x.ndim == 3 and x.shape[-1] in (1, 3) else ""
        raise RequestError(f"a picture of shape {tuple(x.shape)}", f"[C, H, W] with C = {wanted}", fix)
    if not x.is_floating_point():
        raise RequestError(f"a picture of {x.dtype}", "floats in [0, 1]", "picture.float() / 255")
    x = x.to(torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise RequestError("a picture with non-finite values", "floats in [0, 1]")
    low, high = x.aminmax()
    if low < -1e-6 or high > 1 + 1e-6:
        raise RequestError(
            f"a picture with values from {low:.3g} to {high:.3g}", "floats in [0, 1]", "picture.clamp(0, 1)"
        )
    return x


def to_bytes(picture: Tensor) -> np.ndarray:
    """A picture [C, H, W] in [0, 1] to uint8 [H, W] (grey) or [H, W, 3]."""
    x = (as_picture(picture) * 255).round().to(torch.uint8).numpy()
    return x[0] if x.shape[0] == 1 else np.ascontiguousarray(x.transpose(1, 2, 0))


def from_bytes(values: np.ndarray) -> Tensor:
    """uint8 [H, W] or [H, W, C] to a picture [C, H, W] in [0, 1]."""
    values = values[..., None] if values.ndim == 2 else values
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32)) / 255


def open_image(file: Path | str | BytesIO, *, channels: int) -> Image:
    """A file as an 8-bit PIL image, "L" (one channel) or "RGB" (three); orientation applied, alpha laid on white.

    Raises:
        DataError: the bare reason: corrupt, truncated, several frames, or a mode that would lose what it means
            (CMYK, 16 bits, floats).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise DataError(f"{frames} frames", "one picture")
            if image.mode not in _MODES:
                raise DataError(f"wrong mode {image.mode}", "8 bits of grey, RGB or RGBA", "Convert the file to RGB")
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert({1: "L", 3: "RGB"}[channels])
    except FileNotFoundError as e:
        raise DataError("no such file", "a picture") from e
    except UnidentifiedImageError as e:
        raise DataError("corrupt", "a PNG, JPEG, BMP or WebP file") from e
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        word = "truncated" if any(part in str(e) for part in ("truncated", "end of", "incomplete")) else "corrupt"
        raise DataError(f"{word} ({e})", "a complete PNG, JPEG, BMP or WebP file") from e


def fit_square(image: Image, size: int) -> Image:
    """Cut the middle square and resize it to size x size.

    Raises:
        DataError: the shorter side is below `size`.
    """
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    if side < size:
        raise DataError(f"too small ({width}x{height})", f"at least {size} pixels on the shorter side")
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.LANCZOS)


def read(path: Path | str, *, channels: int = 3, size: int | None = None) -> Tensor:
    """Read one picture.

    Args:
        path: PNG, JPEG, BMP or WebP.
        channels: 1 for grey, 3 for RGB.
        size: cut to the middle square and resize to this; None keeps the file's size.

    Returns:
        float32 [C, H, W] in [0, 1].

    Raises:
        DataError: as `open_image`, or the picture is smaller than `size`.
    """
    try:
        image = open_image(path, channels=channels)
        image = image if size is None else fit_square(image, size)
    except DataError as e:
        raise DataError(f"{path}: {e.got}", e.expected, e.fix) from e
    return from_bytes(np.asarray(image))


def write(picture: Tensor, path: Path | str) -> None:
    """Write a picture [C, H, W] in [0, 1] as PNG (lossless, 8 bits).

    Raises:
        RequestError: a path that does not end in .png, or not a picture.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise RequestError(
            f"write(..., {path.name!r})", "a name that ends in .png", f"{path.with_suffix('.png').name!r}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_bytes(picture)).save(path)
