"""Where pictures come from. A source lists every file it could not use, with the reason.

Every split is disjoint from the other: data sets with an official split keep it; `Digits` is cut by a fixed
permutation; `Folder` and `Arrays` without one decide by a hash of each picture's bytes, so equal pictures never
end up on both sides and adding files moves none.
"""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendiff.domain import Example, Examples, Rejected, Source, data_file, data_root
from gendiff.errors import DataError, RequestError, nearest
from gendiff_images.io import SUFFIXES, fit_square, from_bytes, open_image

SPLITS = ("train", "test")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEN = tuple("0123456789")


@dataclass(frozen=True)
class Look:
    """What the pictures of a source look like: side in pixels, channels, and class names (may be empty)."""

    size: int
    channels: int
    classes: tuple[str, ...]


class PictureSource(Source):
    """A source of pictures."""

    @abstractmethod
    def look(self, root: Path | None = None) -> Look:
        """Size, channels and classes; opens files only where nothing else can tell."""


def check_split(split: str) -> str:
    """`split` itself, or a RequestError naming the nearest one."""
    if split not in SPLITS:
        raise RequestError(f"split {split!r}", f'"train" or "test".{nearest(split, SPLITS)}')
    return split


def _open_npz(path: Path) -> np.lib.npyio.NpzFile:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: not readable ({e})", "a NumPy .npz file without pickles") from e


def _examples(pictures: Tensor, labels: np.ndarray | None, name: str, rejected: Iterable[Rejected] = ()) -> Examples:
    """Pictures [N, C, H, W] and their labels as examples called name/number."""
    known = [{} for _ in pictures] if labels is None else [{"label": int(v)} for v in labels]
    return Examples(
        [Example(p, cond, f"{name}/{i}") for i, (p, cond) in enumerate(zip(pictures, known, strict=True))],
        rejected=list(rejected),
    )


def _grey(values: np.ndarray) -> Tensor:
    """uint8 [N, H, W] to [N, 1, H, W] in [0, 1]."""
    return torch.from_numpy(values)[:, None].to(torch.float32) / 255


@dataclass(frozen=True)
class Digits(PictureSource):
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, 17 levels; needs no file. 1,500 train, 297 test."""

    def look(self, root: Path | None = None) -> Look:
        return Look(8, 1, TEN)

    def load(self, split: str, root: Path | None = None) -> Examples:
        from sklearn.datasets import load_digits

        check_split(split)
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(20240601).permutation(len(x))
        pick = np.sort(order[:1500] if split == "train" else order[1500:])
        pictures = torch.from_numpy(x[pick].reshape(-1, 1, 8, 8) / 16).to(torch.float32)
        return _examples(pictures, y[pick], f"digits/{split}")

    def describe(self) -> str:
        return "UCI optical digits as embedded in scikit-learn: 1,797 of 8x8 grey, cut once into 1,500 and 297."


@dataclass(frozen=True)
class MNIST(PictureSource):
    """MNIST, 28x28 grey, from images/mnist.npz (x_train, y_train, x_test, y_test; uint8)."""

    def look(self, root: Path | None = None) -> Look:
        return Look(28, 1, TEN)

    def load(self, split: str, root: Path | None = None) -> Examples:
        where = "MNIST (LeCun, Cortes, Burges) as arrays x_train, y_train, x_test, y_test"
        with _open_npz(data_file("images/mnist.npz", root, where)) as z:
            return _examples(_grey(z[f"x_{check_split(split)}"]), z[f"y_{split}"], f"mnist/{split}")

    def describe(self) -> str:
        return "MNIST (LeCun et al. 1998): handwritten digits, 28x28 grey, official split."


@dataclass(frozen=True)
class Fashion(PictureSource):
    """Fashion-MNIST, 28x28 grey, from images/fashion.npz (x_train, y_train, x_test, y_test; uint8)."""

    def look(self, root: Path | None = None) -> Look:
        return Look(28, 1, FASHION)

    def load(self, split: str, root: Path | None = None) -> Examples:
        where = "Fashion-MNIST (github.com/zalandoresearch/fashion-mnist) as arrays x_train, y_train, x_test, y_test"
        with _open_npz(data_file("images/fashion.npz", root, where)) as z:
            return _examples(_grey(z[f"x_{check_split(split)}"]), z[f"y_{split}"], f"fashion/{split}")

    def describe(self) -> str:
        return "Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): clothes, 28x28 grey, official split."


@dataclass(frozen=True)
class CIFAR10(PictureSource):
    """CIFAR-10, 32x32 RGB, from images/cifar10_jpeg_{train,test}.npz (jpeg, offset, y).

    The pictures went through JPEG (4:2:0), so distances are not comparable with published ones.
    """

    def look(self, root: Path | None = None) -> Look:
        return Look(32, 3, CIFAR10_CLASSES)

    def load(self, split: str, root: Path | None = None) -> Examples:
        where = "CIFAR-10 (Krizhevsky 2009) as JPEG files end to end: arrays jpeg, offset, y"
        with _open_npz(data_file(f"images/cifar10_jpeg_{check_split(split)}.npz", root, where)) as z:
            data, offset, y = z["jpeg"], z["offset"], z["y"]
        pictures, labels, rejected = [], [], []
        for i, (start, stop) in enumerate(pairwise(offset)):
            try:
                image = open_image(io.BytesIO(data[start:stop].tobytes()), channels=3)
                if image.size != (32, 32):
                    raise DataError(f"wrong size {image.size[0]}x{image.size[1]}", "32x32")
            except DataError as e:
                rejected.append(Rejected(f"cifar10/{split}/{i}", e.got))
            else:
                pictures.append(np.asarray(image))
                labels.append(y[i])
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
        return _examples(x, np.array(labels), f"cifar10/{split}", rejected)

    def describe(self) -> str:
        return "CIFAR-10 (Krizhevsky 2009), 32x32 RGB as JPEG, official split; not comparable with published distances."


def _is_test(content: bytes, share: float) -> bool:
    """Whether a picture with these bytes belongs to the test split."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") < share * 2**64


def _not_empty(examples: Examples, split: str, where: str, share: float) -> Examples:
    if not len(examples):
        raise DataError(
            f"{where}: no usable picture in the {split} split ({len(examples.rejected)} files rejected)",
            f"pictures on both sides of a test share of {share}",
            "Add pictures, or change test_share" + (": " + examples.report() if examples.rejected else ""),
        )
    return examples


@dataclass(frozen=True)
class Folder(PictureSource):
    """PNG, JPEG, BMP and WebP files in a folder; sub-folders, if any, are classes named after them.

    Each picture is cut to its middle square and resized. Files that are no pictures,
    corrupt, truncated, of a wrong mode or smaller than `size`, and files beside class folders, are rejected.

    Args:
        path: the folder; relative paths start at the data root if they exist there.
        size: side in pixels.
        channels: 1 for grey, 3 for RGB.
        test_share: of the pictures, by a hash of their bytes.
    """

    path: str
    size: int
    channels: int = 3
    test_share: float = 0.1

    def _home(self, root: Path | None) -> Path:
        here = Path(self.path).expanduser()
        if not here.is_absolute() and not here.is_dir():
            here = data_root(root) / here
        if not here.is_dir():
            raise DataError(f"no folder {here}", "a folder of pictures", f"Folder({str(here)!r}, size={self.size})")
        return here

    def _classes(self, home: Path) -> tuple[str, ...]:
        folders = (p for p in home.iterdir() if p.is_dir() and not p.name.startswith("."))
        return tuple(sorted(p.name for p in folders if any(q.is_file() for q in p.rglob("*"))))

    def look(self, root: Path | None = None) -> Look:
        return Look(self.size, self.channels, self._classes(self._home(root)))

    def load(self, split: str, root: Path | None = None) -> Examples:
        check_split(split)
        home = self._home(root)
        classes = self._classes(home)
        items: list[Example] = []
        rejected: list[Rejected] = []
        files = sorted(p for p in home.rglob("*") if p.is_file())
        if not files:
            raise DataError(f"{home} is empty", "PNG or JPEG files, in one sub-folder per class or in none")
        for file in files:
            name = file.relative_to(home)
            try:
                label = self._label(name, classes)
                content = file.read_bytes()
                if _is_test(content, self.test_share) != (split == "test"):
                    continue
                image = fit_square(open_image(file, channels=self.channels), self.size)
            except DataError as e:
                rejected.append(Rejected(name.as_posix(), e.got))
            else:
                items.append(Example(from_bytes(np.asarray(image)), label, name.as_posix()))
        return _not_empty(Examples(items, rejected=rejected), split, str(home), self.test_share)

    @staticmethod
    def _label(name: Path, classes: tuple[str, ...]) -> dict[str, int | float]:
        """The label of a file by its place, or a DataError why it cannot be used."""
        if any(part.startswith(".") for part in name.parts):
            raise DataError("hidden file")
        if name.suffix.lower() not in SUFFIXES:
            raise DataError(f"not a picture ({name.suffix or 'no suffix'})")
        if not classes:
            return {}
        if len(name.parts) < 2:
            raise DataError("no class: the file lies beside the class folders")
        return {"label": classes.index(name.parts[0])}

    def describe(self) -> str:
        kind = "grey" if self.channels == 1 else "RGB"
        return f"Pictures in {self.path}, cut to squares, {self.size}x{self.size} {kind}; sub-folders are classes."


@dataclass(frozen=True)
class Arrays(PictureSource):
    """Pictures in one .npz file.

    Either `x_train`, `x_test` (and `y_train`, `y_test`), or `x` (and `y`), cut by a hash of each picture's bytes.
    Pictures are uint8, or floats in [0, 1], [N, H, W] or [N, H, W, C]; labels are integers from 0; `classes` may name
    them. Nothing is unpickled.

    Args:
        path: the file; relative paths start at the data root if they exist there.
        test_share: of the pictures, where the file has no split of its own.
    """

    path: str
    test_share: float = 0.1

    def _file(self, root: Path | None) -> Path:
        here = Path(self.path).expanduser()
        return here if here.is_file() else data_file(self.path, root, "pictures as arrays x, or x_train and x_test")

    def look(self, root: Path | None = None) -> Look:
        path = self._file(root)
        with _open_npz(path) as z:
            key = "x_train" if "x_train" in z.files else "x"
            shape = _array(z, key, path).shape
            labels = z["y" + key[1:]] if "y" + key[1:] in z.files else None
            names = tuple(str(v) for v in z["classes"]) if "classes" in z.files else ()
        if labels is not None and not names:
            names = tuple(str(v) for v in range(int(labels.max()) + 1))
        return Look(shape[1], shape[3] if len(shape) == 4 else 1, names if labels is not None else ())

    def load(self, split: str, root: Path | None = None) -> Examples:
        path = self._file(root)
        with _open_npz(path) as z:
            own = "x_train" in z.files
            suffix = f"_{check_split(split)}" if own else ""
            x = _array(z, "x" + suffix, path)
            y = z["y" + suffix] if "y" + suffix in z.files else None
        if y is not None and len(y) != len(x):
            raise DataError(f"{path}: {len(x)} pictures and {len(y)} labels", "one label for each picture")
        items: list[Example] = []
        rejected: list[Rejected] = []
        for i, values in self._mine(x, split, own):
            name = f"{path.name}/{i}"
            if not (values.dtype == np.uint8 or (np.isfinite(values).all() and 0 <= values.min() <= values.max() <= 1)):
                rejected.append(
                    Rejected(name, "not finite" if not np.isfinite(values).all() else "values outside [0, 1]")
                )
                continue
            values = values[..., None] if values.ndim == 2 else values
            picture = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).to(torch.float32)
            picture = picture / 255 if values.dtype == np.uint8 else picture
            items.append(Example(picture, {} if y is None else {"label": int(y[i])}, name))
        return _not_empty(Examples(items, rejected=rejected), split, str(path), self.test_share)

    def _mine(self, x: np.ndarray, split: str, own: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Number and values of the pictures of this split."""
        for i, values in enumerate(x):
            if own or _is_test(values.tobytes(), self.test_share) == (split == "test"):
                yield i, values

    def describe(self) -> str:
        return f"Pictures in the arrays of {self.path}."


def _array(z: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    """The pictures under `key`, their layout checked."""
    if key not in z.files:
        raise DataError(f"{path}: arrays {sorted(z.files)}", f"an array {key!r} of pictures")
    x = z[key]
    square = x.ndim in (3, 4) and x.shape[1] == x.shape[2] and (x.ndim == 3 or x.shape[3] in (1, 3))
    if not square or not len(x) or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        raise DataError(
            f"{path}: {key} is {x.dtype} {x.shape}",
            "uint8 or floats in [0, 1], [N, H, H] or [N, H, H, C] with C = 1 or 3",
        )
    return x


def pictures_of(examples: Sequence[Example]) -> list[Tensor]:
    """The pictures alone."""
    return [e.artifact for e in examples]


def labels_of(examples: Sequence[Example]) -> list[int]:
    """The labels alone.

    Raises:
        DataError: an example has none.
    """
    bare = [e.name for e in examples if "label" not in e.cond]
    if bare:
        raise DataError(f"{len(bare)} pictures without a label, the first is {bare[0]}", "a labelled data set")
    return [int(e.cond["label"]) for e in examples]
