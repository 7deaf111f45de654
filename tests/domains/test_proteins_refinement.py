"""Repair: chains refined, gaps filled by their numbers, ensembles as far away as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gendiff
from gendiff.cli import main
from gendiff.errors import RequestError
from gendiff.sampling.solvers import Euler
from gendiff_proteins import Ideal, Proteins, Structure, StructureError, read, rebuilt, refined, varied, write
from gendiff_proteins.ideal import chains
from gendiff_proteins.metrics import bonds
from gendiff_proteins.refinement import contig_of, filled, gaps, strength_for
from gendiff_proteins.superpose import rmsd


def chain(size: int = 40) -> Structure:
    return Structure(
        chains(1, size, size, 3)[0], "ACDEFGHIKLMNPQRSTVWY" * 2, tuple(map(str, range(7, 7 + size))), name="here"
    )


def apart(a: Structure, b: Structure) -> float:
    return float(rmsd(torch.from_numpy(a.ca.copy()), torch.from_numpy(b.ca.copy())))


@pytest.fixture(scope="module")
def model() -> gendiff.Model:
    return gendiff.Model.new(Proteins(source=Ideal(count=8)), width=32, depth=2, heads=4, pair=8)


def test_noise_is_taken_off() -> None:
    true, rng = chain(), np.random.default_rng(0)
    noisy = Structure(true.backbone + rng.normal(size=true.backbone.shape) * 0.6 / 3**0.5, numbers=true.numbers)
    (found,) = refined([noisy], noise=0.6)
    assert apart(noisy, true) == pytest.approx(0.6, abs=0.12)
    assert apart(found, true) < 0.6 * apart(noisy, true)
    assert float(np.abs(bonds([found])["C-N"] - 1.33).max()) < 0.1
    with pytest.raises(RequestError, match="noise=0"):
        refined([noisy], noise=0)


def test_gaps_follow_from_the_numbers() -> None:
    whole = chain()
    broken = whole.take([*range(10), *range(14, 25), *range(30, 40)])
    assert gaps(broken) == [(9, 4), (20, 5)] and gaps(whole) == []
    assert str(contig_of(broken)) == "A7-16/4/A21-31/5/A37-46"
    motif = filled(broken)
    assert motif.length == 40 and motif.places == (*range(10), *range(14, 25), *range(30, 40))
    with pytest.raises(StructureError, match="94 residues are missing between A16 and A111"):
        gaps(Structure(broken.backbone[:21], numbers=(*map(str, range(7, 17)), *map(str, range(111, 122)))))


def test_what_is_missing_is_made_and_the_rest_stays(model: gendiff.Model) -> None:
    whole = chain()
    broken = whole.take([*range(10), *range(14, 40)])
    two = Structure(
        np.concatenate([broken.backbone, whole.backbone + 40.0]), broken.sequence + whole.sequence,
        broken.numbers + whole.numbers, ("L",) * 36 + ("H",) * 40, "two",
    )  # fmt: skip
    for one in rebuilt(model, two, 2, sampler=Euler(3)):
        assert one.numbers == whole.numbers * 2 and one.chains == ("L",) * 40 + ("H",) * 40
        old = [*range(10), *range(14, 80)]
        assert np.array_equal(one.take(old).backbone, two.backbone) and one.take(old).sequence == two.sequence
        assert one.known.count("") == 4 and one.sequence[10:14] == "XXXX"
    with pytest.raises(StructureError, match="no gaps"):
        rebuilt(model, whole)


def test_an_ensemble_is_as_far_away_as_asked(model: gendiff.Model) -> None:
    one = chain()
    for far in (1.0, 3.0):
        made = varied(model, one, far, 8, sampler=Euler(3))
        assert 0.7 * far < float(np.median([apart(x, one) for x in made])) < 1.4 * far
    near, wide = (strength_for(model, one, far, sampler=Euler(3)) for far in (1.0, 3.0))
    assert 0 < near < wide < 1
    with pytest.raises(RequestError, match="samples from noise"):
        strength_for(model, one, 99.0, sampler=Euler(2))


def test_the_command(model: gendiff.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path / "model.safetensors")
    broken, path = chain().take([*range(10), *range(14, 40)]), tmp_path / "in.pdb"
    write(broken, path)
    assert not main(["refine", str(path), "--noise", "0.3", "--out", str(tmp_path / "a")])
    assert "4 after A16" in capsys.readouterr().out
    assert len(read(tmp_path / "a" / "0000.pdb")) == 36 and (tmp_path / "a" / "ranking.csv").is_file()
    words = ["refine", str(path), "--model", str(tmp_path / "model.safetensors"), "--steps", "3"]
    assert not main([*words, "-n", "2", "--format", "cif", "--out", str(tmp_path / "b")])
    made = read(tmp_path / "b" / "0001.cif")  # an untrained network's residues may be none that a reader takes
    assert set(broken.numbers) <= set(made.numbers) and len(made) > 36
    assert main([*words, "--out", str(tmp_path / "b")]) == 2  # it is there
    assert main(["refine", str(path), "--vary", "2"]) == 2
    write(chain(), path)
    assert main([*words, "--out", str(tmp_path / "c")]) == 2  # nothing is missing
    assert not (tmp_path / "c").exists()
    assert not main([*words, "--vary", "2A", "--out", str(tmp_path / "c")])
    with pytest.raises(SystemExit):
        main([*words, "--vary", "-1"])
