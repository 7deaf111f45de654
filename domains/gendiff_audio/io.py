"""Sound files in and out, by libsndfile: WAV, FLAC, OGG, MP3 and whatever else it reads, from a path, bytes, or inside
a tar archive.

libsndfile reads what is there and believes what is announced. What a container announces is therefore compared with
what lies in it (`lengths`), and the number of samples decoded with both, once, for every format. Samples are decoded in
pieces, so that a file that announces hours takes no memory for them; a part of a file is read without the rest.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gendiff.domain import Rejected
from gendiff.errors import DataError
from gendiff.files import allowance, archive_members, folder_files
from gendiff_audio.clip import FASTEST, SLOWEST, AudioError, Clip
from gendiff_audio.lengths import Headed, counted, mended, tag_length, unfinished

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".au", ".caf")
WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
SUBTYPES = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}
LOUDEST = 8.0  # a float file whose peak exceeds this holds integers that nobody scaled, or noise
PIECE = 2**18  # samples of all channels decoded at once
CHECKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")  # whose length is known
TAGGED = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS")  # what may follow a tag that belongs to an MP3
PADDING = 8192  # samples by which a coder's last block may exceed the sound


def read(
    source: str | Path | bytes,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    longest: float = 600.0,
    name: str = "",
) -> Clip:
    """A sound file, or the part of it that begins at `start` and lasts `seconds`.

    Args:
        source: a path, or the file's bytes.
        start: seconds to skip, without decoding them.
        seconds: how much to read, of which there must be some; None reads to the end.
        longest: seconds above which a whole file is refused, rather than filling the memory.
        name: what to call bytes in a message.

    Raises:
        AudioError: unreadable, truncated, empty, too long, not finite, out of range, a rate outside 4 to 192 kHz, or
            a part that is not in the file.
        FileNotFoundError: no such file.
    """
    with Recording(source, name=name) as file:
        clip = file.read(start=start, seconds=seconds, longest=longest)
    if file.note and seconds is None:
        warnings.warn(f"{file.note}; all are read.", stacklevel=2)
    if clip.peak > 1 + 1e-4:
        warnings.warn(f"{file.name} peaks at {clip.peak:.3f}, above full scale (1.0); kept as it is.", stacklevel=2)
    return clip


class Recording:
    """A sound file that is open: its rate and length are known, its samples are decoded when they are asked for.

    Attributes:
        rate: hertz.
        frames: samples of each channel that the file says it has.
        note: what was wrong with the length it announced, or "".
    """

    def __init__(self, source: str | Path | bytes, *, name: str = "") -> None:
        import soundfile

        self.name = name or ("<bytes>" if isinstance(source, bytes) else str(source))
        self.raw: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115
        try:
            self.data: Any = self.raw
            self.size = self.raw.seek(0, io.SEEK_END)
            view, self.expected, announced, self.note = self.view()
            self.seen: Any = view if isinstance(view, Headed) else Headed(b"", view, 0)
            self.open()
            if self.file.format not in CHECKED:
                got = f"{self.name}, {self.file.format_info}"
                raise AudioError("unknown format", got, "a WAV, FLAC, OGG, MP3 or AIFF file", "Convert it to WAV")
            self.rate, self.frames, self.channels = self.file.samplerate, self.file.frames, self.file.channels
            if self.frames > 2**62:  # a FLAC that was streamed does not say
                self.frames = 0
                while got := len(self.file.read(PIECE // self.channels, dtype="float32")):
                    self.frames += got
                    self.bound(self.frames)
                self.open()
        except AudioError:
            self.raw.close()
            raise
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError, TypeError, OverflowError) as error:
            self.raw.close()
            reason = str(getattr(error, "error_string", error)).partition("\n")[0]
            raise AudioError("unreadable", f"{self.name}: {reason}", "a WAV, FLAC, OGG or MP3 file") from error
        if 0 < announced < self.frames < announced + PADDING:
            self.expected = announced
        if self.expected is not None and not self.tolerance:
            self.frames = min(self.frames, self.expected)
        if not SLOWEST <= self.rate <= FASTEST:
            self.__exit__()
            got = f"{self.name} at {self.rate} Hz"
            raise AudioError("sample rate outside 4 to 192 kHz", got, f"{SLOWEST} to {FASTEST} Hz")

    def open(self) -> None:
        """Begins to decode at the first sample."""
        import soundfile

        self.seen.seek(0)
        self.file, self.at = soundfile.SoundFile(self.seen), 0
        if self.file.frames > 2**62:  # soundfile seeks after every read, which fails where no end is known
            self.file.seekable = lambda: False

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.raw.close()

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    def view(self) -> tuple[BinaryIO, int | None, int, str]:
        """The file as libsndfile is to see it, the samples it must give, those announced beside a size (0: none), and
        what was mended.
        """
        self.raw.seek(0)
        head = self.raw.read(12)
        if tag := tag_length(head):
            self.raw.seek(tag)
            if (after := self.raw.read(12))[:4] in TAGGED:
                self.data, self.size, head = Headed(b"", self.raw, tag), self.size - tag, after
        if head[:4] == b"OggS":
            self.data.seek(0)
            stream = self.data.read(18)[14:]
            self.data.seek(max(0, self.size - 2**17))  # a page has 64 KiB at most
            last = self.data.read()
            if unfinished(last):
                raise AudioError("truncated", f"{self.name} without its last page", "a complete file", "Copy it again.")
            if last[(at := last.rfind(b"OggS") + 14) : at + 4] != stream:
                raise AudioError("several streams in one file", self.name, "one", "Convert it to WAV or FLAC")
        elif head[:3] == b"ID3" or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0):
            self.raw.seek(0)
            stream, samples = counted(self.raw.read(), self.name)
            return stream, samples, 0, ""
        view, found, note = mended(self.data, self.size, self.name)
        if found is None:
            return view, None, 0, note
        whole = found.size // found.block if found.block and found.size is not None else None
        return view, whole, found.frames, note

    def read(self, *, start: float = 0.0, seconds: float | None = None, longest: float = 600.0) -> Clip:
        """The clip, or a part of it: see `gendiff_audio.read`."""
        import soundfile

        name, rate, frames = self.name, self.rate, self.frames
        if not 0 <= start < 1e9 or (seconds is not None and not 0 < seconds < 1e9):
            raise AudioError("no such part", f"start={start}, seconds={seconds}", "start >= 0 and seconds > 0")
        first = round(start * rate)
        whole = seconds is None
        count = frames - first if seconds is None else min(max(1, round(seconds * rate)), frames - first)
        if frames == 0 or count <= 0:
            raise AudioError("empty", f"{name}, {frames} samples, read from {start} s", "at least one sample")
        if count > longest * rate:
            fix = f'Read a part, e.g. read("{name}", start=0, seconds=30), or raise longest=.'
            raise AudioError("too long", f"{name}, {count / rate:.0f} s", f"at most {longest:g} s at once", fix)
        self.bound(count)
        pieces = []
        try:
            self.go(first)
            while count > 0:
                piece = self.file.read(min(count, PIECE // max(self.channels, 1) + 1), dtype="float32", always_2d=True)
                if not len(piece):
                    break
                pieces.append(piece)
                count -= len(piece)
                self.at += len(piece)
        except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
            reason = str(getattr(error, "error_string", error)).partition("\n")[0]
            got = f"{name}, {self.at} of {frames} samples: {reason}"
            raise AudioError("damaged or cut", got, "a complete file", "Copy it again.") from error
        samples = np.concatenate(pieces).T if pieces else np.zeros((1, 0), np.float32)
        got = samples.shape[1]
        lacks = self.expected is not None and whole and abs(first + got - self.expected) > self.tolerance
        if count > 0 or lacks:
            said = frames if count > 0 else self.expected
            raise AudioError(
                "truncated", f"{name}, {first + got} of {said} samples", "a complete file", "Copy it again."
            )
        return checked(samples, rate, name)

    def bound(self, count: int) -> None:
        """Refuses more samples than a file of this size may hold."""
        if 4 * count * self.channels > (limit := allowance(self.size)):
            raise AudioError("too large", f"{self.name}, {count} samples in {self.size} bytes", f"at most {limit // 4}")

    def go(self, first: int) -> None:
        """Goes to a sample; where the coding knows no places (GSM, G.721), by decoding what lies before it."""
        if self.at > first and not self.file.seekable():
            self.open()
        if self.at != first and self.file.seekable():
            self.file.seek(first)
            self.at = first
        while self.at < first and len(skipped := self.file.read(min(first - self.at, PIECE), dtype="float32")):
            self.at += len(skipped)

    @property
    def tolerance(self) -> int:
        """Samples by which decoded and announced lengths may differ: two frames of MPEG, none elsewhere."""
        return 2304 if self.file.format == "MP3" else 0


def checked(samples: np.ndarray, rate: int, name: str) -> Clip:
    """A clip of samples `[channels, n]` as they were decoded.

    Raises:
        AudioError: values that are not finite, or far beyond full scale.
    """
    if not np.isfinite(samples).all():
        raise AudioError("not finite", f"{name} with NaN or Inf samples", "finite samples")
    peak = float(np.abs(samples).max())
    if peak > LOUDEST:
        fix = "Divide by 32768 if these are 16-bit integers stored as floats."
        raise AudioError("out of range", f"{name} with a peak of {peak:.3g}", "full scale at 1", fix)
    return Clip(samples, rate)


def write(clip: Clip, path: str | Path, *, bits: int = 16) -> None:
    """A clip in the format of the path's suffix (WAV, FLAC, OGG): PCM of 16 or 24 bits, or floats of 32 in a WAV. What
    exceeds full scale is cut off, with a warning, but in floats, which keep it.

    Raises:
        AudioError: a suffix that is not written, or a depth that the format does not have.
    """
    import soundfile

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        fix = f'Write to "{path.with_suffix(".wav")}".'
        raise AudioError("unknown format", str(path), f"a path that ends in {', '.join(WRITTEN)}", fix)
    if bits not in SUBTYPES or (bits == 32 and suffix != ".wav"):
        raise AudioError("unknown depth", f"bits={bits} in {suffix}", "16 or 24, or 32 in .wav", "bits=16")
    loud = clip.peak > 1 and bits != 32
    if loud:
        over = 20 * np.log10(clip.peak)
        share = float(np.mean(np.abs(clip.samples) > 1))
        warnings.warn(
            f"{path}: {share:.2%} of the samples exceed full scale, by up to {over:.1f} dB; they are clipped.",
            stacklevel=2,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    subtype = "VORBIS" if suffix == ".ogg" else SUBTYPES[bits]
    samples = np.clip(clip.samples.T, -1, 1) if loud else clip.samples.T
    soundfile.write(path, samples, clip.sample_rate, subtype=subtype, format=WRITTEN[suffix])


class Members:
    """The sound files below a folder or inside a tar archive (compressed or not). Nothing is kept of what is read.

    Attributes:
        rejected: what is there and cannot be used: links, devices, in an archive second files of a name.
        others: names of the files that are no sounds.

    Raises:
        AudioError: neither a folder nor a tar archive.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir() and not self.path.is_file():
            raise AudioError("no such sounds", str(path), "a folder of sound files or a tar archive of them")
        self.rejected: list[Rejected] = []
        self.others: list[str] = []

    def names(self) -> list[str]:
        """The names of all sound files, sorted."""
        if not self.path.is_dir():
            return sorted(name for name, _ in self)
        left: list[tuple[str, str]] = []
        self.others = []
        found = folder_files(self.path, SUFFIXES, left, self.others)
        self.rejected = [Rejected(name, why) for name, why in left]
        return found

    def __iter__(self) -> Iterator[tuple[str, Path | bytes]]:
        """Name of each file, and its path (in a folder) or its bytes (of an archive, in the order they lie in)."""
        if self.path.is_dir():
            yield from ((name, self.path / name) for name in self.names())
            return
        left: list[tuple[str, str]] = []
        self.rejected, self.others = [], []
        try:
            yield from archive_members(self.path, SUFFIXES, left, self.others)
        except DataError as error:
            raise AudioError("no such sounds", error.got, error.expected, error.fix) from error
        finally:
            self.rejected = [Rejected(name, why) for name, why in left]
