"""Sound files in and out, by libsndfile: WAV, FLAC, OGG and whatever else it reads, from a path, bytes, or inside a
tar.

A WAV file announces the size S of its data chunk before the data come. libsndfile quietly reads what is there, so a
copy that broke off is found by comparing S with the bytes that follow.
"""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gendiff_audio.clip import FASTEST, SLOWEST, AudioError, Clip

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".w64", ".rf64", ".au")
LOUDEST = 8.0  # a float file whose peak exceeds this holds integers that nobody scaled, or noise
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF)  # what programs that stream write, not knowing the end


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
        seconds: how much to read; None reads to the end.
        longest: seconds above which a whole file is refused, rather than filling the memory.
        name: what to call bytes in a message.

    Raises:
        AudioError: unreadable, truncated, empty, too long, not finite, out of range, a rate outside 4 to 192 kHz.
        FileNotFoundError: no such file.
    """
    import soundfile

    name = name or ("<bytes>" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    short = _missing_bytes(data)
    if short:
        raise AudioError(
            "truncated", f"{name}, which lacks {short} of its data bytes", "a complete file", "Copy it again."
        )
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, frames = file.samplerate, file.frames
            if not SLOWEST <= rate <= FASTEST:
                raise AudioError(
                    "sample rate outside 4 to 192 kHz", f"{name} at {rate} Hz", f"{SLOWEST} to {FASTEST} Hz"
                )
            first = round(start * rate)
            count = frames - first if seconds is None else min(round(seconds * rate), frames - first)
            if frames == 0 or count <= 0:
                raise AudioError("empty", f"{name}, {frames} samples, read from {start} s", "at least one sample")
            if count > longest * rate:
                fix = f'Read a part, e.g. read("{name}", start=0, seconds=30), or raise longest=.'
                raise AudioError("too long", f"{name}, {count / rate:.0f} s", f"at most {longest:g} s at once", fix)
            file.seek(first)
            samples = file.read(count, dtype="float32", always_2d=True).T
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise AudioError("unreadable", f"{name}: {reason}", "a WAV, FLAC, OGG or MP3 file") from error
    if samples.shape[1] < count:
        raise AudioError(
            "truncated", f"{name}, {samples.shape[1]} of {count} samples", "a complete file", "Copy it again."
        )
    if not np.isfinite(samples).all():
        raise AudioError("not finite", f"{name} with NaN or Inf samples", "finite samples")
    peak = float(np.abs(samples).max())
    if peak > LOUDEST:
        fix = "Divide by 32768 if these are 16-bit integers stored as floats."
        raise AudioError("out of range", f"{name} with a peak of {peak:.3g}", "full scale at 1", fix)
    if peak > 1 + 1e-4:
        warnings.warn(f"{name} peaks at {peak:.3f}, above full scale (1.0); kept as it is.", stacklevel=2)
    return Clip(samples, rate)


def write(clip: Clip, path: str | Path) -> None:
    """A clip as 16-bit PCM, in the format of the path's suffix (WAV, FLAC); what exceeds full scale is cut off, with
    a warning.

    Raises:
        AudioError: a suffix libsndfile cannot write.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in (".wav", ".flac"):
        raise AudioError(
            "unknown format", str(path), "a path that ends in .wav or .flac", f'Write to "{path.with_suffix(".wav")}".'
        )
    if clip.peak > 1:
        over = 20 * np.log10(clip.peak)
        share = float(np.mean(np.abs(clip.samples) > 1))
        warnings.warn(
            f"{path}: {share:.2%} of the samples exceed full scale, by up to {over:.1f} dB; they are clipped.",
            stacklevel=2,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(clip.samples.T, -1, 1), clip.sample_rate, subtype="PCM_16")


def members(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each sound file below a folder, or inside a tar archive (compressed or not), sorted by name.

    Raises:
        AudioError: neither a folder nor a tar archive.
    """
    path = Path(path)
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            yield file.relative_to(path).as_posix(), file.read_bytes()
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            found = {}
            for member in archive:  # in the order they lie in: a compressed archive cannot be read backwards
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and Path(member.name).suffix.lower() in SUFFIXES:
                    found[member.name.removeprefix("./")] = file.read()
        yield from sorted(found.items())
    else:
        raise AudioError("no such sounds", str(path), "a folder of sound files or a tar archive of them")


def _missing_bytes(data: bytes) -> int:
    """How many bytes of a WAV file's data chunk are announced but absent; 0 for other formats and for streams of
    unknown size.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return 0
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if kind == b"data":
            return 0 if size in _UNKNOWN_SIZES else max(0, size - (len(data) - at - 8))
        at += 8 + size + size % 2
    return 0
