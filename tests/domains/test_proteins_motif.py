"""Motifs with gaps, broken structures to start from, and files that say how they were made."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff.errors import RequestError, RequestWarning
from gendiff.samples import SampleFolder
from gendiff.sampling.solvers import Euler
from gendiff.testing import randomised
from gendiff_proteins import (
    Contig,
    ContigError,
    Ideal,
    Motif,
    Proteins,
    Structure,
    StructureError,
    read,
    scaffold,
    scaffolds,
    write,
)
from gendiff_proteins.superpose import rmsd

TINY: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "pair": 16}


@pytest.fixture(scope="module")
def model() -> gendiff.Model:
    torch.manual_seed(0)
    made = gendiff.Model.new(Proteins(source=Ideal(8, 32, 32)), **TINY)
    randomised(made.denoiser.network)
    return made


@pytest.fixture(scope="module")
def designs(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motifs")
    with tarfile.open(data_root / "proteins" / "motif_scaffolding.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "motif_scaffolding" / "genie2" / "design25"


def ideal(size: int = 32) -> Structure:
    return Structure(Ideal(8, 32, 32).load("train")[0].artifact.backbone[:size])


@pytest.mark.parametrize("name", ["1ycr", "1prw", "5tpn"])
def test_published_motifs_are_met_exactly(model: gendiff.Model, designs: Path, name: str) -> None:
    structure = read(designs / f"{name}.pdb")
    pieces = structure.pieces()
    assert len(pieces) == (2 if name == "1prw" else 1)
    contig = "/".join(["10", *(f"{p.chains[0]}{p.numbers[0]}-{p.numbers[-1]}/12" for p in pieces)])
    motif = scaffold(structure, contig)
    assert motif.length == 10 + len(structure) + 12 * len(pieces) and motif.structure.numbers == structure.numbers
    samples = model.sample(2, given=motif, sampler=Euler(3), seed=1)
    for sample in samples:
        assert len(sample) == motif.length and motif.rmsd(sample) < 0.01
        found, wanted = (
            torch.from_numpy(s.backbone[:, :3].reshape(-1, 3).copy()) for s in (motif.find(sample), structure)
        )
        assert rmsd(found, wanted) < 0.3  # ideal residues; nearer than a mirror image of three atoms can be
        mirror = torch.from_numpy(structure.mirrored().ca.copy())
        assert rmsd(torch.from_numpy(motif.find(sample).ca.copy()), mirror) > 0.1
    assert np.abs(samples[0].ca - samples[1].ca).max() > 0.5  # the rest is drawn


def test_known_takes_a_gapped_structure_and_author_numbers(model: gendiff.Model) -> None:
    whole = ideal()
    gapped = whole.take([*range(12), *range(18, 32)])
    assert gapped.breaks == (11,)
    keep = gapped.mask("A5-10", "A21-25")
    assert keep.sum() == 11 and keep[4] and not keep[3] and keep[14]
    sample = model.sample(1, length=26, given=model.known(gapped, keep), sampler=Euler(3), seed=1)[0]
    found, wanted = (torch.from_numpy(s.ca[keep].copy()) for s in (sample, gapped))
    assert rmsd(found, wanted) < 0.01


def test_a_broken_structure_can_be_started_from_and_is_no_training_example(model: gendiff.Model) -> None:
    broken = ideal().take([*range(12), *range(18, 32)])
    little, much = (
        model.sample(1, length=26, start=broken, strength=s, sampler=Euler(3), seed=1)[0] for s in (0.02, 1.0)
    )
    near, far = (float(rmsd(*(torch.from_numpy(s.ca.copy()) for s in (sample, broken)))) for sample in (little, much))
    assert near < 0.6 < 1.5 < far
    with pytest.raises(gendiff.errors.DataError, match="chain breaks"):
        model.domain.encode(broken)


def test_a_sample_begun_from_a_structure_has_its_length(model: gendiff.Model) -> None:
    start = ideal()
    assert len(model.sample(1, start=start, strength=0.3, sampler=Euler(2))[0]) == len(start)
    two = model.sample(2, start=start.take([*range(12), *range(18, 32)]), strength=0.3, sampler=Euler(2))
    assert [len(s) for s in two] == [26, 26]
    for length in (20, [20, 32]):
        with pytest.raises(RequestError, match="same size"), pytest.warns(RequestWarning, match="a start of 26"):
            model.sample(2, start=start.take(list(range(26))), length=length, sampler=Euler(2))
    with pytest.warns(RequestWarning, match="length=32 with a start of 26"):
        model.sample(1, start=start.take(list(range(26))), length=32, sampler=Euler(2))
    with pytest.raises(RequestError, match=r"model\.domain\.read"):
        model.sample(1, start="chain.pdb")


def test_wrong_motifs_and_contigs_are_answered(model: gendiff.Model) -> None:
    structure = ideal()
    with pytest.raises(ContigError, match="19 to 34 residues, with a length of 40"):
        scaffold(structure, "10-25/A5-10/3", length=40)
    with pytest.raises(StructureError, match="names no known residues"):
        scaffold(structure, "10/12")
    with pytest.raises(StructureError, match="no chain 'B'"):
        scaffold(structure, "10/B5-10/3")
    with pytest.raises(StructureError, match="increasing places"):
        Motif(structure.take([0, 1]), (5, 5), 10)
    with pytest.raises(StructureError, match="3 places for 2 residues"):
        Motif(structure.take([0, 1]), (1, 2, 3), 10)
    with pytest.raises(RequestError, match="length=40 with a motif"):
        model.sample(1, given=scaffold(structure, "3/A5-10/3"), length=40)
    with pytest.raises(RequestError, match="given=Structure"):
        model.sample(1, given=structure, length=40)


def test_open_lengths_are_drawn_for_each_design(designs: Path) -> None:
    structure = ideal()
    many = scaffolds(structure, "0-25,A5-10,2-9", 40, length="20-30", seed=3)
    assert {motif.length for motif in many} <= set(range(20, 31))
    assert len({(motif.length, motif.places) for motif in many}) > 20
    again = scaffolds(structure, "0-25/A5-10/2-9", 5, length=(20, 30), seed=3)
    assert [(m.length, m.places) for m in again] == [(m.length, m.places) for m in many[:5]]
    for motif in many:
        first = motif.places[0]
        assert motif.places == tuple(range(first, first + 6)) and 2 <= motif.length - first - 6 <= 9
        assert motif.structure.numbers == structure.numbers[4:10]
    asked = Contig.of_remarks((designs / "1prw.pdb").read_text().splitlines())
    assert asked is not None
    motif = scaffold(read(designs / "1prw.pdb"), asked, seed=1)
    assert len(motif.structure) == 40
    assert asked.length is not None and asked.length[0] <= motif.length <= asked.length[1]


def test_remarks_stand_in_both_formats_and_cannot_break_them(tmp_path: Path) -> None:
    structure = Structure(ideal().backbone, name="two\nATOM      1")
    remarks = ["seed 7", "command gendiff sample runs/mine " + "length=80 " * 12, "odd '; \n;data_x\nATOM \u00e9\x1b"]
    for suffix in ("pdb", "cif"):
        path = tmp_path / f"a.{suffix}"
        write(structure, path, remarks=remarks)
        text = path.read_text()
        assert "seed 7" in text and "length=80" in text and text.isascii() and "\x1b" not in text
        assert np.abs(read(path).backbone - structure.backbone).max() < 1e-3
    lines = (tmp_path / "a.pdb").read_text().splitlines()
    assert max(map(len, lines)) <= 80 and sum(line.startswith("REMARK 999") for line in lines) == 5
    write(structure, tmp_path / "b.pdb")
    assert "REMARK 999" not in (tmp_path / "b.pdb").read_text()


def test_a_folder_of_samples_says_in_each_file_how_it_was_made(model: gendiff.Model, tmp_path: Path) -> None:
    with SampleFolder(model, tmp_path / "out", 2, {"seed": 5, "request": {"length": 32}}) as folder:
        model.sample(2, length=32, sampler=Euler(2), seed=5, arrived=folder.add)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    for i in range(2):
        text = (tmp_path / "out" / f"{i:04d}.pdb").read_text()
        assert f"sample {i} of 2" in text and "seed 5" in text and '{"length": 32}' in text
        assert manifest["model"][:12] in text
