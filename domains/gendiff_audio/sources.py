"""Where clips come from: sounds made on the fly, the Free Spoken Digit Dataset, or a person's own folder or archive.

Every file becomes an example (or several: windows of a long recording), or is listed as rejected, with its reason, or
as one of the other files, which are no sounds. Each is read once to be checked; clips are made when they are asked for,
from the part of the file where they lie, and remembered up to 64 MiB. Of an archive the files are held as they are.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gendiff.conditions import Condition, Label, Number, Said, said_of
from gendiff.domain import Examples, Made, Rejected, Source, data_file, data_root, unsealed
from gendiff.errors import DataError, RequestError, nearest
from gendiff.files import Stamp, check_stamp, composed, listed_name, read_rows, stamp
from gendiff.lazy import Kept, Lazy
from gendiff_audio.clip import AudioError, Clip
from gendiff_audio.io import Members, Recording
from gendiff_audio.prepare import Prepare
from gendiff_audio.synthesis import SOUNDS, pitch_of, sound

Classes = tuple[tuple[str, tuple[str, ...]], ...]  # label name and its class names, in order
Row = Mapping[str, str]
SPLITS = ("train", "test")
FOLDERS = ("top", "parent")
WORDS, REPEATS, MANY = 40, 3, 100  # letters of a class's name at most; rows a class in a table; classes of numbers


class ClipSource(Source):
    """A source of prepared clips, with what it says of them."""

    prepare: Prepare

    @property
    @abstractmethod
    def conditions(self) -> Mapping[str, Condition]:
        """What may be asked, by name."""

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The class names of each condition that is a class."""
        return {name: own.classes for name, own in self.conditions.items() if isinstance(own, Label)}


@dataclass(frozen=True)
class Tones(ClipSource):
    """Plucked strings and sung vowels, synthesised: eight classes of `sound`, as many clips of each, 0.3 to 0.9 s long.

    Args:
        count: clips to train on; a fifth as many to test with, of other seeds.
        seed: another seed is another set.
        prepare: what is done to every clip, and the sample rate they are made at.
        pitch: whether clips are also told apart by their pitch in hertz, in the middle of the clip.
    """

    count: int = 800
    seed: int = 0
    prepare: Prepare = field(default_factory=Prepare)
    pitch: bool = False

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {"sound": Label(SOUNDS), **({"pitch": Number("Hz", "log")} if self.pitch else {})}

    def describe(self) -> str:
        return f"{self.count} synthesised sounds ({', '.join(SOUNDS)}); nothing is downloaded."

    def load(self, split: str, root: Path | None = None) -> Examples:
        """Clips by seed; `root` is not needed."""
        _check(split)
        first, count = (0, self.count) if split == "train" else (self.count, max(len(SOUNDS), self.count // 5))
        names, cond, keys = [], [], []
        for i in range(first, first + count):
            k = i % len(SOUNDS)
            keys.append((SOUNDS[k], 1_000_003 * self.seed + i))
            cond.append({"sound": k, **({"pitch": pitch_of(*keys[-1])} if self.pitch else {})})
            names.append(f"{SOUNDS[k]}-{i}")
        return Examples(Made(Lazy(keys, Kept(Sounded(self.prepare))), cond, names))


@dataclass(frozen=True)
class Sounded:
    """From a sound's name and seed to its clip."""

    prepare: Prepare

    def __call__(self, key: tuple[str, int]) -> Clip:
        return self.prepare(sound(*key, sample_rate=self.prepare.sample_rate))


@dataclass(frozen=True)
class Part:
    """Where a clip lies: in a file that had this stamp, or in the bytes of one; None seconds are all of it."""

    item: Path | bytes
    stamp: Stamp | None
    name: str
    start: float
    seconds: float | None


@dataclass(frozen=True)
class Heard:
    """From a part of a recording to its clip."""

    prepare: Prepare

    def __call__(self, part: Part) -> Clip:
        if isinstance(part.item, Path) and part.stamp is not None:
            check_stamp(part.item, part.stamp)
        with Recording(part.item, name=part.name) as file:
            return self.prepare(file.read(start=part.start, seconds=part.seconds))


@dataclass(frozen=True)
class FSDD(ClipSource):
    """The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0): 3000 recordings at 8 kHz, ten digits by six
    speakers.

    Its official split tests on takes 0 to 4 of each digit and speaker, 300 in all.
    """

    prepare: Prepare = field(default_factory=Prepare)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        speakers = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
        return {"digit": Label(tuple("0123456789")), "speaker": Label(speakers)}

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
        table = _table(manifest, ("digit", "speaker", "split"), archive)
        wanted = {name: row for name, row in table.items() if row["split"] == split}
        return _examples(
            Members(archive), wanted, tuple(self.labels.items()), self.prepare, lambda *_: True, all_listed=False
        )


@dataclass(frozen=True)
class Sounds(ClipSource):
    """A person's own sounds: WAV, FLAC, OGG, MP3 or AIFF files below a folder or in a tar archive.

    Labels are the named columns of a CSV manifest (with a column `path`, and perhaps `split`), else the name of a
    folder: of "one/george/x.wav" the top folder, "one", or with `labelled_by="parent"` the last, "george". Files that
    lie in no folder have no label then: where others have one they are rejected. Without a column `split`, a tenth of
    the files is the test set, chosen by content: copies of a file are never in both. Copies within a split are
    rejected. The class names are found once and kept, so that a saved model knows them.

    A column is a label if its values are names that return. Numbers with a fraction or with more than a hundred
    values, and texts (long ones, or ones of which hardly any returns), are refused as labels, for a class of its own
    for each would teach nothing: leave them out of `columns`, or give `classes` to insist.

    A recording longer than `window` seconds is cut into windows of equal length, none longer than `window`, each a
    clip prepared by itself. A part that is silent or too short is rejected by itself.

    Args:
        path: folder or tar archive; not absolute: below the data root.
        manifest: path of a CSV file, found in the same way; "" reads labels from folders.
        columns: of the manifest, each a label; without a manifest the one name under which folders are asked for.
        prepare: what is done to every clip.
        classes: label names and their class names; None looks for them in the files, () is no labels.
        labelled_by: "top" or "parent": the folder that labels a file.
        window: seconds; None is the longest clip that `prepare` takes, 0 rejects longer recordings.
        table: a CSV or JSONL table with the column path, of which every other column is a condition: numbers, classes
            or texts, as `gendiff.conditions.columns` decides; "txt" for a text NAME.txt beside each file.
        asks: columns of it that are wanted, "pitch" or "pitch:number"; all by default.
        said: what they are; None looks for it in the table.

    Raises:
        DataError: no such files, a manifest without the columns named, an empty label (with its row), or a column
            that is a number or a text.
        RequestError: another word for `labelled_by`, or a window that `prepare` would refuse.
    """

    path: str
    manifest: str = ""
    columns: tuple[str, ...] = ("label",)
    prepare: Prepare = field(default_factory=Prepare)
    classes: Classes | None = None
    labelled_by: str = "top"
    window: float | None = None
    table: str = ""
    asks: tuple[str, ...] = ()
    said: Mapping[str, Condition] | None = None

    def __post_init__(self) -> None:
        if self.labelled_by not in FOLDERS:
            hint = nearest(self.labelled_by, FOLDERS)
            raise RequestError(f"Sounds(labelled_by={self.labelled_by!r})", f"one of {', '.join(FOLDERS)}.{hint}")
        if self.window and not self.prepare.shortest <= self.window <= self.prepare.longest:
            span = f"from {self.prepare.shortest:g} to {self.prepare.longest:g} s, what prepare takes, or 0"
            raise RequestError(f"Sounds(window={self.window!r})", span, f"window={self.prepare.longest:g}")
        if not self.manifest and len(self.columns) != 1:
            raise DataError(
                f"{len(self.columns)} columns without a manifest",
                "one label, the folder",
                'Pass manifest="table.csv" or one column.',
            )
        if self.said is None:
            object.__setattr__(self, "said", self._said(self._members(None)).conditions if self.table else {})
        if self.classes is None:
            told = not self.manifest and self.columns[0] in (self.said or {})
            object.__setattr__(self, "classes", () if told else self._classes())

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**{name: Label(classes) for name, classes in self.classes or ()}, **(self.said or {})}

    def _said(self, members: Members, root: Path | None = None) -> Said:
        """What the table says of each file."""
        table = self.table if self.table in ("", "txt") else str(self._find(self.table, root))
        return said_of(table, members.path, members.names(), "sound", asks=self.asks, apart=("split",))

    def describe(self) -> str:
        what = "; ".join(f"{len(values)} of {name}" for name, values in self.classes or ()) or "no labels"
        by = self.manifest or f"{self.labelled_by} folder"
        return f"Sounds in {self.path}, labelled by {by}: {what}."

    def load(self, split: str, root: Path | None = None) -> Examples:
        """The clips of one split: "train", "test", or another that the manifest has.

        Raises:
            RequestError: a split that there is not; the message names those that there are.
            DataError: no usable file at all; the message counts the reasons.
        """
        members = self._members(root)
        table, notes = self._rows(root, members)
        by_content = not any("split" in row for row in table.values())
        found = Counter(row["split"] for row in table.values()) if not by_content else Counter(SPLITS)
        if split not in found:
            had = ", ".join(f"{name} ({number})" for name, number in found.items())
            where = f"{self.manifest} has the splits {had}" if not by_content else f"one of {', '.join(SPLITS)}"
            raise RequestError(f"split {split!r}", f"{where}.{nearest(split, found)}")
        left = {name: number for name, number in found.items() if name not in SPLITS and name != split}
        if left and not by_content:
            notes.append(f"left for later: {', '.join(f'{number} of split {name!r}' for name, number in left.items())}")

        def choose(name: str, digest: bytes) -> bool:
            if not by_content:
                return table[name]["split"] == split
            return (int.from_bytes(digest) % 10 == 0) == (split == "test")

        window = self.prepare.longest if self.window is None else self.window
        said = self._said(members, root)
        found = _examples(
            members, table, self.classes or (), self.prepare, choose, window=window, notes=notes, said=said
        )
        if self.table != "txt":
            return found
        others = [name for name in found.others if not name.endswith(".txt")]
        return Examples(found.items, found.rejected, others, found.notes)

    def _members(self, root: Path | None) -> Members:
        try:
            return Members(self._find(self.path, root))
        except AudioError as error:
            fix = "Give an absolute path, or one below the data root (GENDIFF_DATA)."
            raise DataError(error.got, error.expected, fix) from error

    def _rows(self, root: Path | None, members: Members) -> tuple[dict[str, Row], list[str]]:
        """What is known of each file by its name, and what there is to say of it."""
        if self.manifest:
            table = _table(self._find(self.manifest, root), self.columns, members.path)
            used = {"path", "split", *self.columns}
            unused = [name for name in next(iter(table.values())) if name not in used]
            return table, [f"columns of {self.manifest} not used: {', '.join(unused)}"] if unused else []
        names = members.names()
        if not names:
            raise DataError(f"no sound file in {self.path}", "WAV, FLAC, OGG, MP3 or AIFF files")
        places = {name: PurePosixPath(name).parts for name in names}
        deep = next((name for name, parts in places.items() if len(parts) > 2), None)
        said = []
        if deep is not None:
            top, last = places[deep][0], places[deep][-2]
            label, other = (top, last) if self.labelled_by == "top" else (last, top)
            word = FOLDERS[self.labelled_by == "top"]
            said.append(
                f"labelled by the {self.labelled_by} folder: {deep} is {label!r} (labelled_by={word!r}: {other!r})"
            )
        index = 0 if self.labelled_by == "top" else -2
        return {n: {self.columns[0]: p[index] if len(p) > 1 else ""} for n, p in places.items()}, said

    def _classes(self) -> Classes:
        """Label names and class names, from all files.

        Raises:
            DataError: a column that is a number or a text.
        """
        table, _ = self._rows(None, self._members(None))
        found = []
        for column in self.columns:
            values = [row[column] for row in table.values() if row[column]]
            if self.manifest:
                _refuse_column(self.manifest, column, values, self.columns)
            if values:
                found.append((column, tuple(sorted(set(values)))))
        return tuple(found)

    @staticmethod
    def _find(path: str, root: Path | None) -> Path:
        here = unsealed(path).expanduser()
        return here if here.is_absolute() or here.exists() else data_root(root) / path


def _check(split: str) -> None:
    if split not in SPLITS:
        raise RequestError(f"split {split!r}", f"one of {', '.join(SPLITS)}.{nearest(split, SPLITS)}")


def _table(manifest: Path, columns: Sequence[str], home: Path) -> dict[str, Row]:
    """The rows of a manifest by the path in them, as below the folder or in the archive `home`.

    Raises:
        DataError: a column that is not there, an empty path or label, or a path in two rows that differ.
    """
    rows = read_rows(manifest)
    have = list(rows[0])
    for column in ("path", *columns):
        if column not in have:
            raise DataError(f"{manifest} has no column {column!r}", f"it has {', '.join(have)}.{nearest(column, have)}")
    needed = [column for column in ("path", *columns, "split") if column in have]
    found: dict[str, Row] = {}
    for number, row in enumerate(rows, 2):
        row.update(
            {column: row[column].strip() if column == "path" else composed(row[column].strip()) for column in needed}
        )
        empty = [column for column in needed if not row[column]]
        if empty:
            raise DataError(
                f"{manifest}, row {number} ({row['path'] or 'no path'}): an empty {empty[0]}",
                "a value in every row",
                "Fill it in, or take the row out",
            )
        name = row["path"] = listed_name(row["path"], home, manifest)
        if found.setdefault(name, row) != row:
            raise DataError(f"{manifest}, row {number}: {name} was said to be something else above", "one row a file")
    return found


def _refuse_column(manifest: str, column: str, values: Sequence[str], columns: Sequence[str]) -> None:
    """Raises DataError for a column whose values are no names of classes, but numbers or texts."""
    different = len(set(values))
    rest = tuple(name for name in columns if name != column)
    fix = f"columns={rest!r}, or classes=... with all names to insist" if rest else "another column, or classes=..."
    try:
        numbers = {float(value) for value in values}
    except ValueError:
        longest = max(values, key=len)
        rare = len(values) >= 10 and REPEATS * different > len(values) and different > len(values) / 2
        if len(longest) > WORDS or rare:
            said = f"{different} texts in {len(values)} rows, e.g. {longest[:60]!r}"
            raise DataError(
                f"{manifest}: the column {column!r} holds {said}",
                "names of classes, each in several rows; texts are not used for now",
                fix,
            ) from None
        return
    broken = any(not number.is_integer() for number in numbers)
    rare = len(values) >= 10 and REPEATS * different > len(values) and different > 10
    if (broken and different > 10) or different > MANY or rare:
        raise DataError(
            f"{manifest}: the column {column!r} holds {different} numbers from {min(numbers):g} to {max(numbers):g}",
            "names of classes; a number is not a class, and is not used for now",
            fix,
        )


def _digest(item: Path | bytes) -> bytes:
    """SHA-1 of a file's bytes, read in pieces."""
    if isinstance(item, bytes):
        return hashlib.sha1(item).digest()
    with item.open("rb") as file:
        return hashlib.file_digest(file, "sha1").digest()


def _examples(
    members: Members,
    table: Mapping[str, Row],
    classes: Classes,
    prepare: Prepare,
    choose: Callable[[str, bytes], bool],
    *,
    window: float = 0.0,
    notes: Sequence[str] = (),
    all_listed: bool = True,
    said: Said | None = None,
) -> Examples:
    """Reads, checks, prepares and labels each sound that is chosen by its name and digest; what cannot be used joins
    the rejected, and with `all_listed` also what the table does not have.
    """
    items: list[tuple[str, int, Part, Mapping[str, Any], str]] = []
    make = Kept(Heard(prepare))
    refused: list[Rejected] = []
    seen: set[bytes] = set()
    met: set[str] = set()
    counts: Counter[str] = Counter()
    for name, item in members:
        met.add(name)
        try:
            if name not in table:
                if all_listed:
                    refused.append(Rejected(name, "not in the manifest"))
                continue
            digest = _digest(item)
            if not choose(name, digest):
                counts["apart"] += 1
                continue
            if digest in seen:
                raise AudioError("a copy of another file", name, "sounds that differ")
            cond = {**_labels(name, table[name], classes), **(said.of(name) if said else {})}
            known = stamp(item) if isinstance(item, Path) else None
            with Recording(item, name=name) as file:
                parts = _windows(file.seconds, window)
                counts["long"] += len(parts) > 1
                counts["two channels"] += file.channels == 2 and prepare.channel is None
                counts["length"] += bool(file.note)
                for k, (start, seconds) in enumerate(parts):
                    called = name if seconds is None else f"{name} [{start:g}-{start + seconds:g} s]"
                    part = Part(item, known, name, start, seconds)
                    try:
                        make.keep(part, prepare(file.read(start=start, seconds=seconds)))
                    except AudioError as error:
                        refused.append(Rejected(called, error.reason))
                    else:
                        items.append((name, k, part, cond, called))
                        seen.add(digest)
        except AudioError as error:
            refused.append(Rejected(name, error.reason))
        except OSError as error:
            refused.append(Rejected(name, f"not readable ({error.strerror})"))
    refused += [Rejected(name, "in the manifest, but not among the files") for name in table if name not in met]
    refused += [*members.rejected, *(Rejected(*why) for why in (said.rejected if said else ()))]
    if not items and not refused and counts["apart"]:
        fix = "Add sounds, or say which are which in a column split of a table"
        raise DataError(f"no sound is of this split, {counts['apart']} are of another", "sounds in each split", fix)
    if not items:
        report = Examples([], rejected=refused).report()
        raise DataError(f"none of {len(refused)} sounds is usable: {report}", "at least one usable sound")
    odd = {
        "two channels": "recordings of two channels became one (see gendiff_audio.mono)",
        "long": f"recordings longer than {window:g} s were cut into windows",
        "length": "recordings hold more than they announce: all was read",
        "apart": "more are not of this split",
    }
    told = [f"{counts[key]} {text}" for key, text in odd.items() if counts[key]]
    told += said.notes if said else []
    items.sort(key=lambda item: item[:2])
    clips = Lazy([item[2] for item in items], make)
    made = Made(clips, [item[3] for item in items], [item[4] for item in items])
    return Examples(made, rejected=refused, others=members.others, notes=[*notes, *told])


def _windows(seconds: float, window: float) -> list[tuple[float, float | None]]:
    """Start and length of equal parts of a recording, none longer than `window`; (0, None) is the whole."""
    if not window or seconds <= window:
        return [(0.0, None)]
    count = min(math.ceil(seconds / window - 1e-9), 100_000)
    return [(k * seconds / count, seconds / count) for k in range(count)]


def _labels(name: str, row: Row, classes: Classes) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for label, names in classes:
        if not row[label]:
            raise AudioError("no label: it lies beside the folders", name, "a file in a folder")
        if row[label] not in names:
            raise AudioError(
                f"{label} {row[label]!r} is not a known class", f"{name} with {label} {row[label]!r}", ", ".join(names)
            )
        found[label] = names.index(row[label])
    return found
