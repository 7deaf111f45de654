"""Damaged files against every reader: `python benchmarks/fuzz_readers.py [formats ...] [--count 2000] [--seed 0]`.

Good files of each format are damaged by a seeded generator (bits flipped, bytes and runs overwritten, cut out, doubled,
inserted, the file cut off, sizes set to extremes) and read. Allowed is: the file is read, or it is refused by a
DataError or a Rejected entry. Counted as a fault is any other exception, a process that dies, a file that takes longer
than LIMIT seconds or MEMORY bytes, and an item that is neither kept nor reported. Results: results/fuzz_readers.json.

A format is an entry of FORMATS: good files, and a function that reads one damaged file and returns "read" or "refused"
(it raises AssertionError where an item got lost).
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.errors import DataError

LIMIT, MEMORY = 10.0, 1.5 * 2**30  # seconds and bytes a file may take
EXTREMES = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00")


@dataclass(frozen=True)
class Format:
    """Good files of a format, and a reader: damaged bytes and an empty folder to "read" or "refused"."""

    good: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], str]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes of a file."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        near = min(len(out), 256) if rng.random() < 0.5 else len(out)  # headers are where the sizes are
        at, run = int(rng.integers(near)), int(rng.integers(1, 64))
        match int(rng.integers(8)):
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                out[at] = int(rng.integers(256))
            case 2:
                out[at : at + run] = rng.bytes(len(out[at : at + run]))
            case 3:
                del out[at : at + run]
            case 4:
                out[at:at] = out[at : at + run]
            case 5:
                out[at:at] = rng.bytes(run)
            case 6:
                del out[int(rng.integers(len(out))) :]
            case _:
                out[at : at + 4] = EXTREMES[int(rng.integers(len(EXTREMES)))]
    return bytes(out)


def refused(read: Callable[[], Any]) -> str:
    """ "read", or "refused" where a DataError says why not."""
    try:
        read()
    except DataError:
        return "refused"
    return "read"


# -- pictures ------------------------------------------------------------------------------------------------------


def pictures(kind: str) -> list[bytes]:
    """A grey, an RGB, a palette and a transparent picture, and what else the format has."""
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 256, (40, 48, 4), np.uint8)
    smooth = np.add.outer(np.arange(40) * 3, np.arange(48) * 2).astype(np.uint8)
    rgba = Image.fromarray(values)
    images: list[Any] = [Image.fromarray(smooth), rgba.convert("RGB"), rgba.convert("RGB").quantize(16)]
    if kind in ("PNG", "TIFF"):
        images += [rgba, Image.fromarray(smooth.astype(np.uint16) * 257)]
    if kind in ("JPEG", "TIFF"):
        images.append(rgba.convert("RGB").convert("CMYK"))
    if kind == "JPEG":
        images[2] = images[2].convert("L")
    options: list[dict[str, Any]] = [{} for _ in images]
    options[1] = {"JPEG": {"progressive": True}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    if kind == "GIF":
        options[0] = {"save_all": True, "append_images": [Image.fromarray(255 - smooth)]}
    out = []
    for image, option in zip(images, options, strict=True):
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, kind, **option, **({"exif": exif} if kind in ("JPEG", "PNG") else {}))
        out.append(file.getvalue())
    return out


def read_picture(data: bytes, folder: Path) -> str:
    from gendiff_images import read

    path = folder / "a.png"
    path.write_bytes(data)
    return refused(lambda: read(path, channels=3, size=32))


# -- sounds --------------------------------------------------------------------------------------------------------


def sounds(kind: str, *subtypes: str) -> list[bytes]:
    """Half a second of a tone in each subtype, one of them in stereo."""
    import soundfile

    wave = 0.3 * np.sin(np.arange(4000) * 0.3) + 0.01 * np.random.default_rng(0).standard_normal(4000)
    out = []
    for i, subtype in enumerate(subtypes):
        file = io.BytesIO()
        soundfile.write(file, wave if i else np.stack([wave, wave], 1), 8000, format=kind, subtype=subtype)
        out.append(file.getvalue())
    return out


def read_sound(data: bytes, folder: Path) -> str:
    from gendiff_audio import read

    path = folder / "a.wav"
    path.write_bytes(data)
    both = refused(lambda: read(path)), refused(lambda: read(path, start=0.1, seconds=0.1))
    return both[0]


# -- arrays, archives, tables --------------------------------------------------------------------------------------


def arrays() -> list[bytes]:
    """Pictures and labels, packed and not."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 8, 8), np.uint8), rng.integers(0, 3, 20)
    out = []
    for save in (np.savez, np.savez_compressed):
        for values in (x, (x / 255).astype("f4")):
            file = io.BytesIO()
            save(file, x=values, y=y, classes=np.array(["a", "b", "c"]))
            out.append(file.getvalue())
    return out


def read_arrays(data: bytes, folder: Path) -> str:
    from gendiff_images import Arrays, Images

    path = folder / "a.npz"
    path.write_bytes(data)
    source = Arrays(str(path), test_share=0.5)

    def read() -> None:
        domain = Images.of(source)
        for split in ("train", "test"):
            for example in source.load(split)[:4]:
                domain.encode(example.artifact)

    return refused(read)


def array() -> list[bytes]:
    out = []
    for values in (np.arange(60, dtype="f4").reshape(3, 20), np.arange(9, dtype=">i8"), np.array(["a", "bc"])):
        file = io.BytesIO()
        np.save(file, values)
        out.append(file.getvalue())
    return out


def read_array(data: bytes, folder: Path) -> str:
    from gendiff.files import load_array

    path = folder / "a.npy"
    path.write_bytes(data)
    return refused(lambda: load_array(path))


def archives() -> list[bytes]:
    """Ten sounds, a link, a table and a folder in a tar archive, plain and packed."""
    good = sounds("WAV", "PCM_16", "PCM_16")
    out = []
    for mode in ("w", "w:gz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
            for i in range(10):
                info = tarfile.TarInfo(f"{'low' if i % 2 else 'high'}/{i}.wav")
                data = good[i % 2] + bytes([i])
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            for name, kind in (("low/link.wav", tarfile.SYMTYPE), ("low", tarfile.DIRTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "0.wav"
                archive.addfile(info)
        out.append(file.getvalue())
    return out


def read_archive(data: bytes, folder: Path) -> str:
    from gendiff_audio import Sounds

    path = folder / "a.tar"
    path.write_bytes(data)

    def read() -> None:
        source = Sounds(str(path))
        names: Counter[str] = Counter()
        for split in ("train", "test"):
            try:
                examples = source.load(split)
            except DataError:
                return
            names.update(e.name for e in examples)
        assert max(names.values(), default=1) == 1, f"read twice: {names}"

    return refused(read)


def tables() -> list[bytes]:
    rows = "".join(f"{'low' if i % 2 else 'high'}/{i}.wav,{'low' if i % 2 else 'high'},{i}\n" for i in range(20))
    return [("path,label,take\n" + rows).encode(), ('path,label,"a, b"\n' + rows).encode("utf-8-sig")]


def read_table(data: bytes, folder: Path) -> str:
    from gendiff_audio import Sounds

    good = sounds("WAV", "PCM_16", "PCM_16")[1]
    for i in range(20):
        file = folder / ("low" if i % 2 else "high") / f"{i}.wav"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(good[:-2] + bytes([i, i]))
    (folder / "a.csv").write_bytes(data)

    def read() -> None:
        source = Sounds(str(folder), str(folder / "a.csv"))
        known: set[str] = set()
        for split in ("train", "test"):
            examples = source.load(split)
            known |= {e.name for e in examples} | {r.name for r in examples.rejected}
        lost = {f"{'low' if i % 2 else 'high'}/{i}.wav" for i in range(20)} - known
        assert not lost, f"lost: {lost}"

    return refused(read)


FORMATS: dict[str, Format] = {
    "jpeg": Format(lambda: pictures("JPEG"), read_picture),
    "png": Format(lambda: pictures("PNG"), read_picture),
    "gif": Format(lambda: pictures("GIF"), read_picture),
    "tiff": Format(lambda: pictures("TIFF"), read_picture),
    "wav": Format(lambda: sounds("WAV", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM"), read_sound),
    "aiff": Format(lambda: sounds("AIFF", "PCM_16", "PCM_24"), read_sound),
    "flac": Format(lambda: sounds("FLAC", "PCM_16", "PCM_24"), read_sound),
    "ogg": Format(lambda: sounds("OGG", "VORBIS", "VORBIS"), read_sound),
    "mp3": Format(lambda: sounds("MP3", "MPEG_LAYER_III", "MPEG_LAYER_III"), read_sound),
    "npz": Format(arrays, read_arrays),
    "npy": Format(array, read_array),
    "tar": Format(archives, read_archive),
    "csv": Format(tables, read_table),
}


def damaged(name: str, count: int, seed: int) -> Iterator[bytes]:
    """`count` damaged files of a format, always the same for a seed."""
    good = FORMATS[name].good()
    for i in range(count):
        rng = np.random.default_rng([seed, sorted(FORMATS).index(name), i])
        yield damage(good[i % len(good)], rng)


def alarm(*_: Any) -> None:
    raise TimeoutError(f"longer than {LIMIT} s")


def attempt(name: str, data: bytes) -> str:
    """What a reader makes of a damaged file: "read", "refused", or the fault's name."""
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return FORMATS[name].read(data, Path(folder))
    except Exception as error:  # noqa: BLE001 - what is sought: nothing but a DataError may leave a reader
        line = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(line.filename).name}:{line.lineno}: {str(error)[:80]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def peak() -> int:
    """The largest memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(name: str, count: int, seed: int, out: Any) -> None:
    """All damaged files of a format in a process of their own; each outcome is sent as it comes."""
    import gendiff_audio  # noqa: F401 - imports count neither as time nor as memory of a file
    import gendiff_images  # noqa: F401

    for data in FORMATS[name].good():
        with tempfile.TemporaryDirectory() as folder:
            FORMATS[name].read(data, Path(folder))
    for data in damaged(name, count, seed):
        before, start = peak(), time.perf_counter()
        outcome = attempt(name, data)
        grown = peak() - before
        out.send((outcome if grown < MEMORY else f"memory: {grown:,} bytes", time.perf_counter() - start, grown))
    out.close()


def measure(name: str, count: int, seed: int) -> dict[str, Any]:
    """Counts of outcomes of a format."""
    there, here = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run, args=(name, count, seed, here))
    process.start()
    here.close()
    outcomes: Counter[str] = Counter()
    slowest, memory = 0.0, 0
    try:
        while True:
            outcome, seconds, grown = there.recv()
            outcomes[outcome] += 1
            slowest, memory = max(slowest, seconds), max(memory, grown)
    except EOFError:
        process.join()
    tried = sum(outcomes.values())
    faults = {k: v for k, v in outcomes.items() if k not in ("read", "refused")}
    if tried < count:
        faults[f"the process died with {process.exitcode} at file {tried}"] = 1
    return {
        "files": tried, "read": outcomes["read"], "refused": outcomes["refused"], "faults": faults,
        "slowest_s": round(slowest, 3), "largest_growth_mb": round(memory / 2**20, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged files against every reader.")
    parser.add_argument("formats", nargs="*", default=[], help=f"of {', '.join(FORMATS)}; all by default")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fuzz_readers.json")
    args = parser.parse_args()
    old = json.loads(args.out.read_text()) if args.out.is_file() else {}
    bad = 0
    for name in args.formats or FORMATS:
        found = measure(name, args.count, args.seed)
        old[name] = {"seed": args.seed, **found}
        bad += len(found["faults"])
        print(name, json.dumps(found), flush=True)
        args.out.write_text(json.dumps(old, indent=1, sort_keys=True) + "\n")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
