"""Speech with the symbols that were spoken and how long each of them lasts."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from gendiff.conditions import Aligned, Condition
from gendiff.domain import Examples, Made, Rejected, data_file
from gendiff.errors import DataError, RequestError, nearest
from gendiff.files import read_rows
from gendiff.lazy import Kept, Lazy
from gendiff_audio.clip import Clip
from gendiff_audio.io import Recording
from gendiff_audio.prepare import Prepare
from gendiff_audio.sources import ClipSource

HOP = 256
COLUMNS = ("uid", "path", "start", "frames", "text", "phonemes", "durations")


@dataclass(frozen=True)
class Speech(ClipSource):
    """Utterances of one English voice (Piper's "joe") with their phonemes and durations, 22.05 kHz.

    The condition "phonemes" has symbols of the International Phonetic Alphabet (stress and length marks are symbols of
    their own; `^`, `$` and `_` are the start, the end and the gap between words) with the frames of 256 samples that
    each lasts: together exactly those of the clip. The split "test" holds about a tenth of the texts.

    The voice is made from data whose terms are not all known: do not pass on what is trained on it.

    Args:
        prepare: what is done to every clip; it must leave the length as it is.
    """

    prepare: Prepare = field(default_factory=lambda: Prepare(sample_rate=22050, lead=0.0))

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {"phonemes": Aligned(width=128, layers=3, planned=True)}

    def describe(self) -> str:
        return "2,700 synthetic English utterances of one voice with phonemes and durations, 70 minutes at 22.05 kHz."

    def rows(self, root: Path | None = None) -> list[dict[str, str]]:
        """The table: a row for each utterance."""
        table = data_file("audio/joe_manifest.csv", root, f"utterances of a voice: {', '.join(COLUMNS)}")
        rows = read_rows(table)
        for column in COLUMNS:
            if column not in rows[0]:
                have = list(rows[0])
                raise DataError(
                    f"{table} has no column {column!r}", f"it has {', '.join(have)}.{nearest(column, have)}"
                )
        return rows

    def load(self, split: str, root: Path | None = None) -> Examples:
        """The utterances of a split; each clip is read from root/audio/joe_speech.tar when it is asked for.

        Raises:
            DataError: one of the two files is missing, or none of its utterances is usable.
        """
        if split not in ("train", "test"):
            raise RequestError(f"split {split!r}", '"train" or "test"')
        rows = self.rows(root)
        archive = data_file("audio/joe_speech.tar", root, "the recordings of joe_manifest.csv")
        with tarfile.open(archive, "r:") as tar:
            there = {member.name for member in tar if member.isfile()}
        kept, rejected = [], []
        for row in rows:
            if held_out(row["text"]) != (split == "test"):
                continue
            reason = "in the table, but not among the files" if row["path"] not in there else odd(row)
            if reason:
                rejected.append(Rejected(row["uid"], reason))
            else:
                kept.append(row)
        if not kept:
            raise DataError(f"no utterance of {archive} is usable: {Examples([], rejected).report()}", "at least one")
        clips = Lazy(
            [(row["path"], int(row["start"]), int(row["frames"])) for row in kept],
            Kept(Uttered(str(archive), self.prepare)),
        )
        said = [
            {"symbols": row["phonemes"].split(" "), "durations": [int(d) for d in row["durations"].split(" ")]}
            for row in kept
        ]
        return Examples(Made(clips, [{"phonemes": one} for one in said], [row["uid"] for row in kept]), rejected)


def held_out(text: str) -> bool:
    """Whether a text is kept for testing."""
    return hashlib.sha256(text.encode()).digest()[0] < 26


def odd(row: Mapping[str, str]) -> str:
    """What is wrong with a row, or ""."""
    symbols, durations = row["phonemes"].split(" "), row["durations"].split(" ")
    if not all(number.isascii() and number.isdigit() for number in (row["start"], row["frames"], *durations)):
        return "numbers that are none"
    if len(symbols) != len(durations):
        return "another number of durations than of phonemes"
    return "" if sum(map(int, durations)) * HOP == int(row["frames"]) else "durations that are not those of the clip"


@dataclass(frozen=True)
class Uttered:
    """From the path of a recording in the archive, and where an utterance lies in it, to its clip."""

    archive: str
    prepare: Prepare

    def __call__(self, key: tuple[str, int, int]) -> Clip:
        path, begin, count = key
        samples = recording(self.archive, path)
        return self.prepare(Clip(samples.samples[:, begin : begin + count], samples.sample_rate))


@lru_cache(maxsize=2)
def recording(archive: str, name: str) -> Clip:
    """One recording of an archive, of which the last are kept: neighbours lie in the same."""
    with tarfile.open(archive, "r:") as tar:
        file = tar.extractfile(name)
        assert file is not None
        data = file.read()
    with Recording(data, name=name) as whole:
        return whole.read()
