"""Breaks the code in known ways, one after the other, and runs the tests that must notice.

    python tests/mutants.py            # every mutant; some minutes
    python tests/mutants.py vlb cfg    # those whose name contains one of the words

Each mutant replaces one piece of text in one file of a copy of the packages. A mutant whose text is no longer there is
an error: the list follows the code. The last line says how many were caught; the exit status is 1 if one survived.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """One change that makes the code wrong.

    Attributes:
        name: What is broken.
        path: The file, from the checkout's root.
        old: The text that is replaced; it occurs exactly once.
        new: What stands there instead.
        tests: The test files that must fail.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS: list[Mutant] = []


def run(mutant: Mutant, copy: Path) -> tuple[bool, str]:
    """Whether the tests notice, and the line that says how."""
    path = copy / mutant.path
    text = path.read_text(encoding="utf8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.path} holds its text {text.count(mutant.old)} times; follow the code")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf8")
    try:
        paths = [str(copy), str(copy / "domains"), str(copy / "recipes")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            *mutant.tests,
        ]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(text, encoding="utf8")
    last = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return done.returncode == 1 and bool(last), last or done.stdout.strip().splitlines()[-1]


def main(words: list[str]) -> int:
    """Runs the chosen mutants; returns the exit status."""
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(".git", ".venv", "runs", "demo", "site", "__pycache__", ".*_cache"),
        )
        os.environ.setdefault("GENDIFF_DATA", str(ROOT.parent / "shared" / "data"))
        os.environ.setdefault("GENDIFF_GOLDENS", str(ROOT.parent / "shared" / "goldens"))
        for mutant in chosen:
            since = time.perf_counter()
            caught, line = run(mutant, copy)
            print(
                f"{'caught  ' if caught else 'SURVIVES'} {time.perf_counter() - since:5.1f} s  {mutant.name}: {line}",
                flush=True,
            )
            survivors += [] if caught else [mutant.name]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
