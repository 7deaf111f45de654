"""Structure files damaged at random: each is read, with residues that add up, or refused by a StructureError.

    python benchmarks/fuzz_structures.py [-n 2000]

n files a format (PDB, mmCIF, BinaryCIF, gzip) are made from the specimens of proteins/parser_zoo.tar.gz by flipped
bytes, cut ends, lines that are lost, doubled, exchanged or cut, columns shifted, fields replaced by hostile ones.
Counted: read, refused, and what must not occur: another exception, more than 10 seconds of processor time, residues
that do not add up. For PDB they are counted a second time from the columns alone: kept + dropped + skipped is never
less. Atoms add up as well: what became of them is told of every row of the first model, and in PDB, where a row is a
line, their number is that of the lines. Peak memory is that of the process. Numbers go to
benchmarks/results/fuzz_structures.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from gendiff.domain import data_file
from gendiff_proteins import StructureError, load

FIELDS = (
    *(b"nan", b"inf", b"-1e308", b"", b"****", b"?", b"'", b'"', b";", b"#", b"\x00", b"\x1b[31m", b"data_", b"loop_"),
    *(b"99999999999999999999", b"\xff\xfe", b"TER", b"MODEL", b"ENDMDL", b"A" * 500),
)
SECONDS = 10


def mutated(raw: bytes, name: str, rng: np.random.Generator) -> bytes:
    """Between one and four damages; gzipped files are damaged inside, or as they are one time in four."""
    if name.endswith(".gz") and rng.random() < 0.75:
        try:
            return gzip.compress(mutated(gzip.decompress(raw), name[:-3], rng), 1)
        except (OSError, EOFError):
            return mutated(raw, name[:-3], rng)
    for _ in range(int(rng.integers(1, 5))):
        raw = _damage(raw, rng)
    return raw


def _damage(raw: bytes, rng: np.random.Generator) -> bytes:
    kind = int(rng.integers(0, 8))
    if len(raw) < 8:
        return raw + b"x"
    if kind == 0:
        data = bytearray(raw)
        for place in rng.integers(0, len(data), int(rng.integers(1, 30))):
            data[place] = int(rng.integers(0, 256))
        return bytes(data)
    if kind == 1:
        return raw[: int(rng.integers(0, len(raw)))]
    if kind == 2:
        a, b = sorted(rng.integers(0, len(raw), 2).tolist())
        return raw[:a] + raw[min(b, a + 2000) :]
    if kind == 3:
        a, b = sorted(rng.integers(0, len(raw), 2).tolist())
        return raw[:b] + raw[a : min(b, a + 20_000)] + raw[b:]
    lines = raw.split(b"\n")
    place = int(rng.integers(0, len(lines)))
    line = lines[place]
    column = int(rng.integers(0, len(line) + 1))
    if kind == 4:
        lines[place] = line[:column]
    elif kind == 5:
        lines[place] = line[:column] + b" " * int(rng.integers(1, 9)) + line[column:]
    elif kind == 6:
        words = line.split(b" ")
        words[int(rng.integers(0, len(words)))] = FIELDS[int(rng.integers(0, len(FIELDS)))]
        lines[place] = b" ".join(words)
    else:
        other = int(rng.integers(0, len(lines)))
        lines[place], lines[other] = lines[other], lines[place]
    return b"\n".join(lines)


def at_least(raw: bytes, name: str) -> int:
    """Residues of the first model of a PDB file by chain and number, from whole atom lines; 0 for other formats.

    Rows without a number are reported as rows, and column 21, before the chain, is no part of either.
    """
    if not name.endswith((".pdb", ".ent")) or b"data_" in raw:
        return 0
    found: set[tuple[str, str]] = set()
    for line in raw.decode("utf-8", errors="replace").split("\n"):
        if line.startswith(("ENDMDL", "MODEL")) and found:
            break
        if line.startswith(("ATOM", "HETATM")) and len(line) >= 54 and line[12:16].strip() and line[22:27].strip():
            found.add((line[21], line[22:27].strip()))
    return len(found)


def atom_lines(raw: bytes, name: str) -> int | None:
    """The atom records of the first model of a PDB file; None for other formats and lines that end otherwise."""
    if not name.endswith((".pdb", ".ent")) or b"data_" in raw or b"\r" in raw[:4096]:
        return None
    count = 0
    for line in raw.decode("utf-8", errors="replace").split("\n"):
        if line.startswith(("ENDMDL", "MODEL")) and count:
            break
        count += line.startswith(("ATOM", "HETATM"))
    return count


def judge(raw: bytes, path: Path) -> str:
    """ "read", "refused", or what went wrong."""
    path.write_bytes(raw)
    since = time.process_time()
    try:
        structure, report = load(path)
    except StructureError as error:
        outcome = "refused" if path.name in str(error) else "refused without the path"
    except Exception as error:  # noqa: BLE001 (what is looked for)
        outcome = f"{type(error).__name__}: {error}"
    else:
        whole = len(structure) == report.kept == sum(report.chains.values()) and np.isfinite(structure.backbone).all()
        whole = whole and report.residues >= at_least(raw, path.name)
        side = 0 if structure.side is None else int(np.isfinite(structure.side[..., 0]).sum())
        kept = 4 * len(structure) - len(report.placed) + side
        told = report.atoms["kept"] == kept and sum(report.atoms.values()) == report.rows
        told = told and min(report.atoms.values()) >= 0 and atom_lines(raw, path.name) in (None, report.rows)
        outcome = "read" if whole and told else "does not add up" if not whole else "atoms do not add up"
    return outcome if time.process_time() - since < SECONDS else "too slow"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=2000, help="files a format")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    formats = {"PDB": (".pdb", ".ent"), "mmCIF": (".cif",), "BinaryCIF": (".bcif",), "gzip": (".gz",)}
    result: dict[str, dict[str, int | float]] = {}
    with tempfile.TemporaryDirectory() as folder, tarfile.open(data_file("proteins/parser_zoo.tar.gz")) as tar:
        files = [(m.name, tar.extractfile(m)) for m in tar.getmembers() if m.isfile()]
        specimens = [(Path(name).name, file.read()) for name, file in files if file is not None]
        for kind, suffixes in formats.items():
            chosen = [(n, raw) for n, raw in specimens if n.lower().endswith(suffixes) and len(raw) < 200_000]
            rng, outcomes, since = np.random.default_rng(0), Counter[str](), time.process_time()
            for i in range(args.n):
                name, raw = chosen[i % len(chosen)]
                outcome = judge(mutated(raw, name, rng), Path(folder) / name)
                outcomes[outcome] += 1
                if outcome not in ("read", "refused"):
                    print(kind, name, outcome, flush=True)
            result[kind] = {**outcomes, "seconds": round(time.process_time() - since, 1), "specimens": len(chosen)}
            print(kind, result[kind], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    args.results.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"files_a_format": args.n, "peak_MiB": round(peak), "result": result}, indent=2)
    (args.results / "fuzz_structures.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
