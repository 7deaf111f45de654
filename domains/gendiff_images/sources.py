"""Where pictures come from. A source lists every file it could not use, with the reason, and every file beside the
pictures that is none: read + rejected + others are all files.

Pictures are read when they are asked for, into 8 bits where the file has 8, and remembered up to 64 MiB; what an array
in a file holds unpacked stays on the disk. They become float32 one at a time.

Every split is disjoint from the other: data sets with an official split keep it; `Digits` is cut by a fixed
permutation; `Folder` and `Arrays` without one decide by a hash of each picture's bytes, so equal pictures never
end up on both sides and adding files moves none.
"""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from gendiff.conditions import Condition, Said, said_of
from gendiff.domain import Example, Examples, Made, Rejected, Source, data_file, data_root
from gendiff.errors import DataError, RequestError, nearest, printable
from gendiff.files import Arrays as Npz
from gendiff.files import Stamp, check_stamp, composed, folder_files, listed_name, open_arrays, read_rows, stamp
from gendiff.lazy import Kept, Lazy
from gendiff_images.io import FITS, SUFFIXES, check_size, fit_image, from_values, image_values, open_image

SPLITS = ("train", "test")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEN = tuple("0123456789")


@dataclass(frozen=True)
class Look:
    """What the pictures of a source look like: side in pixels or (height, width), channels, class names (may be empty),
    and what else may be asked.
    """

    size: int | tuple[int, int]
    channels: int
    classes: tuple[str, ...]
    asked: Mapping[str, Condition] = field(default_factory=dict)


class PictureSource(Source):
    """A source of pictures."""

    fit = "crop"  # how a picture of another shape comes to the size of this source

    @abstractmethod
    def look(self, root: Path | None = None) -> Look:
        """Size, channels and classes; opens files only where nothing else can tell."""


def check_split(split: str) -> str:
    """`split` itself, or a RequestError naming the nearest one."""
    if split not in SPLITS:
        raise RequestError(f"split {split!r}", f'"train" or "test".{nearest(split, SPLITS)}')
    return split


class Pictures(Made):
    """Pictures with their names and conditions, each made a float32 tensor [C, H, W] when it is asked for.

    Args:
        values: of each picture [H, W] or [H, W, C]: uint8, or floats in [0, 1].
        cond: the conditions of each.
        names: of each.
    """

    def artifact(self, value: np.ndarray) -> Tensor:
        return from_values(value)


@dataclass(frozen=True)
class Packed:
    """From the bytes of a picture's file to its values, of a size where one is given."""

    channels: int
    size: tuple[int, int] | None = None

    def __call__(self, content: bytes) -> np.ndarray:
        image = open_image(io.BytesIO(content), channels=self.channels)
        if self.size not in (None, image.size):
            raise DataError(f"wrong size {image.size[0]}x{image.size[1]}", "{}x{}".format(*self.size or ()))
        return image_values(image, self.channels)


@dataclass(frozen=True)
class Opened:
    """From the name of a picture's file, with its stamp, to its values, brought to a size."""

    home: Path
    channels: int
    sides: tuple[int, int]
    fit: str

    def __call__(self, key: tuple[str, Stamp]) -> np.ndarray:
        name, known = key
        check_stamp(self.home / name, known)
        return image_values(
            fit_image(open_image(self.home / name, channels=self.channels), self.sides, self.fit), self.channels
        )


def those(values: Sequence[np.ndarray] | np.ndarray, which: Sequence[int]) -> Sequence[np.ndarray]:
    """Some of the values, of which none is made for it."""
    return (
        Lazy([values.keys[i] for i in which], values.make) if isinstance(values, Lazy) else [values[i] for i in which]
    )


def whole_labels(y: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels as integers, -1 where a value is no class: not a whole number, or below 0.

    Raises:
        DataError: not one number for each of `count` pictures.
    """
    if y.shape != (count,) or y.dtype.kind not in "iufb":
        raise DataError(f"{where}: {count} pictures and labels of {y.dtype} {y.shape}", f"{count} whole numbers from 0")
    good = np.isfinite(y) & (y >= 0) & (y < 2**31) & (y == np.floor(y)) if y.dtype.kind == "f" else (y >= 0)
    good &= y < 2**31
    return np.where(good, np.where(good, y, 0).astype(np.int64), -1)


def _examples(
    values: Sequence[np.ndarray] | np.ndarray,
    labels: np.ndarray | None,
    name: str,
    classes: int,
    bad: Mapping[int, str] | None = None,
) -> Examples:
    """Pictures and their labels as examples called name/number; a label that is no class is a rejection, as is what
    `bad` says of a number.
    """
    bad = dict(bad or {})
    if labels is not None:
        whole = whole_labels(labels, len(values), name)
        for i in np.flatnonzero((whole < 0) | (whole >= classes)):
            bad.setdefault(int(i), f"label {labels[i]} is not a class from 0 to {classes - 1}")
        labels = whole
    keep = [i for i in range(len(values)) if i not in bad]
    pictures = Pictures(
        values if not bad else those(values, keep),
        [{} if labels is None else {"label": int(labels[i])} for i in keep],
        [f"{name}/{i}" for i in keep],
    )
    return Examples(pictures, [Rejected(f"{name}/{i}", why) for i, why in sorted(bad.items())])


def _grey(z: Npz, split: str, name: str) -> Examples:
    """The arrays x_split uint8 [N, 28, 28] and y_split of a file as examples.

    Raises:
        DataError: arrays of another shape or type.
    """
    x, y = z[f"x_{split}"], z[f"y_{split}"]
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != (28, 28):
        raise DataError(f"{z.path}: x_{split} is {x.dtype} {x.shape}", "uint8 [N, 28, 28]")
    return _examples(x, y, f"{name}/{split}", 10)


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
        return _examples((x[pick].reshape(-1, 8, 8) / 16).astype(np.float32), y[pick], f"digits/{split}", 10)

    def describe(self) -> str:
        return "UCI optical digits as embedded in scikit-learn: 1,797 of 8x8 grey, cut once into 1,500 and 297."


@dataclass(frozen=True)
class MNIST(PictureSource):
    """MNIST, 28x28 grey, from images/mnist.npz (x_train, y_train, x_test, y_test; uint8)."""

    def look(self, root: Path | None = None) -> Look:
        return Look(28, 1, TEN)

    def load(self, split: str, root: Path | None = None) -> Examples:
        where = "MNIST (LeCun, Cortes, Burges) as arrays x_train, y_train, x_test, y_test"
        check_split(split)
        with open_arrays(data_file("images/mnist.npz", root, where)) as z:
            return _grey(z, split, "mnist")

    def describe(self) -> str:
        return "MNIST (LeCun et al. 1998): handwritten digits, 28x28 grey, official split."


@dataclass(frozen=True)
class Fashion(PictureSource):
    """Fashion-MNIST, 28x28 grey, from images/fashion.npz (x_train, y_train, x_test, y_test; uint8)."""

    def look(self, root: Path | None = None) -> Look:
        return Look(28, 1, FASHION)

    def load(self, split: str, root: Path | None = None) -> Examples:
        where = "Fashion-MNIST (github.com/zalandoresearch/fashion-mnist) as arrays x_train, y_train, x_test, y_test"
        check_split(split)
        with open_arrays(data_file("images/fashion.npz", root, where)) as z:
            return _grey(z, split, "fashion")

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
        with open_arrays(data_file(f"images/cifar10_jpeg_{check_split(split)}.npz", root, where)) as z:
            data, offset, y, path = z["jpeg"], z["offset"], z["y"], z.path
        steps = np.diff(offset.astype(np.int64)) if offset.ndim == 1 and offset.dtype.kind in "iu" else np.array([-1])
        fits = len(offset) > 1 and (steps >= 0).all() and offset[0] == 0 and offset[-1] == len(data)
        if data.dtype != np.uint8 or data.ndim != 1 or not fits or len(y) != len(steps):
            raise DataError(
                f"{path}: jpeg {data.dtype} {data.shape}, offset {offset.dtype} {offset.shape}, y {y.shape}",
                "bytes, rising offsets that begin at 0 and end at their number, and a label for each picture",
            )
        values, bad = Lazy([data[a:b].tobytes() for a, b in pairwise(offset)], Kept(Packed(3, (32, 32)))), {}
        for i in range(len(y)):
            try:
                values[i]
            except DataError as e:
                bad[i] = e.got
        return _examples(values, y, f"cifar10/{split}", 10, bad)

    def describe(self) -> str:
        return "CIFAR-10 (Krizhevsky 2009), 32x32 RGB as JPEG, official split; not comparable with published distances."


def _is_test(content: bytes, share: float) -> bool:
    """Whether a picture with these bytes belongs to the test split."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") < share * 2**64


def _not_empty(examples: Examples, split: str, where: str, share: float) -> Examples:
    if not len(examples):
        if examples.rejected:
            raise DataError(
                f"{where}: no usable picture in the {split} split ({len(examples.rejected)} files rejected)",
                "Pictures that can be read and are at least as large as the domain's size",
                "Mend or add pictures, or choose a smaller size: " + examples.report(),
            )
        raise DataError(
            f"{where}: no picture in the {split} split", f"pictures on both sides of a test share of {share}",
            "Add pictures, or change test_share",
        )  # fmt: skip
    return examples


@dataclass(frozen=True)
class Folder(PictureSource):
    """PNG, JPEG, GIF, TIFF, BMP and WebP files below a folder, with or without classes.

    Classes are the sub-folders of `path` (the first folder of "cat/tabby/1.png" is its class, "cat"; with
    `labelled_by="parent"` the last, "tabby"), or the values of a column of a table. Pictures that are corrupt,
    truncated, too large to be opened, smaller than `size`, or without a class, are rejected; files of other kinds
    (captions, tables, notes) are listed as others.

    Args:
        path: the folder; relative paths start at the data root if they exist there.
        size: side in pixels, or (height, width).
        channels: 1 for grey, 3 for RGB.
        test_share: of the pictures, by a hash of their bytes.
        fit: how a picture comes to its size: "crop" cuts the middle, "pad" lays it on white, "stretch" ignores its
            shape.
        manifest: a CSV table with the columns path (below the folder) and `column`; "" takes classes from folders.
        column: of the table: the class of each picture.
        labelled_by: "top" or "parent": which folder of a picture's place names its class; "" for no classes.
        captions: "txt" takes the text NAME.txt beside each picture; else a CSV table with the columns path and caption;
            "" for none. A picture without a caption stays: nothing is asked of it.
        table: a CSV or JSONL table with the column path, of which every other column is a condition: numbers, classes
            or texts, as `gendiff.conditions.columns` decides; "txt" is captions="txt".
        asks: columns of it that are wanted, "pitch" or "pitch:number"; all by default.

    Raises:
        RequestError: a size, channels, share, fit or labelled_by that cannot be.
    """

    path: str
    size: int | tuple[int, int]
    channels: int = 3
    test_share: float = 0.1
    fit: str = "crop"
    manifest: str = ""
    column: str = "label"
    labelled_by: str = "top"
    captions: str = ""
    table: str = ""
    asks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_size(self.size, "Folder")
        for name, value, options in (
            ("channels", self.channels, (1, 3)),
            ("fit", self.fit, FITS),
            ("labelled_by", self.labelled_by, ("top", "parent", "")),
        ):
            if value not in options:
                raise RequestError(
                    f"Folder({name}={value!r})", f"one of {', '.join(map(repr, options))}.{nearest(value, options)}"
                )
        if not 0 <= self.test_share <= 1:
            raise RequestError(f"Folder(test_share={self.test_share!r})", "a share from 0 to 1", "test_share=0.1")

    def _home(self, root: Path | None) -> Path:
        here = Path(self.path).expanduser()
        if not here.is_absolute() and not here.is_dir():
            here = data_root(root) / here
        if not here.is_dir():
            raise DataError(f"no folder {here}", "a folder of pictures", f"Folder({str(here)!r}, size={self.size})")
        return here

    def _labels(self, home: Path, names: Sequence[PurePosixPath]) -> dict[str, str]:
        """The class of each picture that has one, by its name.

        Raises:
            DataError: a table without its columns, with an empty class, or with two classes for one picture.
        """
        if self.manifest:
            return self._listed(home, self.manifest, self.column)
        if self.labelled_by == "":
            return {}
        place = 0 if self.labelled_by == "top" else -2
        return {n.as_posix(): composed(n.parts[place]) for n in names if len(n.parts) > 1}

    def _table(self, home: Path, manifest: str, column: str) -> tuple[Path, list[dict[str, str]]]:
        table = next((p for p in (home / manifest, Path(manifest).expanduser()) if p.is_file()), None)
        if table is None:
            table = data_root(None) / manifest
        rows = read_rows(table)
        for needed in ("path", column):
            if needed not in rows[0]:
                have = ", ".join(rows[0])
                raise DataError(f"{table} has no column {needed!r}", f"it has {have}.{nearest(needed, rows[0])}")
        return table, rows

    def _listed(self, home: Path, manifest: str, column: str) -> dict[str, str]:
        """What a column of a table says of each picture, by its name."""
        table, rows = self._table(home, manifest, column)
        found: dict[str, str] = {}
        for number, row in enumerate(rows, 2):
            name, said = listed_name(row["path"], home, table), composed(row[column].strip())
            if not said:
                raise DataError(f"{table}, row {number} ({name}): an empty {column}", "the name of a class")
            if found.setdefault(name, said) != said:
                raise DataError(f"{table}, row {number}: {name} is {said!r} and {found[name]!r}", f"one {column} each")
        return found

    def _said(self, home: Path, names: Sequence[PurePosixPath], others: list[str]) -> Said:
        """What captions and the table say of each picture. Texts beside pictures are taken out of the other files.

        Raises:
            DataError: a table that cannot be, or one that says something that is said already.
        """
        every = [name.as_posix() for name in names]
        said = said_of(self.captions, home, every, "picture", asks=() if self.captions == "txt" else ("caption:text",))
        more = said_of(self.table, home, every, "picture", asks=self.asks)
        twice = next((name for name in more.conditions if name in said.conditions), None)
        if twice is not None:
            raise DataError(f"{self.table} and captions={self.captions!r} both say {twice!r}", "one of them")
        for name, own in more.values.items():
            said.values.setdefault(name, {}).update(own)
        if "txt" in (self.captions, self.table):
            others[:] = [name for name in others if not name.endswith(".txt")]
        return Said(
            said.conditions | more.conditions, said.values, said.rejected + more.rejected, said.notes + more.notes
        )

    def _scan(self, home: Path) -> tuple[list[PurePosixPath], list[Rejected], list[str]]:
        """The pictures below the folder by name, those that cannot be used, and the other files."""
        left: list[tuple[str, str]] = []
        others: list[str] = []
        names = [PurePosixPath(name) for name in folder_files(home, SUFFIXES, left, others)]
        hidden = {name for name in names if any(part.startswith(".") for part in name.parts)}
        left += [(name.as_posix(), "hidden file") for name in names if name in hidden]
        return [name for name in names if name not in hidden], [Rejected(*why) for why in left], others

    def _notes(self, home: Path, names: Sequence[PurePosixPath], apart: int) -> list[str]:
        """What to say of a training split: how many pictures are kept apart, and what is not used."""
        notes = [f"{apart} more are test pictures, to judge by"] if apart else []
        if not apart and self.test_share:
            notes = ["none is a test picture, so nothing can be judged: add pictures, or domain.source.test_share=0.3"]
        if self.manifest:
            rows = self._table(home, self.manifest, self.column)[1]
            used = {"path", self.column, *(["caption"] if self.captions == self.manifest else [])}
            unused = [name for name in rows[0] if name not in used]
            notes += [printable(f"columns of {self.manifest} not used: {', '.join(unused)}")] if unused else []
        elif self.labelled_by == "top":
            used = {name.parts[0] for name in names if len(name.parts) > 1}
            bare = sorted(p.name for p in home.iterdir() if p.is_dir() and p.name not in used and p.name[0] != ".")
            notes += [printable(f"no class, without a picture: {', '.join(bare[:8])}")] if bare else []
        return notes

    def look(self, root: Path | None = None) -> Look:
        home = self._home(root)
        names, _, others = self._scan(home)
        asked = self._said(home, names, others).conditions
        classes = () if "label" in asked else tuple(sorted(set(self._labels(home, names).values())))
        return Look(self.size, self.channels, classes, asked)

    def load(self, split: str, root: Path | None = None) -> Examples:
        check_split(split)
        home = self._home(root)
        names, rejected, others = self._scan(home)
        if not names and not rejected:
            found = f"; it has {len(others)} other files" if others else ""
            raise DataError(
                f"{home} has no pictures, there is no usable picture{found}" if others else f"{home} is empty",
                "PNG, JPEG, GIF, TIFF, BMP or WebP files, in one sub-folder per class or in none",
                f"{others[0]} is not a picture" if others else "",
            )
        said = self._said(home, names, others)
        labels = {} if "label" in said.conditions else self._labels(home, names)
        rejected += [Rejected(*why) for why in said.rejected]
        classes = sorted(set(labels.values()))
        listed = {name.as_posix() for name in names}
        rejected += [Rejected(n, "in the table, but not among the pictures") for n in labels if n not in listed]
        make = Kept(Opened(home, self.channels, check_size(self.size, "Folder"), self.fit))
        keys, cond, kept, apart = [], [], [], 0
        for name in (n.as_posix() for n in names):
            try:
                if classes and name not in labels:
                    raise DataError("no class: " + ("not in the table" if self.manifest else "beside class folders"))
                key = name, stamp(home / name)
                if _is_test((home / name).read_bytes(), self.test_share) != (split == "test"):
                    apart += 1
                    continue
                make(key)
            except DataError as e:
                rejected.append(Rejected(name, e.got))
            except OSError as e:
                rejected.append(Rejected(name, f"not readable ({e.strerror})"))
            else:
                own: dict[str, Any] = {"label": classes.index(labels[name])} if classes else {}
                cond.append({**own, **said.of(name)})
                kept.append(name)
                keys.append(key)
        notes = [*self._notes(home, names, apart), *said.notes] if split == "train" else []
        examples = Examples(Pictures(Lazy(keys, make), cond, kept), rejected=rejected, others=others, notes=notes)
        return _not_empty(examples, split, str(home), self.test_share)

    def describe(self) -> str:
        kind = "grey" if self.channels == 1 else "RGB"
        height, width = check_size(self.size, "Folder")
        done = {"crop": "their middle cut", "pad": "laid on white", "stretch": "stretched"}[self.fit]
        by = f"classes from {self.manifest}" if self.manifest else "sub-folders are classes"
        return f"Pictures in {self.path}, {done} to {width}x{height} {kind}; {by}."


@dataclass(frozen=True)
class Arrays(PictureSource):
    """Pictures in one .npz file.

    Either `x_train`, `x_test` (and `y_train`, `y_test`), or `x` (and `y`), cut by a hash of each picture's bytes.
    Pictures are uint8, or floats in [0, 1], [N, H, W] or [N, H, W, C]; labels are whole numbers from 0; `classes` may
    name them. A label that is none (-1, 1.5, above the last class) is a rejection. Nothing is unpickled.

    Args:
        path: the file; relative paths start at the data root if they exist there.
        test_share: of the pictures, where the file has no split of its own.
    """

    path: str
    test_share: float = 0.1

    def _file(self, root: Path | None) -> Path:
        here = Path(self.path).expanduser()
        return here if here.is_file() else data_file(self.path, root, "pictures as arrays x, or x_train and x_test")

    def _classes(self, z: Npz, key: str) -> tuple[str, ...]:
        """The names of the classes of the labels beside the pictures `key`; empty where there are none."""
        labels = "y" + key[1:]
        if labels not in z:
            return ()
        if "classes" in z:
            names = z["classes"]
            if names.ndim != 1 or names.dtype.kind not in "US" or not 1 <= len(names) <= 100_000:
                raise DataError(f"{z.path}: classes is {names.dtype} {names.shape}", "a list of names")
            return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in names)
        whole = whole_labels(z[labels], len(z[labels]), f"{z.path}: {labels}")
        if whole.max(initial=-1) < 0 or whole.max() >= 100_000:
            raise DataError(f"{z.path}: {labels} with the highest label {whole.max(initial=-1)}", "0 to 99,999")
        return tuple(str(v) for v in range(int(whole.max()) + 1))

    def look(self, root: Path | None = None) -> Look:
        path = self._file(root)
        with open_arrays(path) as z:
            key = "x_train" if "x_train" in z else "x"
            shape = check_pictures(path, key, *z.shape(key))
            names = self._classes(z, key)
        sides = shape[1] if shape[1] == shape[2] else (shape[1], shape[2])
        return Look(sides, shape[3] if len(shape) == 4 else 1, names)

    def load(self, split: str, root: Path | None = None) -> Examples:
        check_split(split)
        path = self._file(root)
        with open_arrays(path) as z:
            own = "x_train" in z
            suffix = f"_{split}" if own else ""
            check_pictures(path, "x" + suffix, *z.shape("x" + suffix))
            x = z.mapped("x" + suffix)
            y = z.get("y" + suffix)
            classes = len(self._classes(z, "x_train" if own else "x"))
        if y is not None and len(y) != len(x):
            raise DataError(f"{path}: {len(x)} pictures and {len(y)} labels", "one label for each picture")
        bad = {}
        if x.dtype != np.uint8:
            for i, values in enumerate(x):
                if not np.isfinite(values).all():
                    bad[i] = "not finite"
                elif not 0 <= values.min() <= values.max() <= 1:
                    bad[i] = "values outside [0, 1]"
        examples = _examples(x, y, path.name, classes, bad)
        if not own:
            test = split == "test"
            mine = [_is_test(values.tobytes(), self.test_share) == test for values in x]
            examples = chosen(examples, {f"{path.name}/{i}" for i, yes in enumerate(mine) if yes})
        return _not_empty(examples, split, str(path), self.test_share)

    def describe(self) -> str:
        return f"Pictures in the arrays of {self.path}."


def chosen(examples: Examples, names: set[str]) -> Examples:
    """Those examples and rejections that have one of these names."""
    pictures = examples.items
    assert isinstance(pictures, Pictures)
    keep = [i for i, name in enumerate(pictures.names) if name in names]
    values, cond = those(pictures.values, keep), [pictures.cond[i] for i in keep]
    kept = Pictures(values, cond, [pictures.names[i] for i in keep])
    return Examples(kept, [r for r in examples.rejected if r.name in names])


def check_pictures(path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """The shape of an array of pictures, checked.

    Raises:
        DataError: another layout or type.
    """
    layout = len(shape) in (3, 4) and all(shape) and max(shape[1:3]) <= 16384 and (*shape, 1)[3] in (1, 3)
    if not layout or not (dtype == np.uint8 or dtype.kind == "f"):
        raise DataError(
            f"{path}: {key} is {dtype} {shape}", "uint8 or floats in [0, 1], [N, H, W] or [N, H, W, C] with C = 1 or 3"
        )
    return shape


def labels_of(examples: Sequence[Example]) -> list[int]:
    """The labels alone.

    Raises:
        DataError: an example has none.
    """
    if isinstance(examples, Examples) and isinstance(examples.items, Pictures):
        pairs = list(zip(examples.items.names, examples.items.cond, strict=True))
    else:
        pairs = [(e.name, e.cond) for e in examples]
    bare = [name for name, cond in pairs if "label" not in cond]
    if bare:
        raise DataError(f"{len(bare)} pictures without a label, the first is {bare[0]}", "a labelled data set")
    return [int(cond["label"]) for _, cond in pairs]
