"""Where clips come from: sounds made on the fly, the Free Spoken Digit Dataset, or a person's own folder or archive.

Every file either becomes an example or is listed as rejected, with its reason.
"""

from __future__ import annotations

import csv
import hashlib
import io
from abc import abstractmethod
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gendiff.domain import Example, Examples, Rejected, Source, data_file, data_root, unsealed
from gendiff.errors import DataError, RequestError, nearest
from gendiff_audio.clip import AudioError
from gendiff_audio.io import members, read
from gendiff_audio.prepare import Prepare
from gendiff_audio.synthesis import SOUNDS, sound

Classes = tuple[tuple[str, tuple[str, ...]], ...]  # label name and its class names, in order
SPLITS = ("train", "test")


class ClipSource(Source):
    """A source of prepared clips, with labels."""

    prepare: Prepare

    @property
    @abstractmethod
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Class names of each label."""


@dataclass(frozen=True)
class Tones(ClipSource):
    """Plucked strings and sung vowels, synthesised: eight classes of `sound`, as many clips of each, 0.3 to 0.9 s long.

    Args:
        count: clips to train on; a fifth as many to test with, of other seeds.
        seed: another seed is another set.
        prepare: what is done to every clip, and the sample rate they are made at.
    """

    count: int = 800
    seed: int = 0
    prepare: Prepare = field(default_factory=Prepare)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {"sound": SOUNDS}

    def describe(self) -> str:
        return f"{self.count} synthesised sounds ({', '.join(SOUNDS)}); nothing is downloaded."

    def load(self, split: str, root: Path | None = None) -> Examples:
        """Clips by seed; `root` is not needed."""
        _check(split)
        first, count = (0, self.count) if split == "train" else (self.count, max(len(SOUNDS), self.count // 5))
        items = []
        for i in range(first, first + count):
            k = i % len(SOUNDS)
            clip = sound(SOUNDS[k], 1_000_003 * self.seed + i, sample_rate=self.prepare.sample_rate)
            items.append(Example(self.prepare(clip), {"sound": k}, f"{SOUNDS[k]}-{i}"))
        return Examples(items)


@dataclass(frozen=True)
class FSDD(ClipSource):
    """The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0): 3000 recordings at 8 kHz, ten digits by six
    speakers.

    Its official split tests on takes 0 to 4 of each digit and speaker, 300 in all.
    """

    prepare: Prepare = field(default_factory=Prepare)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {
            "digit": tuple("0123456789"),
            "speaker": ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"),
        }

    def describe(self) -> str:
        what = "3000 spoken digits, 6 speakers, 8 kHz"
        return f"The Free Spoken Digit Dataset: {what} (CC BY-SA 4.0, github.com/Jakobovski/free-spoken-digit-dataset)."

    def load(self, split: str, root: Path | None = None) -> Examples:
        """Clips of root/audio/fsdd.tar.gz as root/audio/fsdd_manifest.csv lists them.

        Raises:
            DataError: one of the two files is missing, or no file in it is usable.
        """
        _check(split)
        where = "github.com/Jakobovski/free-spoken-digit-dataset"
        archive = data_file("audio/fsdd.tar.gz", root, f"the recordings of {where}")
        manifest = data_file("audio/fsdd_manifest.csv", root, "a table with columns path, digit, speaker, split")
        rows = _rows(manifest)
        wanted = {row["path"]: row for row in rows if row["split"] == split}
        sounds = {name: data for name, data in members(archive) if name in wanted}
        return _examples(sounds, wanted, tuple(self.labels.items()), self.prepare, rejected=_absent(wanted, sounds))


@dataclass(frozen=True)
class Sounds(ClipSource):
    """A person's own sounds: WAV, FLAC, OGG or MP3 files below a folder or in a tar archive.

    Labels are the named columns of a CSV manifest (with a column `path`, and perhaps `split`), else the name of the
    sub-folder a file lies in. Without a column `split`, a tenth of the files is the test set, chosen by content:
    copies of a file are never in both. Copies within a split are rejected. The class names are found once and kept,
    so that a saved model knows them.

    Args:
        path: folder or tar archive; not absolute: below the data root.
        manifest: path of a CSV file, found in the same way; "" reads labels from sub-folders.
        columns: of the manifest, each a label.
        prepare: what is done to every clip.
        classes: label names and their class names; () looks for them in the files.

    Raises:
        DataError: no such files, or a manifest without the columns named.
    """

    path: str
    manifest: str = ""
    columns: tuple[str, ...] = ("label",)
    prepare: Prepare = field(default_factory=Prepare)
    classes: Classes = ()

    def __post_init__(self) -> None:
        if not self.classes:
            found = self._table(None)[0]
            names = {column: sorted({row[column] for row in found.values()}) for column in self.columns}
            object.__setattr__(self, "classes", tuple((name, tuple(values)) for name, values in names.items()))

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return dict(self.classes)

    def describe(self) -> str:
        what = "; ".join(f"{len(values)} of {name}" for name, values in self.classes)
        return f"Sounds in {self.path}, labelled by {self.manifest or 'sub-folder'}: {what}."

    def load(self, split: str, root: Path | None = None) -> Examples:
        """The clips of one split.

        Raises:
            DataError: no usable file at all; the message counts the reasons.
        """
        _check(split)
        table, sounds = self._table(root)
        by_content = not any("split" in row for row in table.values())
        unlisted = [Rejected(name, "not in the manifest") for name in sounds if name not in table]
        chosen = {}
        for name, data in sounds.items():
            if name in table:
                test = (
                    int(hashlib.sha1(data).hexdigest(), 16) % 10 == 0 if by_content else table[name]["split"] == "test"
                )
                if test == (split == "test"):
                    chosen[name] = data
        return _examples(chosen, table, self.classes, self.prepare, rejected=[*_absent(table, sounds), *unlisted])

    def _table(self, root: Path | None) -> tuple[dict[str, dict[str, str]], dict[str, bytes]]:
        """Rows by the name of the file, and the files' bytes."""
        try:
            sounds = dict(members(self._find(self.path, root)))
        except AudioError as error:
            raise DataError(
                error.got, error.expected, "Give an absolute path, or one below the data root (GENDIFF_DATA)."
            ) from error
        if not sounds:
            raise DataError(f"no sound file in {self.path}", "WAV, FLAC, OGG or MP3 files")
        if not self.manifest:
            if len(self.columns) != 1:
                raise DataError(
                    f"{self} without a manifest",
                    "one label, the sub-folder",
                    'Pass manifest="table.csv" or one column.',
                )
            return {name: {self.columns[0]: Path(name).parent.name or "all"} for name in sounds}, sounds
        rows = _rows(self._find(self.manifest, root))
        have = list(rows[0])
        for column in ("path", *self.columns):
            if column not in have:
                raise DataError(
                    f"{self.manifest} has no column {column!r}", f"it has {', '.join(have)}.{nearest(column, have)}"
                )
        return {row["path"]: row for row in rows}, sounds

    @staticmethod
    def _find(path: str, root: Path | None) -> Path:
        here = unsealed(path)
        if here.exists() or here.is_absolute():
            return here
        return data_root(root) / path


def _check(split: str) -> None:
    if split not in SPLITS:
        raise RequestError(f"split {split!r}", f"one of {', '.join(SPLITS)}.{nearest(split, SPLITS)}")


def _rows(manifest: Path) -> list[dict[str, str]]:
    if not manifest.is_file():
        raise DataError(f"{manifest} is missing", "a CSV file with a column path")
    rows = list(csv.DictReader(io.StringIO(manifest.read_text(encoding="utf-8-sig"))))
    if not rows:
        raise DataError(f"{manifest} has no rows", "a header and one row per file")
    return rows


def _absent(table: Iterable[str], sounds: Container[str]) -> list[Rejected]:
    return [Rejected(name, "in the manifest, but not among the files") for name in table if name not in sounds]


def _examples(
    sounds: Mapping[str, bytes],
    table: Mapping[str, Mapping[str, str]],
    classes: Classes,
    prepare: Prepare,
    *,
    rejected: list[Rejected],
) -> Examples:
    """Read, check, prepare and label each sound; what cannot be used joins the rejected."""
    items, refused, seen = [], list(rejected), set()
    for name, data in sounds.items():
        digest = hashlib.sha1(data).digest()
        try:
            if digest in seen:
                raise AudioError("a copy of another file", name, "sounds that differ")
            items.append(Example(prepare(read(data, name=name)), _labels(name, table[name], classes), name))
            seen.add(digest)
        except AudioError as error:
            refused.append(Rejected(name, error.reason))
    if not items:
        report = Examples([], rejected=refused).report()
        raise DataError(f"none of {len(refused)} sounds is usable: {report}", "at least one usable sound")
    return Examples(items, rejected=refused)


def _labels(name: str, row: Mapping[str, str], classes: Classes) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for label, names in classes:
        if row[label] not in names:
            raise AudioError(
                f"{label} {row[label]!r} is not a known class", f"{name} with {label} {row[label]!r}", ", ".join(names)
            )
        found[label] = names.index(row[label])
    return found
