"""Contigs: four spellings, there and back; lengths drawn evenly; what is refused."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gendiff.random import Noise
from gendiff_proteins.contigs import Contig, ContigError, Gap, Piece

DATA = Path(os.environ.get("GENDIFF_DATA", "data"))

numbers = st.builds(lambda n, code: f"{n}{code}", st.integers(-20, 4000), st.sampled_from(("", "", "", "A", "b")))
gaps = st.builds(lambda low, more: Gap(low, low + more), st.integers(0, 40), st.integers(0, 30))
chains = st.one_of(st.text("ABCxyz", min_size=1, max_size=2), st.text("AB12", min_size=1, max_size=3))
pieces = st.one_of(st.builds(Piece, chains), st.builds(Piece, chains, numbers, numbers))
grouped = st.builds(Piece, st.sampled_from("ABC"), numbers, numbers, st.sampled_from(("", "A", "B")))
contigs = st.builds(
    lambda made: Contig(tuple(map(tuple, made))),
    st.lists(st.lists(st.one_of(gaps, pieces), min_size=1, max_size=5), min_size=1, max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(contigs)
def test_a_contig_is_read_as_it_was_written(contig: Contig) -> None:
    assert Contig.parse(str(contig)) == contig
    assert Contig.parse(f"['{contig}']") == contig
    rfd3 = ",/0,".join(",".join(map(str, chain)) for chain in contig.chains)
    assert Contig.parse(rfd3) == contig
    assert Contig.parse(rfd3.replace(",", " , ")) == contig


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(gaps, grouped), min_size=1, max_size=6),
    st.one_of(st.none(), st.tuples(st.integers(1, 50), st.integers(50, 300))),
)  # fmt: skip
def test_records_of_a_file_are_read_as_they_were_written(
    chain: list[Gap | Piece], length: tuple[int, int] | None
) -> None:
    contig = Contig((tuple(chain),), length)
    assert Contig.of_remarks(contig.remarks()) == contig


@settings(max_examples=300, deadline=None)
@given(st.text("AB019-/,; \\:[]'", max_size=14))
def test_any_line_is_read_or_refused(text: str) -> None:
    try:
        contig = Contig.parse(text)
    except ContigError:
        return
    assert Contig.parse(str(contig)) == contig


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("10-40/A163-181/10-40", "10-40/A163-181/10-40"),
        ("[A1-150/0 70-100]", "A1-150/0 70-100"),
        ("A1-150 70-100", "A1-150/0 70-100"),
        ("124-124/0 B1-79/0 B101-195/0", "124/0 B1-79/0 B101-195"),
        ("40-120,/0,E6-155", "40-120/0 E6-155"),
        ("A1-80,10,\\0,B5-12", "A1-80/10/0 B5-12"),
        ("A40-60, 70, A203,/0,B3-45", "A40-60/70/A203/0 B3-45"),
        ("12;B;15;A;29", "12/B/15/A/29"),
        ("12/B/15/A/29", "12/B/15/A/29"),
        ("1;A;0", "1/A/0-0"),
        ("A100", "A100"),
        ("360", "360"),
        ("B1-94/B52A", "B1-94/B52A"),
        ("1A:5-9/4", "1A:5-9/4"),
    ],
)
def test_spellings_of_others(text: str, written: str) -> None:
    assert str(Contig.parse(text)) == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty contig"), ("10-5", "10 to 5"), ("A10-20-30", "'A10-20-30'"), ("10/?/5", "'\\?'"),
        ("10//5", "segment ''"), ("A-", "'A-'"), ("100001", "100001"),
    ],
)  # fmt: skip
def test_what_is_no_contig(text: str, said: str) -> None:
    with pytest.raises(ContigError, match=said):
        Contig.parse(text)


def test_lengths_are_drawn_evenly_from_all_that_are_allowed() -> None:
    contig = Contig.parse("0-3/A5-8/2-4/A20/1-3", "12-13")
    drawn = contig.draw([4, 1], Noise.of(0, 6000))
    sizes = Counter((a, b, c) for one in drawn for a, b, c in [_sizes(one)])
    allowed = {(a, b, c) for a in range(4) for b in (2, 3, 4) for c in (1, 2, 3) if 7 <= a + b + c <= 8}
    assert set(sizes) == allowed
    expected = 6000 / len(allowed)
    assert sum((n - expected) ** 2 / expected for n in sizes.values()) < 3 * len(allowed)
    assert drawn[:5] == contig.draw([4, 1], Noise.of(0, 5))  # a design's own
    with pytest.raises(ContigError, match=r"8 to 15 residues, with a length of 40 to 50.*length=8-15"):
        Contig.parse("0-3/A5-8/2-4/A20/1-3", "40-50").draw([4, 1], Noise.of(0, 1))


def _sizes(contig: Contig) -> tuple[int, int, int]:
    chain = contig.chains[0]
    first = chain[0].low if isinstance(chain[0], Gap) else 0
    middle = chain[2 if first else 1]
    last = chain[-1]
    assert isinstance(middle, Gap)
    assert isinstance(last, Gap)
    return first, middle.low, last.low


def test_every_motif_file_with_records_is_read() -> None:
    archive = DATA / "proteins" / "motif_scaffolding.tar.gz"
    if not archive.exists():
        pytest.skip("GENDIFF_DATA has no proteins/motif_scaffolding.tar.gz")
    read = 0
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            file = files.extractfile(member) if member.name.endswith(".pdb") else None
            if file is None:
                continue
            contig = Contig.of_remarks(file.read().decode().splitlines())
            if contig is None:
                assert not any(f in member.name for f in ("design25", "multimotifs", "motif_bench"))
                continue
            read += 1
            assert contig.pieces
            assert contig.length is not None
            assert str(Contig.parse(str(contig))) == str(contig)
    assert read == 85
