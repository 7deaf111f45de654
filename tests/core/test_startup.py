"""`import gendiff` is quick, and brings in nothing that only some of its users need."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gendiff

RUNS = 5
BAR = 0.3  # seconds beyond `import torch`
FOREIGN = {
    "lightning", "pytorch_lightning", "torchaudio", "librosa", "soundfile", "Bio", "e3nn",
    "matplotlib", "PIL", "sklearn", "jinja2",
}  # fmt: skip


def python(code: str, root: Path, **environment: str) -> str:
    """What a fresh interpreter prints."""
    paths = [str(root), str(root / "domains"), str(root / "recipes")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_it_is_quick(root: Path, tmp_path: Path) -> None:
    code = "import time, torch\nstart = time.perf_counter()\nimport gendiff\nprint(time.perf_counter() - start)"
    # Bytecode is written, to a folder of the test's own, whatever the environment says of it.
    cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    python("import torch, gendiff", root, **cache)
    assert list(tmp_path.rglob("gendiff/*.pyc"))
    seconds = statistics.median(float(python(code, root, **cache)) for _ in range(RUNS))
    assert seconds < BAR, f"{seconds:.2f} s; python -X importtime -c 'import gendiff' says where they go"


@pytest.mark.parametrize("package", ["gendiff", "gendiff.cli", "gendiff_images", "gendiff_audio", "gendiff_proteins"])
def test_it_is_lean(package: str, root: Path) -> None:
    """The core knows no domain, a domain no other; heavy libraries wait until they are used."""
    code = f"import json, {package}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    loaded = set(json.loads(python(code, root)))
    ours = {name for name in loaded if name.startswith("gendiff")}
    assert ours == {"gendiff", package.partition(".")[0]}
    assert not loaded & FOREIGN, f"import {package} also imports {sorted(loaded & FOREIGN)}"


def test_every_name_is_there() -> None:
    """`gendiff.NAME` is a class, a function or a constant, whichever modules were loaded before it."""
    names = [name for name in dir(gendiff) if not name.startswith("__")]
    assert {"Model", "load", "sample", "cite", "AYS"} <= set(names)
    for name in names:
        assert not isinstance(getattr(gendiff, name), ModuleType), name


def test_a_wrong_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="Sampel"):
        gendiff.Sampel  # type: ignore[attr-defined]  # noqa: B018
