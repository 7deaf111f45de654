"""Pictures in files: a picture is a float32 tensor [C, H, W] in [0, 1], C = 1 (grey) or 3 (RGB).

Reading takes PNG, JPEG, GIF, TIFF, BMP and WebP: n bits v become v / (2^n - 1), of which grey keeps all and colour 8;
CMYK, LAB and palettes become RGB, alpha is laid on white, the orientation a camera noted is applied, and of several
frames the first is taken. Where no depth says what white is (32 bits, signed numbers) only values that leave no doubt
are taken. Writing rounds to 8 bits, v -> round(255 v) / 255, so write and read agree within 1/510 in a lossless format,
and a second round trip is exact. Sizes are checked before anything is decoded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import DataError, RequestError, nearest
from gendiff.files import allowance

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "TIFF")
KINDS = "a PNG, JPEG, GIF, TIFF, BMP or WebP file"
WRITTEN: dict[str, dict[str, Any]] = {
    ".png": {},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True},
}
BITS, WHITE, SIGN = TAGS = (258, 262, 339)  # of TIFF: bits of a sample, what 0 means (0: white), format (2: signed)
FITS = ("crop", "pad", "stretch")
TIFF = (b"II*\0", b"MM\0*")
CUT = ("truncated", "end of", "incomplete", "eof", "not enough", "premature")
Fit: TypeAlias = Literal["crop", "pad", "stretch"]


def as_picture(values: object, *, channels: int | None = None) -> Tensor:
    """Check a picture: any float array [C, H, W] (or [H, W]) in [0, 1], to a float32 tensor [C, H, W].

    Raises:
        RequestError: another shape, integers, non-finite values, or values outside [0, 1].
    """
    try:
        x = torch.as_tensor(values)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, RuntimeError) as e:
        raise RequestError(f"a picture of type {type(values).__name__}", "an array [C, H, W]", 'read("a.png")') from e
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or 0 in x.shape or x.shape[0] not in (1, 3) or (channels is not None and x.shape[0] != channels):
        wanted = "1 or 3" if channels is None else str(channels)
        fix = "Move the channels first: picture.permute(2, 0, 1)" if x.ndim == 3 and x.shape[-1] in (1, 3) else ""
        raise RequestError(f"a picture of shape {tuple(x.shape)}", f"[C, H, W] with C = {wanted}", fix)
    if not x.is_floating_point():
        raise RequestError(f"a picture of {x.dtype}", "floats in [0, 1]", "picture.float() / 255")
    x = x.to(torch.float32)
    low, high = map(float, x.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):  # as one that is not makes them
        raise RequestError("a picture with non-finite values", "floats in [0, 1]")
    if low < -1e-6 or high > 1 + 1e-6:
        raise RequestError(
            f"a picture with values from {low:.3g} to {high:.3g}", "floats in [0, 1]", "picture.clamp(0, 1)"
        )
    return x


def check_size(size: Any, owner: str) -> tuple[int, int]:
    """Height and width of `size`, one side or (height, width).

    Raises:
        RequestError: for anything but one or two whole numbers from 1 to 16384.
    """
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 16384 for n in sides)
    if len(sides) != 2 or not whole:
        raise RequestError(f"{owner}(size={size!r})", "a side in pixels, or (height, width)", f"{owner}(size=(64, 96))")
    return sides


def to_bytes(picture: Tensor) -> np.ndarray:
    """A picture [C, H, W] in [0, 1] to uint8 [H, W] (grey) or [H, W, 3]."""
    x = (as_picture(picture) * 255).round().to(torch.uint8).numpy()
    return x[0] if x.shape[0] == 1 else np.ascontiguousarray(x.transpose(1, 2, 0))


def from_values(values: np.ndarray) -> Tensor:
    """[H, W] or [H, W, C], uint8 from 0 to 255 or floats from 0 to 1, to a picture [C, H, W] in [0, 1]."""
    values = values[..., None] if values.ndim == 2 else values
    x = torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))
    return x / 255 if values.dtype == np.uint8 else x


def open_image(file: Path | str | BytesIO, *, channels: int) -> Image:
    """A file as a PIL image: "L" (one channel) or "RGB" (three) of 8 bits, or "F" from 0 to 1 for a grey one of more.

    Raises:
        DataError: the bare reason: no such file, corrupt, truncated, too large, or numbers of an unknown scale.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError
    from PIL.TiffImagePlugin import TiffImageFile

    try:  # from memory: of a turned TIFF that it maps from the disk, Pillow mixes up the rows
        data = file.getvalue() if isinstance(file, BytesIO) else Path(file).read_bytes()
    except FileNotFoundError as e:
        raise DataError("no such file", "a picture") from e
    except OSError as e:
        raise DataError(f"not readable ({e.strerror})", "a picture") from e
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                check_pixels(image, len(data))
                image.load()
                tags = {key: image.tag_v2.get(key) for key in TAGS} if isinstance(image, TiffImageFile) else {}
                image = ImageOps.exif_transpose(image)
                return convert(image, channels, tags)
    except DataError:
        raise
    except UnidentifiedImageError as e:
        raise DataError(unread(data), KINDS) from e
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise DataError("too large", f"at most {Image.MAX_IMAGE_PIXELS:,} pixels") from e
    except Exception as e:  # Pillow's parsers raise whatever a damaged file makes them trip over
        text = str(e).strip().partition("\n")[0] or type(e).__name__
        cut = is_cut(data) or any(part in text.lower() for part in CUT)
        raise DataError("truncated" if cut else f"corrupt ({text})", f"{KINDS} that is complete") from e


def unread(data: bytes) -> str:
    """Why Pillow knows nothing of these bytes."""
    if is_cut(data):
        return "truncated"
    if data[4:8] == b"ftyp":
        return "HEIC, AVIF or a film"
    return "corrupt, or a kind of TIFF that is not read" if data[:4] in TIFF else "corrupt"


def is_cut(data: bytes) -> bool:
    """Whether a JPEG, PNG, GIF, TIFF or WebP file lacks the mark that ends it, or what its beginning announces."""
    if data[:4] in TIFF:
        order = "little" if data[:1] == b"I" else "big"
        at = int.from_bytes(data[4:8], order)
        return at + 2 + 12 * int.from_bytes(data[at : at + 2], order) > len(data)
    if data[:4] == b"RIFF":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data[:4] == b"GIF8":
        return not data.rstrip(b"\0").endswith(b";")
    ends = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND"}
    end = next((end for begin, end in ends.items() if data.startswith(begin)), None)
    return end is not None and end not in data[-4096:]


def check_pixels(image: Image, size: int) -> None:
    """Refuses a picture whose pixels take more memory than a file of `size` bytes may unpack to."""
    width, height = image.size
    if 8 * width * height > allowance(size):
        raise DataError(f"too large ({width}x{height} in {size:,} bytes)", "a picture, not an empty canvas")


def convert(image: Image, channels: int, tags: Mapping[int, Any]) -> Image:
    """A decoded image to "L", "RGB", or "F" from 0 to 1 where it is grey and deeper than 8 bits; `tags` of a TIFF."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(deep_values(image, tags))
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if channels == 3 or image.mode == "LAB":
        image = image.convert("RGB")
    return image if channels == 3 else image.convert("L")


def deep_values(image: Image, tags: Mapping[int, Any]) -> np.ndarray:
    """The values, from 0 to 1, of a grey image of more than 8 bits.

    Raises:
        DataError: numbers of which nothing says what white is.
    """
    values = np.asarray(image).astype(np.float32)
    bits, signed = (tags.get(BITS) or (16,))[0], (tags.get(SIGN) or (1,))[0] == 2
    clear = image.info.get("transparency")
    hidden = values == clear if isinstance(clear, int) else np.zeros(values.shape, bool)
    if image.mode != "F":
        doubt = bits > 16 and values.size > 0 and values.max() <= 255
        values /= np.nan if doubt or (signed and bits <= 16) else 2 ** min(bits, 16) - 1
    if not (values.size and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        wanted = (
            "floats in [0, 1]" if image.mode == "F" else "integers from 0 to 65535, unsigned, that use more than 8 bits"
        )
        raise DataError(f"numbers of an unknown scale (mode {image.mode})", wanted, "Convert the file to 8 bits")
    values = 1 - values if tags.get(WHITE) == 0 else values
    return np.where(hidden, np.float32(1), values)


def fit_image(image: Image, size: tuple[int, int], how: str = "crop") -> Image:
    """Bring an image to (height, width): "crop" cuts the middle part of that shape and resizes it, "pad" resizes the
    whole and lays it on the middle of a white canvas, "stretch" resizes each side alone.

    Raises:
        DataError: an image that would have to be enlarged.
        RequestError: another word.
    """
    from PIL import Image

    if how not in FITS:
        raise RequestError(f"fit={how!r}", f"one of {', '.join(FITS)}.{nearest(how, FITS)}")
    (width, height), (H, W) = image.size, size
    scales = {"crop": max(H / height, W / width), "pad": min(H / height, W / width)}
    if scales.get(how, max(H / height, W / width)) > 1:
        raise DataError(f"too small ({width}x{height})", f"{W}x{H} without being enlarged")
    if how == "crop":
        w, h = min(width, round(W / scales["crop"])), min(height, round(H / scales["crop"]))
        left, top = (width - w) // 2, (height - h) // 2
        image = image.crop((left, top, left + w, top + h))
    if how == "pad":
        w, h = max(1, min(W, round(width * scales["pad"]))), max(1, min(H, round(height * scales["pad"])))
        canvas = Image.new(image.mode, (W, H), {"F": 1.0, "L": 255, "RGB": (255, 255, 255)}[image.mode])
        canvas.paste(image.resize((w, h), Image.Resampling.LANCZOS), ((W - w) // 2, (H - h) // 2))
        return canvas
    return image if image.size == (W, H) else image.resize((W, H), Image.Resampling.LANCZOS)


def image_values(image: Image, channels: int) -> np.ndarray:
    """An image of `open_image` to uint8 [H, W, channels], or float32 in [0, 1] where it is deeper than 8 bits."""
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    values = np.repeat(values, channels, -1) if values.shape[-1] < channels else values
    return values.clip(0, 1) if values.dtype == np.float32 else values


def read(
    path: Path | str, *, channels: int = 3, size: int | tuple[int, int] | None = None, fit: str = "crop"
) -> Tensor:
    """Read one picture.

    Args:
        path: PNG, JPEG, GIF (its first frame), TIFF, BMP or WebP.
        channels: 1 for grey, 3 for RGB.
        size: the side, or (height, width), it is brought to; None keeps the file's size.
        fit: "crop", "pad" or "stretch": see `fit_image`.

    Returns:
        float32 [C, H, W] in [0, 1].

    Raises:
        DataError: as `open_image`, or the picture is smaller than `size`.
    """
    try:
        image = open_image(path, channels=channels)
        image = image if size is None else fit_image(image, check_size(size, "read"), fit)
    except DataError as e:
        raise DataError(f"{path}: {e.got}", e.expected, e.fix) from e
    return from_values(image_values(image, channels))


def write(picture: Tensor, path: Path | str) -> None:
    """Write a picture [C, H, W] in [0, 1] with 8 bits: PNG and WebP without loss, JPEG at quality 95.

    Raises:
        RequestError: a path of another suffix, or not a picture.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise RequestError(
            f"write(..., {path.name!r})",
            f"a name that ends in {', '.join(WRITTEN)}",
            f"{path.with_suffix('.png').name!r}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_bytes(picture)).save(path, **WRITTEN[path.suffix.lower()])
