"""How long a sound file is: what its container announces, against the bytes that lie in it.

Uncompressed containers (WAV, RF64, AIFF, W64, AU, CAF, NIST) announce the size S of their samples before these come; R
bytes follow. libsndfile reads what is there and says nothing, so here both are compared, once and for every container:

    S > R                    the file was cut off: refused, unless S is a value written by programs that stream
    S < R, chunks follow     as it should be
    S < R, no chunks follow  a recorder crashed (S = 0), or 32 bits were too few: the samples go on to the end, or to
                             the chunks that end the file

What a coder filled up its last block with is no sound: there the number of samples beside S is believed (`fact`, COMM).
An MPEG stream has no such size. Its frames are counted (each names its own length), since a guess from the first bit
rate errs by a factor where the rate varies and no Xing frame says so. An Ogg stream ends with a page marked as last.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from gendiff_audio.clip import AudioError

HEADER = 2**24  # bytes in which the samples of a sane file begin; no more zeros than these fill a file up
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # hertz, by MPEG version bits
KBITS = {  # by (version 1?, layer bits): layer I is 3, II is 2, III is 1
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class Layout:
    """Where the samples lie: `size` bytes from `start` on are announced (None: as many as come), by the bytes at
    `field` of the form `form` ("": as text); a frame of all channels takes `block` bytes (0: unknown). `frames` are
    announced beside the size (0: none are).
    """

    start: int
    size: int | None
    field: int
    form: str
    block: int
    little: bool
    frames: int = 0


def streamed(size: int) -> bool:
    """Whether a size is what programs write that do not know the end yet."""
    return size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x80000000


def layout(file: BinaryIO) -> Layout | None:
    """The layout of an uncompressed file; None for other formats and where no samples are found."""
    file.seek(0)
    head = file.read(HEADER)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return wave_layout(head)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return aiff_layout(head)
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return w64_layout(head)
    if head[:4] == b".snd" and len(head) >= 24:
        start, size = struct.unpack_from(">II", head, 4)
        return Layout(start, None if streamed(size) else size, 8, ">I", 0, False)
    if head[:4] == b"caff":
        return caf_layout(head)
    return nist_layout(head) if head[:8] == b"NIST_1A\n" else None


def wave_block(head: bytes, at: int, order: str) -> int:
    """Bytes of a frame, from a WAVEFORMAT structure; 0 where the samples are compressed."""
    coding, block = struct.unpack_from(order + "H10xH", head, at)
    return block if coding in (1, 3, 6, 7, 0xFFFE) else 0


def wave_layout(head: bytes) -> Layout | None:
    """RIFF, RIFX and RF64: chunks, little-endian but in RIFX; RF64 keeps 64-bit sizes in a chunk of their own."""
    order = ">" if head[:4] == b"RIFX" else "<"
    at, block, wide, frames = 12, 0, None, 0
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], struct.unpack_from(order + "I", head, at + 4)[0]
        if kind == b"ds64" and at + 24 <= len(head):
            wide = at + 16
        if kind == b"fmt " and at + 22 <= len(head):
            block = wave_block(head, at + 8, order)
        if kind == b"fact" and at + 12 <= len(head) and not block:
            frames = struct.unpack_from(order + "I", head, at + 8)[0]
        if kind == b"data":
            if wide is not None and size == 0xFFFFFFFF:
                total = struct.unpack_from("<Q", head, wide)[0]
                return Layout(at + 8, total if total < 2**63 else None, wide, "<Q", block, True, frames)
            known = None if streamed(size) else size
            return Layout(at + 8, known, at + 4, order + "I", block, order == "<", frames)
        at += 8 + size + size % 2
    return None


def aiff_layout(head: bytes) -> Layout | None:
    """AIFF and AIFC: big-endian chunks; 8 bytes, and as many as the first of them say, stand before the samples."""
    at, block, frames = 12, 0, 0
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], struct.unpack_from(">I", head, at + 4)[0]
        if kind == b"COMM" and at + 16 <= len(head):
            channels, frames, bits = struct.unpack_from(">HIH", head, at + 8)
            coding = head[at + 26 : at + 30] if head[8:12] == b"AIFC" else b"NONE"
            width = 1 if coding.lower() in (b"ulaw", b"alaw") else (bits + 7) // 8
            plain = (b"none", b"twos", b"sowt", b"in24", b"in32", b"fl32", b"fl64", b"ulaw", b"alaw")
            block = channels * width if coding.lower() in plain else 0
        if kind == b"SSND" and at + 12 <= len(head):
            skip = 8 + struct.unpack_from(">I", head, at + 8)[0]
            known = None if streamed(size) else max(0, size - skip)
            padded = known is not None and block and known - frames * block == 1
            return Layout(at + 8 + skip, known, at + 4, ">I", block, False, frames if padded else 0)
        at += 8 + size + size % 2
    return None


def w64_layout(head: bytes) -> Layout | None:
    """Sony Wave64: names of 16 bytes, sizes of 64 bits that count the names too, all in steps of 8."""
    at, block = 40, 0
    while at + 24 <= len(head):
        size = struct.unpack_from("<Q", head, at + 16)[0]
        if head[at : at + 4] == b"fmt " and at + 38 <= len(head):
            block = wave_block(head, at + 24, "<")
        if head[at : at + 4] == b"data":
            return Layout(at + 24, max(0, size - 24), at + 16, "<Q", block, True)
        if size < 24:
            return None
        at += size + -size % 8
    return None


def nist_layout(head: bytes) -> Layout | None:
    """NIST's SPHERE: a page of text in front of the samples, a line for each fact: name, type, value."""
    lines = [line.split() for line in head[:8192].decode("latin-1").split("\n")]
    facts = {line[0]: line[2] for line in lines if len(line) == 3}
    keys = ("sample_count", "channel_count", "sample_n_bytes")
    try:
        start, (frames, channels, width) = int(head[8:16]), (int(facts[key]) for key in keys)
    except (KeyError, ValueError):
        return None
    return Layout(start, frames * channels * width, 0, "", channels * width, True)


def caf_layout(head: bytes) -> Layout | None:
    """Apple's Core Audio: sizes of 64 bits, -1 for as much as comes; 4 bytes stand before the samples."""
    at = 8
    while at + 12 <= len(head):
        size = struct.unpack_from(">q", head, at + 4)[0]
        if head[at : at + 4] == b"data":
            return Layout(at + 16, None if size < 0 else max(0, size - 4), at + 4, ">q", 0, False)
        if size < 0:
            return None
        at += 12 + size
    return None


class Headed:
    """A file whose first `start` bytes are read as `head`, of the same or another length; the disk is not changed."""

    def __init__(self, head: bytes, file: BinaryIO, start: int) -> None:
        self.head, self.file, self.start, self.at = head, file, start, 0

    def tell(self) -> int:
        return self.at

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        end = self.file.seek(0, io.SEEK_END) - self.start + len(self.head)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at}.get(whence, end)
        self.at = min(max(0, base + place), end)  # a damaged header asks for places that no file has
        return self.at

    def read(self, count: int = -1) -> bytes:
        first = self.head[self.at :] if count < 0 else self.head[self.at : self.at + count]
        self.file.seek(self.start + max(0, self.at + len(first) - len(self.head)))
        data = first + (b"" if 0 <= count <= len(first) else self.file.read(count - len(first) if count >= 0 else -1))
        self.at += len(data)
        return data


def mended(file: BinaryIO, size: int, name: str) -> tuple[BinaryIO, Layout | None, str]:
    """A file whose announced length is that of its samples, its layout, and what was wrong.

    Raises:
        AudioError: fewer bytes than announced, or more in a container whose size cannot be told to libsndfile.
    """
    found = layout(file)
    file.seek(0)
    if found is None:
        return file, None, ""
    held = max(0, size - found.start)
    least = max(found.block, 1)
    if found.size is not None and found.size - held >= least:
        missing = f"{name}, which lacks {found.size - held} of its {found.size} data bytes"
        raise AudioError("truncated", missing, "a complete file", "Copy it again.")
    if found.size is not None and not (found.form and goes_on(file, found, size)):
        return file, found, ""
    held = last_chunks(file, found, size) - found.start
    said = "" if found.size is None else f"{name} announces {found.size} bytes of samples, and {held} are there"
    file.seek(0)
    view: Any = Headed(mended_head(file.read(found.start), found, held), file, found.start)
    return view, replace(found, size=held, frames=0), said


def mended_head(head: bytes, found: Layout, held: int) -> bytes:
    """The bytes before the samples, announcing `held` bytes of them; a WAV of more than 4 GB becomes an RF64."""
    if found.form == "<I" and held >= 0xFFFFFF00:
        sizes = struct.pack("<QQQI", len(head) + held, held, 0, 0)
        before = b"WAVEds64" + struct.pack("<I", len(sizes)) + sizes
        return b"RF64" + b"\xff" * 4 + before + head[12:-4] + b"\xff" * 4
    before = found.start - found.field - 4 if head[:4] == b"FORM" else 0
    extra = {"<Q": 24 if head[:4] == b"riff" else 0, ">q": 4, ">I": before}.get(found.form, 0)
    most = {"<I": 2**32 - 1, ">I": 2**32 - 1}.get(found.form, 2**63 - 1)
    new = struct.pack(found.form, min(held + extra, most))
    return head[: found.field] + new + head[found.field + len(new) :]


def goes_on(file: BinaryIO, found: Layout, size: int) -> bool:
    """Whether samples follow behind the announced ones: something that is no chunk, no tag and no padding."""
    assert found.size is not None
    at = found.start + found.size
    at += at % 2
    if size - at <= max(found.block, 8):
        return False
    file.seek(at)
    rest = file.read(2**16)
    if rest[:3] in (b"ID3", b"TAG") or (blank(rest) and size - at <= HEADER and blank(file.read())):
        return False
    order = "<I" if found.little else ">I"
    while size - at >= 8:
        file.seek(at)
        head = file.read(8)
        length = struct.unpack_from(order, head, 4)[0]
        if not all(32 <= c < 127 for c in head[:4]) or at + 8 + length > size + 1:
            return True
        at += 8 + length + length % 2
    return False


def blank(data: bytes) -> bool:
    """Whether all bytes are 0."""
    return data.count(0) == len(data)


def last_chunks(file: BinaryIO, found: Layout, size: int) -> int:
    """Where the chunks begin that end a file (at most the last 64 KiB), found from the end; `size` if there are none.

    A chunk at i, of a printable name and length n, ends where the next begins: i + 8 + n (+ 1 if odd) = end.
    """
    first = max(found.start, size - 2**16) // 2 * 2
    file.seek(first)
    data = file.read()
    u = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if found.little else ">u2").astype(np.int64)
    if len(u) < 4:
        return size
    low, high = (u[2:-1], u[3:]) if found.little else (u[3:], u[2:-1])
    length, place = low + (high << 16), 2 * np.arange(len(u) - 3)
    end, ends = len(data), place + 8 + length
    while True:
        fits = np.flatnonzero((ends == end) | (ends + length % 2 == end))
        named = [int(i) for i in place[fits] if all(32 <= c < 127 for c in data[i : i + 4])]
        if not named or first + named[0] < found.start:
            return first + end
        end = named[0]


# -- MPEG ----------------------------------------------------------------------------------------------------------


def mpeg_frame(data: bytes, at: int) -> tuple[int, int] | None:
    """Bytes and samples of the MPEG frame that begins at a place; None where none begins."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    kbits, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer == 0 or kbits in (0, 15) or rate == 3:
        return None
    first = version == 3
    bits, hertz, pad = 1000 * KBITS[first, layer][kbits], RATES[version][rate], data[at + 2] >> 1 & 1
    if layer == 3:
        return (12 * bits // hertz + pad) * 4, 384
    samples = 576 if layer == 1 and not first else 1152
    return samples // 8 * bits // hertz + pad, samples


@dataclass(frozen=True)
class Mpeg:
    """A stream of MPEG frames: its first one's place, how many there are and their samples, the number a Xing frame
    announces and the place of that number, and whether the last one is cut.
    """

    start: int
    frames: int
    samples: int
    announced: int | None
    field: int
    cut: bool


def tag_length(head: bytes) -> int:
    """Bytes of the ID3 tag that begins with these ten; 0 where none begins."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((head[6 + i] & 127) << 7 * (3 - i) for i in range(4)) + (10 if head[5] & 16 else 0)


def mpeg(data: bytes) -> Mpeg | None:
    """The frames of an MPEG stream, counted; None for anything else."""
    at = 0
    while length := tag_length(data[at : at + 10]):
        at += length
    if at == 0 and mpeg_frame(data, 0) is None:
        return None
    start, frames, samples, announced, field, cut = -1, 0, 0, None, 0, False
    while at + 4 <= len(data):
        found = mpeg_frame(data, at)
        if found is None or (start < 0 and at + found[0] + 4 <= len(data) and mpeg_frame(data, at + found[0]) is None):
            if data[at : at + 3] == b"TAG" or data[at : at + 8] in (b"APETAGEX", b"LYRICSBE"):
                break
            at = data.find(b"\xff", at + 1)
            if at < 0:
                break
            continue
        length, count = found
        if start < 0:
            start = at
            side = (32, 17) if data[at + 1] >> 3 & 3 == 3 else (17, 9)
            place = at + 4 + side[data[at + 3] >> 6 == 3]
            if data[place : place + 4] in (b"Xing", b"Info"):
                if place + 12 <= len(data) and data[place + 7] & 1:
                    announced, field = struct.unpack_from(">I", data, place + 8)[0], place + 8
                at += length
                continue
        if at + length > len(data):
            cut = True
            break
        frames, samples, at = frames + 1, samples + count, at + length
    return None if start < 0 else Mpeg(start, frames, samples, announced, field, cut)


def counted(data: bytes, name: str) -> tuple[BinaryIO, int | None]:
    """An MPEG stream whose number of frames is announced as it is, and its samples; other bytes as they are.

    Raises:
        AudioError: a last frame that is cut, or fewer frames than announced.
    """
    found = mpeg(data)
    if found is None or found.frames == 0:
        return io.BytesIO(data), None
    if found.cut or (found.announced is not None and found.frames < found.announced - 1):
        said = "" if found.announced is None else f" of {found.announced}"
        raise AudioError("truncated", f"{name}, {found.frames}{said} whole frames", "a complete file", "Copy it again.")
    if found.announced is not None and abs(found.announced - found.frames) <= 1:
        return io.BytesIO(data), None
    count = struct.pack(">I", found.frames)
    if found.announced is not None:
        return io.BytesIO(data[: found.field] + count + data[found.field + 4 :]), found.samples
    head = bytes((data[found.start], data[found.start + 1] | 1, *data[found.start + 2 : found.start + 4]))
    side = ((32, 17) if head[1] >> 3 & 3 == 3 else (17, 9))[head[3] >> 6 == 3]
    length = (mpeg_frame(head, 0) or (0, 0))[0]
    info = head + bytes(side) + b"Info" + struct.pack(">I", 1) + count
    if len(info) > length or head[1] >> 1 & 3 != 1:
        return io.BytesIO(data), None
    return io.BytesIO(info + bytes(length - len(info)) + data[found.start :]), found.samples


def unfinished(data: bytes) -> bool:
    """Whether the end of an Ogg stream lacks the page that is marked as its last, or a part of it."""
    at = data.rfind(b"OggS")
    if at + 27 > len(data):
        return True
    body = at + 27 + data[at + 26]
    return not data[at + 5] & 4 or body + sum(data[at + 27 : body]) > len(data)
