"""Conditions from a table beside files: a CSV or JSONL file with a column `path`, or a text NAME.txt beside each file.

    path,pitch,kind,caption        pitch  numbers                          Number
    a.wav,440,bell,"a small bell"  kind   few values, each in several rows  Label
    b.wav,220,drum,"a deep drum"   caption  texts                          Text

What a column is follows from its values, and is said; `pitch:label` (or :number, :text) decides otherwise. Whole
numbers are classes only where there are few of them. Nothing is lost: rows without a file, files without a row, numbers
that are none, each has its line in the report; a file of which two rows say different things is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gendiff.conditions.base import Condition, printed
from gendiff.conditions.label import Label
from gendiff.conditions.number import Number
from gendiff.conditions.text import Text
from gendiff.errors import DataError, nearest
from gendiff.files import composed, data_root, listed_name, read_lines, read_rows, read_text, unsealed

KINDS = ("number", "label", "text")
TEXTS = ("caption", "text", "prompt", "description")
"""Columns that are texts, whatever they hold."""
FEW, MANY, REPEATS, LONG, WORDS = 20, 200, 3, 40, 4
"""Of classes that are numbers, and of others; rows a class of numbers; letters and words of a class's name."""
CODE = re.compile(r"[+-]?0\d")  # "007" is a name
COMMA, THOUSANDS = re.compile(r"[+-]?\d+,\d+"), re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")


@dataclass
class Said:
    """What a table says of files.

    Attributes:
        conditions: By column, not yet fitted.
        values: By the file's name, then by column; a value that is missing is not there.
        rejected: Names and reasons: rows without a file, texts that cannot be read.
        notes: What was decided, and what is odd.
    """

    conditions: dict[str, Condition] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, name: str) -> dict[str, Any]:
        """What is said of a file: None where nothing is."""
        own = self.values.get(name, {})
        return {column: own.get(column) for column in self.conditions}


def said_of(
    table: str, home: Path, names: Sequence[str], what: str, *, asks: Sequence[str] = (), apart: Sequence[str] = ()
) -> Said:
    """What a table says of the files of a folder.

    Args:
        table: "txt" for a text NAME.txt beside each file, or a CSV or JSONL file: from the folder, from here, or below
            the data folder. "" says nothing.
        home: The folder.
        names: Of the files, below it.
        what: One of them, in a word: "picture".
        asks: Columns that are wanted, "pitch" or "pitch:number"; all by default.
        apart: Columns that are meant for something else.

    Raises:
        DataError: For a table that cannot be, naming the row.
    """
    if not table:
        return Said()
    if table == "txt":
        return beside(home, names, what)
    path = next((p for p in (home / table, Path(table).expanduser()) if p.is_file()), data_root() / table)
    said, first = Said(), 1 if path.suffix.lower() in (".jsonl", ".ndjson") else 2
    rows: Sequence[Mapping[str, Any]] = (
        read_lines(unsealed(path), said.notes) if first == 1 else read_rows(unsealed(path), said.notes)
    )
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kinds = wanted(path, columns, asks, ("path", *apart))
    seen: dict[str, tuple[Any, ...]] = {}
    place: dict[str, int] = {}
    for number, row in enumerate(rows, first):
        if not isinstance(row.get("path"), str) or not row["path"].strip():
            raise DataError(f"{path}, row {number}: no path", f"the name of a {what}")
        name = listed_name(row["path"], home, path)
        own = tuple(plain(row.get(column), path, number, column) for column in kinds)
        if seen.setdefault(name, own) != own:
            i = next(i for i, pair in enumerate(zip(own, seen[name], strict=True)) if pair[0] != pair[1])
            raise DataError(
                f"{path}, row {number}: {name} is {own[i]!r} and {seen[name][i]!r}", f"one {list(kinds)[i]} each"
            )
        place.setdefault(name, number)
    decisions = []
    for i, (column, kind) in enumerate(kinds.items()):
        values = {name: own[i] for name, own in seen.items() if own[i] is not None}
        if not values:
            said.notes.append(f"the column {column} of {path.name} is empty, and not used")
            continue
        own, found, odd, told = decided(path, column, kind, values, place)
        said.conditions[column] = own
        said.notes += odd
        decisions.append(told)
        for name, value in found.items():
            said.values.setdefault(name, {})[column] = value
    there = set(names)
    if not there & seen.keys():
        first = next(iter(seen))
        raise DataError(
            f"{path}: none of its {len(seen)} rows is of a {what} in {home}; the first is {first!r:.80}",
            f"names of {what}s as they are there, with their suffix.{nearest(first, names)}",
        )
    said.rejected += [(name, f"in the table, but not among the {what}s") for name in seen if name not in there]
    if decisions:
        said.notes.append(f"{path.name} says {'; '.join(decisions)} (COLUMN:label, :number or :text decides otherwise)")
    bare = sum(name not in seen for name in names)
    said.notes += [f"{bare} {what}s have no row in {path.name}: nothing is asked of them"] if bare else []
    return said


def beside(home: Path, names: Sequence[str], what: str) -> Said:
    """The text beside each file of a folder, as `caption`."""
    if not home.is_dir():
        raise DataError(f'{home} is no folder, and "txt" is for the texts beside files', "a table with a column path")
    said = Said({"caption": Text()})
    texts = sorted(p.relative_to(home).as_posix() for p in home.rglob("*.txt") if p.is_file())
    there = {composed(text): text for text in texts}
    own = {composed(text_of(name)): name for name in names}
    empty = 0
    for text, name in own.items():
        if text in there:
            try:
                caption, odd = read_text(home / there[text])
            except DataError as error:
                said.rejected.append((there[text], error.got))
                continue
            said.notes += [odd] if odd else []
            empty += not caption
            if caption:
                said.values[name] = {"caption": caption}
    said.rejected += [(path, f"a caption without a {what}") for text, path in there.items() if text not in own]
    bare = sum(name not in said.values for name in names) - empty
    said.notes += [f"{empty} {what}s have an empty text beside them: nothing is asked of them"] if empty else []
    said.notes += [f"{bare} {what}s have no text beside them: nothing is asked of them"] if bare else []
    return said


def text_of(name: str) -> str:
    """The name of the text beside a file: a/one.txt for a/one.png and a/one.cif.gz."""
    return PurePosixPath(name.removesuffix(".gz")).with_suffix(".txt").as_posix()


def wanted(path: Path, columns: Sequence[str], asks: Sequence[str], apart: Sequence[str]) -> dict[str, str]:
    """The columns that are asked for, with what is said of their kind.

    Raises:
        DataError: For a column or kind that there is not, with the nearest.
    """
    if "path" not in columns:
        raise DataError(f"{path} has no column 'path'", f"it has {', '.join(columns)[:200]}.{nearest('path', columns)}")
    if not asks:
        return {column: "" for column in columns if column not in apart}
    found = {}
    for text in asks:
        column, _, kind = text.rpartition(":") if text.rpartition(":")[2] in KINDS and ":" in text else (text, "", "")
        if column not in columns:
            near = nearest(column, columns)
            raise DataError(f"{path} has no column {column!r}", f"it has {', '.join(columns)[:200]}.{near}")
        found[column] = kind
    return found


def plain(value: Any, path: Path, number: int, column: str) -> Any:
    """A value of a row: a number, a text, or None for nothing.

    Raises:
        DataError: For anything else, naming the row.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise DataError(f"{path}, row {number}: the {column} {printed(value)!r} holds half a sign", "a whole text")
        return composed(value.strip()) or None
    if value is None or isinstance(value, int | float):
        return value
    raise DataError(f"{path}, row {number}: the {column} is {value!r:.60}", "a number or a text")


def pointed(column: str, kind: str, values: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The values of a column of numbers with decimal commas, with points, and a note; any other column as it is.

    "1,234" alone may be a thousand: where all commas stand before three digits, they are left.
    """
    texts = {name: value for name, value in values.items() if isinstance(value, str) and COMMA.fullmatch(value)}
    rest = [value for name, value in values.items() if name not in texts]
    if not texts or kind not in ("", "number") or (not kind and column in TEXTS):
        return values, ""
    if any(number_of(value) is None for value in rest) or all(THOUSANDS.fullmatch(value) for value in texts.values()):
        return values, ""
    found = {**values, **{name: value.replace(",", ".") for name, value in texts.items()}}
    return found, f"the commas of {column} are read as decimal points ({next(iter(texts.values()))})"


def number_of(value: Any) -> float | None:
    """The number that a value is, NaN and infinities too; None for what is none."""
    if isinstance(value, str):
        if "_" in value or CODE.match(value):
            return None
        try:
            return float(value)
        except ValueError:
            return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def decided(
    path: Path, column: str, kind: str, values: Mapping[str, Any], place: Mapping[str, int]
) -> tuple[Condition, dict[str, Any], list[str], str]:
    """What a column is, its values as such, what is odd about them, and what was decided, in words.

    Raises:
        DataError: For a column of numbers that has others among them, naming the row.
    """
    values, comma = pointed(column, kind, values)
    numbers = {name: number_of(value) for name, value in values.items()}
    good = {name: number for name, number in numbers.items() if number is not None}
    finite = {name: number for name, number in good.items() if math.isfinite(number)}
    short = are_names(values.values())
    if not kind:
        numeric = column not in TEXTS and 2 * len(good) > len(values)
        if numeric:
            distinct, whole = len(set(finite.values())), all(number.is_integer() for number in finite.values())
            few = whole and 0 < distinct <= FEW and REPEATS * distinct <= len(finite) == len(values)
            kind = "label" if few else "number"
        else:
            distinct = len(set(values.values()))
            few = column not in TEXTS and short and distinct <= MANY and 2 * distinct <= len(values)
            kind = "label" if few else "text"
    if kind == "number":
        if len(good) < len(values):
            name = next(name for name in values if name not in good)
            raise DataError(
                f"{path}, row {place[name]} ({name}): the {column} {printed(str(values[name]))!r}, where {len(good)} "
                f"of {len(values)} rows hold numbers",
                "a number in every row",
                f"Mend it, or say what it is: {column}:text or {column}:label",
            )
        lost = [name for name in good if name not in finite]
        odd = (
            f"{len(lost)} values of {column} are no finite numbers, the first in row {place[lost[0]]} "
            f"({values[lost[0]]}): nothing is asked there"
            if lost
            else ""
        )
        if not finite:
            raise DataError(f"{path}: no {column} is a finite number", "some that are", f"{column}:text or :label")
        told = f"{column} is a number ({min(finite.values()):g} to {max(finite.values()):g})"
        return Number(), dict(finite), [note for note in (odd, comma) if note], told
    words = {name: spelled(value) for name, value in values.items()}
    if kind == "text":
        return Text(), words, [], f"{column} is a text"
    order = sorted(set(words.values()), key=lambda word: (number_of(word) is None, number_of(word) or 0.0, word))
    shown = ", ".join(map(printed, order[:5])) + (", ..." if len(order) > 5 else "")
    return Label(tuple(order)), words, [], f"{column} is one of {len(order)} classes ({shown})"


def are_names(values: Any) -> bool:
    """Whether all are short enough to be names of classes."""
    texts = {str(value) for value in values}
    return all(len(text) <= LONG and len(text.split()) <= WORDS for text in texts)


def spelled(value: Any) -> str:
    """A value as a text: 3.0 in a JSON file is 3."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)
