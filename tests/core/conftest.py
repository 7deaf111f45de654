"""The golden cases: arrays that other libraries computed, found beside the checkout or by GENDIFF_GOLDENS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gendiff import Gaussian
from gendiff.denoisers import Mixture
from gendiff.processes.schedules import Schedule

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "goldens"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """golden("traj_ddim") is the arrays of that case; the test is skipped where there are none."""
    root = Path(os.environ.get("GENDIFF_GOLDENS", BESIDE))

    def read(name: str) -> dict[str, Tensor]:
        path = root / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"needs {path.name}: set GENDIFF_GOLDENS to the folder of golden cases")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    return read


@pytest.fixture
def mixture(golden: Callable[[str], dict[str, Tensor]]) -> Callable[[Schedule], Mixture]:
    g = golden("mixture_denoiser")
    return lambda schedule: Mixture(Gaussian(schedule), g["means"], float(g["std"]) ** 2, g["weights"])
