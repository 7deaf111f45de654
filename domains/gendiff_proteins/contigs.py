r"""Contigs: which residues of a file a design keeps, in which order, and how many are made between them.

    contig   chains, each of segments:  Gap(low, high) residues to make,  Piece(chain, first, last) residues of the file

Four spellings are read; the first is what `str` writes.

    RFdiffusion   10-40/A163-181/10-40        "/0 ", or a space, ends a chain:  A1-150/0 70-100
    RFdiffusion3  10-40,A163-181,/0,B5-12     commas, "/0" ends a chain
    MotifBench    12;B;15;A;29                semicolons; a letter alone is that chain of the motif's file, 0 no residue
    REMARK 999    INPUT  A 163 181 B          Genie 2: one segment a line, the last letter a group that moves by itself

How many residues each gap has is drawn evenly from all choices whose sum is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from gendiff.errors import GendiffError
from gendiff.random import Noise

LONGEST = 100_000  # residues; more is a slip of the pen

_NUMBER = r"-?\d+[A-Za-z]?"
_PIECE = re.compile(rf"(?P<chain>[A-Za-z]+|[A-Za-z0-9]+:)(?:(?P<first>{_NUMBER})(?:-(?P<last>{_NUMBER}))?)?")
_GAP = re.compile(r"(?P<low>\d+)(?:-(?P<high>\d+))?")


class ContigError(GendiffError):
    """A contig that cannot be read, or that does not fit."""


@dataclass(frozen=True)
class Gap:
    """Residues to make, at least `low` and at most `high`."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= LONGEST:
            raise ContigError(f"a gap of {self.low} to {self.high} residues", f"0 <= low <= high <= {LONGEST}", "10-40")

    def __str__(self) -> str:
        return f"{self.low}" if self.low == self.high and self.low else f"{self.low}-{self.high}"


@dataclass(frozen=True)
class Piece:
    """Residues of a file, by its numbers; without any the whole chain.

    Attributes:
        chain: The chain's id.
        first: The first residue's number with its insertion code, "52" or "52A"; empty for the whole chain.
        last: The last one's.
        group: Pieces of one group keep their places to each other; groups move by themselves. Empty is one group.
    """

    chain: str
    first: str = ""
    last: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]+", self.chain):
            raise ContigError(f"the chain {self.chain!r} of a piece", "letters and digits", "A16-35")
        for number in (self.first, self.last):
            if number and not re.fullmatch(_NUMBER, number):
                raise ContigError(f"the residue {number!r} of a piece", 'a number such as "52" or "52A"', "A16-35")
        if bool(self.first) != bool(self.last):
            raise ContigError(f"a piece from {self.first!r} to {self.last!r}", "both ends, or none", "A16-35")

    def __str__(self) -> str:
        """As `Structure` selects it: "A16-35", "A52", "A"; a colon ends an id with digits in it."""
        colon = ":" if any(c.isdigit() for c in self.chain) else ""
        if not self.first:
            return f"{self.chain}{colon}"
        return f"{self.chain}{colon}{self.first}" + ("" if self.last == self.first else f"-{self.last}")

    @property
    def selection(self) -> str:
        """For `structure[...]`."""
        return str(self).removesuffix(":") if not self.first else str(self)


Segment = Gap | Piece


@dataclass(frozen=True)
class Contig:
    """What a design is made of.

    Attributes:
        chains: Of the design, each with its segments.
        length: Least and most residues of the whole, known ones among them; None for what the gaps allow.
    """

    chains: tuple[tuple[Segment, ...], ...]
    length: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.chains or not all(self.chains):
            raise ContigError("a contig with an empty chain", "a segment in each", "10-40/A163-181/10-40")
        if self.length is not None and not 0 < self.length[0] <= self.length[1] <= LONGEST:
            raise ContigError(f"a contig of {self.length[0]} to {self.length[1]} residues", "0 < least <= most", "")

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(segment for chain in self.chains for segment in chain)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return tuple(segment for segment in self.segments if isinstance(segment, Gap))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return tuple(segment for segment in self.segments if isinstance(segment, Piece))

    def __str__(self) -> str:
        """RFdiffusion's spelling; groups and the total length are not part of it."""
        return "/0 ".join("/".join(map(str, chain)) for chain in self.chains)

    @classmethod
    def parse(cls, text: str, length: int | str | tuple[int, int] | None = None) -> Contig:
        """A contig in any of the spellings of one line.

        Args:
            text: The contig; brackets and quotes around it are taken off.
            length: Of the whole: a number, "55-100", or least and most.

        Raises:
            ContigError: With the segment that is wrong.
        """
        whole = text.strip().strip("[]'\" ").strip()
        if not whole:
            raise ContigError("an empty contig", "segments", "10-40/A163-181/10-40")
        if ";" in whole:
            chains = [[segment_of(part, text) for part in whole.split(";")]]
        else:
            tidy = re.sub(r"\s*,\s*", ",", re.sub(r"\s*/\s*(?!0(?:[\s,/]|$))", "/", whole))
            chains = [
                [segment_of(part, text) for part in re.split(r"[/,]", chain.strip(",/ "))]
                for chain in re.split(r"[,\s]*[/\\]0(?:[\s,/]+|$)|\s+", tidy)
                if chain.strip(",/ ")
            ]
        return cls(tuple(map(tuple, chains)), ends_of(length))

    @classmethod
    def of_remarks(cls, lines: Iterable[str]) -> Contig | None:
        """The contig in a motif file's REMARK records: Genie 2's (999) or MotifBench's (2 and 3); None for neither.

        Raises:
            ContigError: With the record that is wrong.
        """
        segments: list[Segment] = []
        least: int | None = None
        most: int | None = None
        placed: str | None = None
        for line in lines:
            words = line.split()
            if words[:3] == ["REMARK", "999", "INPUT"]:
                segments.append(remark_segment(words[3:], line.rstrip()))
            elif words[:2] == ["REMARK", "999"] and words[3:5] == ["TOTAL", "LENGTH"] and len(words) == 6:
                number = count(words[5], line)
                least, most = (number, most) if words[2] == "MINIMUM" else (least, number)
            elif words[:2] == ["REMARK", "2"] and "Placement" in words and ":" in line:
                placed = line.split(":", 1)[1].strip()
            elif words[:2] == ["REMARK", "3"] and "Length" in words and ":" in line:
                least = most = count(line.split(":", 1)[1].strip(), line)
        length = None if least is None or most is None else (least, most)
        if segments:
            return cls((tuple(segments),), length)
        if placed is None:
            return None
        found = cls.parse(placed)  # where the pieces lie in the natural chain; the design has its own length
        inner = tuple(Gap(0, length[1]) if length and isinstance(s, Gap) else s for s in found.segments)
        return replace(found, chains=(inner,), length=length)

    def remarks(self) -> list[str]:
        """Genie 2's REMARK 999 records of a design of one chain.

        Raises:
            ContigError: For several chains, and pieces without numbers, which these records cannot say.
        """
        if len(self.chains) > 1:
            raise ContigError(f"REMARK 999 records of {len(self.chains)} chains", "a design of one chain", "")
        lines = []
        for segment in self.segments:
            if isinstance(segment, Gap):
                lines.append(f"REMARK 999 INPUT    {segment.low:>3} {segment.high:>3}")
            elif segment.first:
                group = f" {segment.group}" if segment.group else ""
                lines.append(f"REMARK 999 INPUT  {segment.chain} {segment.first:>3} {segment.last:>3}{group}")
            else:
                raise ContigError(f"a REMARK 999 record of the whole chain {segment.chain}", "numbers", "A16-35")
        if self.length is not None:
            lines += [
                f"REMARK 999 {word} TOTAL LENGTH      {number}"
                for word, number in zip(("MINIMUM", "MAXIMUM"), self.length, strict=True)
            ]
        return lines

    def bounds(self, known: int) -> tuple[int, int]:
        """The least and the most residues that the gaps have together, beside so many known ones.

        Raises:
            ContigError: For a total length that cannot be.
        """
        low, high = (sum(values) for values in zip(*((gap.low, gap.high) for gap in self.gaps), (0, 0), strict=True))
        if self.length is None:
            return low, high
        least, most = (end - known for end in self.length)
        if most < low or least > high:
            raise ContigError(
                f"{self}, which has {known + low} to {known + high} residues, with a length of {self.length[0]} to "
                f"{self.length[1]}", "a length that the gaps allow", f"length={known + low}-{known + high}",
            )  # fmt: skip
        return max(low, least), min(high, most)

    def draw(self, known: Sequence[int], noise: Noise) -> list[Contig]:
        """Contigs whose gaps have one size, drawn evenly from all sizes that are allowed together.

        Args:
            known: Residues of each piece.
            noise: One draw for each of its samples.

        Raises:
            ContigError: For a total length that cannot be.
        """
        if len(known) != len(self.pieces):
            raise ContigError(f"sizes of {len(known)} pieces", f"those of {len(self.pieces)}", "")
        least, most = self.bounds(sum(known))
        gaps = self.gaps
        ways = ways_of(gaps, most)
        u = noise.fork("contig").uniform((len(noise.index), len(gaps) + 1)).tolist()
        drawn = []
        for row in u:
            left = chosen([ways[0][total] for total in range(least, most + 1)], row[0]) + least
            sizes = []
            for k, gap in enumerate(gaps):
                options = [ways[k + 1][left - size] if size <= left else 0 for size in range(gap.low, gap.high + 1)]
                sizes.append(gap.low + chosen(options, row[k + 1]))
                left -= sizes[-1]
            drawn.append(self.sized(sizes))
        return drawn

    def sized(self, sizes: Sequence[int]) -> Contig:
        """The same with gaps of these sizes; a gap of none is left out where the chain has another segment."""
        rest = iter(sizes)
        chains = []
        for chain in self.chains:
            own = [Gap(n, n) if isinstance(s, Gap) and (n := next(rest)) is not None else s for s in chain]
            chains.append(tuple(s for s in own if s != Gap(0, 0)) or tuple(own[:1]))
        return Contig(tuple(chains))


def ways_of(gaps: Sequence[Gap], most: int) -> list[list[int]]:
    """How many sizes of the gaps from the k-th on there are for each sum, [len(gaps) + 1][most + 1]."""
    ways = [[1] + [0] * most]
    for gap in reversed(gaps):
        after = list(accumulate(ways[0], initial=0))  # sums over ranges in one subtraction
        ways.insert(0, [
            after[max(total - gap.low + 1, 0)] - after[max(total - gap.high, 0)] if total >= gap.low else 0
            for total in range(most + 1)
        ])  # fmt: skip
    return ways


def chosen(weights: Sequence[int], u: float) -> int:
    """The index at quantile u of whole weights, which may be larger than a float can say."""
    total = sum(weights)
    at = min(int(u * (1 << 53)) * total >> 53, total - 1)
    for k, weight in enumerate(weights):
        at -= weight
        if at < 0:
            return k
    raise AssertionError("no weight")  # pragma: no cover


def ends_of(length: int | str | tuple[int, int] | None) -> tuple[int, int] | None:
    """A total length in any of its spellings."""
    if length is None or isinstance(length, tuple):
        return length
    match = _GAP.fullmatch(str(length).strip())
    if match is None:
        raise ContigError(f"the length {length!r}", "a number or a range", "length=55-100")
    low = int(match["low"])
    return low, int(match["high"] or low)


def count(text: str, line: str) -> int:
    """A number of residues in a record."""
    if not text.isdecimal():
        raise ContigError(f"the record {line.rstrip()!r}", "a number of residues", "")
    return int(text)


def segment_of(part: str, text: str) -> Segment:
    """One segment.

    Raises:
        ContigError: For anything else, with the whole contig.
    """
    word = part.strip()
    if gap := _GAP.fullmatch(word):
        low = int(gap["low"])
        return Gap(low, int(gap["high"] or low))
    if piece := _PIECE.fullmatch(word):
        first = piece["first"] or ""
        return Piece(piece["chain"].rstrip(":"), first, piece["last"] or first)
    raise ContigError(
        f"the segment {word!r} of the contig {text!r}",
        'residues of a file ("A163-181", "A52A", "A"), or how many to make ("15", "10-40")', "10-40/A163-181/10-40",
    )  # fmt: skip


def remark_segment(words: Sequence[str], line: str) -> Segment:
    """One INPUT record of REMARK 999."""
    if len(words) == 2 and all(word.isdecimal() for word in words):
        return Gap(int(words[0]), int(words[1]))
    if len(words) in (3, 4) and all(re.fullmatch(_NUMBER, word) for word in words[1:3]):
        return Piece(*words)
    raise ContigError(
        f"the record {line!r}", "a range of lengths, or a chain, two residues and a group", "INPUT  A 16 35"
    )
