r"""Molecules as a domain: positions, kinds of atoms, and bonds of whole orders, drawn together.

    pos    positions, centred, 1.4 A to the unit                 Gaussian, straight path          head Velocity
    atom   kinds: an element with a formal charge, "C", "N+"     Absorbing                        head Logits
    bond   none, single, double or triple, of every pair         Absorbing(sites=Pairs())         head Logits

Kinds join element and charge, so that no charge is drawn for an element that cannot bear it; both classes are churned
below t = .5: a site forgets what it shows, as often as the clock says, and is decided anew among its neighbours. Beside
the losses of parts stand two of what the parts must be together,

    valence    |sum_j E[order_ij] - sum_j order_ij|, the mean over atoms
    lengths    (|r_i - r_j| - true)^2 / max(t, .1)^2 of pairs nearer than 2.9 A, bonds and angles, for t < .7

How many atoms there are is told; unasked it is drawn from training's counts. Hydrogens are atoms.

In pockets (`placed`) positions are not centred: their origin is the centre of the pocket, as it is told, so that where
a molecule lies is drawn too. `model.sample(8, given=pocket, atoms=24)` gives molecules in the pocket's own frame, after
`settling`; `given=fragment(..., pocket=pocket)` grows one around atoms that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import (
    Absorbing,
    Adams,
    Centered,
    Condition,
    Domain,
    Examples,
    Gaussian,
    Given,
    Heads,
    Joint,
    Linear,
    Logits,
    Measurement,
    Request,
    Velocity,
)
from gendiff.errors import DataError, RequestError, nearest
from gendiff.evaluation import Judge, Measure, Observer
from gendiff.evaluation.measures import each
from gendiff.random import Noise
from gendiff.sampling.solvers import Solver
from gendiff.spaces import SO3, Pairs, map_state, pair_index, to_pairs, to_square
from gendiff.training import Auxiliary, Term, template

from .baselines import MoleculeEGNN, MoleculeTransformer
from .fragments import Fragment
from .judges import gfn2, posebusters_judge
from .measures import MEASURES, describe
from .molecule import NUMBERS, SYMBOLS, Molecule
from .networks import LARGEST, ORDERS, UNIT, MoleculeNetwork
from .pocket import Pocket
from .pocket_files import read_pocket
from .reading import SUFFIXES, read
from .settling import Settling
from .sources import QM9, MoleculeSource, census
from .surroundings import Surroundings
from .writing import write

State = dict[str, Tensor]
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Molecules(Domain):
    """Small molecules with their bonds.

    Args:
        source: Where examples come from.
        kinds: The kinds of atoms, "C", "N+", "O-"; `fit` finds them.
        counts: How many training molecules have 0, 1, 2, ... atoms; `fit` finds them.
        asked: What may be asked beside what the source says, by name: a condition of a property.
        templates: Whether networks are told what is known of positions.
        eta: How much classes are churned below t = `below`.
        below: See there.
        turned: Whether training turns molecules at random, for networks that are not equivariant.
        placed: Whether positions are told from the centre of a pocket, rather than from their own middle.
        settling: Moves what was made in a pocket until it does not clash; None leaves it where it is.
    """

    name: ClassVar[str] = "molecules"
    ragged: ClassVar[bool] = True

    source: MoleculeSource = field(default_factory=QM9)
    kinds: tuple[str, ...] = ("H", "C", "N", "O")
    counts: tuple[int, ...] = (*(0,) * 18, 1)
    asked: Mapping[str, Condition] = field(default_factory=dict)
    templates: bool = False
    eta: float = 3.0
    below: float = 0.5
    turned: bool = False
    placed: bool = False
    settling: Settling | None = field(default_factory=Settling)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind_of(kind)[0] not in NUMBERS:
                raise DataError(f"the kind of atoms {kind!r}", 'an element and a charge, "C", "N+", "O-", "Ca+2"')
        if len(set(self.kinds)) != len(self.kinds) or not self.kinds:
            raise DataError(f"the kinds {self.kinds}", "at least one, each once")

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**self.source.conditions, **self.asked}

    @property
    def process(self) -> Joint:
        atom = Absorbing(len(self.kinds), eta=self.eta, below=self.below)
        bond = Absorbing(ORDERS, eta=self.eta, below=self.below, sites=Pairs())
        pos = Gaussian(Linear()) if self.placed else Gaussian(Linear(), Centered())
        return Joint(pos=pos, atom=atom, bond=bond)

    @property
    def head(self) -> Heads:
        return Heads(pos=Velocity(), atom=Logits(), bond=Logits())

    def fit(self, artifacts: Sequence[Molecule]) -> Molecules:
        found, counts = census(artifacts)
        kinds = [kind_named(z, q) for z, q in sorted(found)]
        return replace(self, kinds=tuple(kinds), counts=tuple(counts.tolist()))

    def encode(self, artifact: Molecule) -> State:
        """A state, positions centred, or `placed` as they are: around the centre of a pocket.

        Raises:
            DataError: An element or charge that no training molecule had, with the atom; implied hydrogens; too many
                atoms.
        """
        if artifact.implied:
            raise DataError(f"{artifact!r} leaves hydrogens out", "hydrogens as atoms", "molecule.with_hydrogens()")
        if len(artifact) > LARGEST:
            raise DataError(f"{artifact!r}", f"at most {LARGEST} atoms")
        pos = torch.from_numpy(artifact.positions - (0 if self.placed else artifact.positions.mean(0))).float() / UNIT
        bonds = torch.from_numpy(artifact.orders.copy())
        return {"pos": pos, "atom": self.numbers(artifact), "bond": to_pairs(bonds[None])[0]}

    def numbers(self, artifact: Molecule) -> Tensor:
        """The kinds of its atoms, int64 [N].

        Raises:
            DataError: For an atom that is of none.
        """
        own = kinds_of(artifact)
        odd = next((k for k, kind in enumerate(own) if kind not in self.kinds), None)
        if odd is not None:
            raise DataError(f"{artifact!r}: atom {odd + 1} is {own[odd]}", f"one of {', '.join(self.kinds)}")
        return torch.tensor([self.kinds.index(kind) for kind in own])

    def decode(self, x: State) -> Molecule:
        n = len(x["atom"])
        kinds = [kind_of(self.kinds[k]) for k in x["atom"].tolist()]
        square = to_square(x["bond"][None], n)[0].cpu().numpy()
        i, j = np.nonzero(np.triu(square))
        return Molecule(
            np.array([NUMBERS[symbol] for symbol, _ in kinds]),
            UNIT * x["pos"].double().cpu().numpy(),
            np.column_stack([i, j, square[i, j]]),
            np.array([charge for _, charge in kinds]),
            name="sample",
        )

    def request(
        self, n: int, *args: Any, atoms: int | Sequence[int] | None = None, template: State | None = None, **what: Any
    ) -> Request:
        """n molecules. `atoms` is a number, or a list of n; without it they are as in training.

        Raises:
            RequestError: A number out of range, an unknown keyword, with the nearest.
        """
        own = self.conditions
        unknown = [name for name in what if name not in own]
        if args or unknown:
            got = f"Molecules was asked for {unknown[0]!r}" if unknown else f"Molecules got {args[0]!r} without a name"
            hint = nearest(unknown[0], ("atoms", *own)) if unknown else ""
            takes = "".join(f", {name} ({condition.describe()})" for name, condition in own.items())
            raise RequestError(got, f"It takes atoms{takes}.{hint}", "atoms=18")
        sizes = [atoms] * n if isinstance(atoms, int) else list(self.preview(n)["atoms"] if atoms is None else atoms)
        if len(sizes) != n:
            raise RequestError(f"atoms has {len(sizes)} values for {n} samples", f"one number, or {n}", "atoms=18")
        wrong = [k for k in sizes if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= LARGEST]
        if wrong:
            raise RequestError(f"atoms={wrong[0]!r}", f"whole numbers from 1 to {LARGEST}", "atoms=18")
        most = max(sizes)
        pairs = torch.empty(n, Pairs().count(most), dtype=torch.int64)
        like = {"pos": torch.empty(n, most, 3), "atom": torch.empty(n, most, dtype=torch.int64), "bond": pairs}
        told: dict[str, Any] = {"mask": torch.arange(most)[None] < torch.tensor(sizes)[:, None]}
        if template is not None:
            told["template"] = map_state(lambda x: x.expand(n, *x.shape[1:]), template)
        return Request(like, {**told, **self.encode_conditions(n, sites=(most,), lengths=sizes, **what)})

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """A `Fragment` tells which atoms are known, with the bonds among them, and how many there are; a `Pocket`, or a
        list with one for each sample, what surrounds them.

        Raises:
            RequestError: Another number of atoms than the fragment's, a pocket without a number of atoms, or for a
                model that was not trained in pockets.
        """
        if isinstance(given, Pocket) or (isinstance(given, list) and given and isinstance(given[0], Pocket)):
            return self.around(given, what)
        if not isinstance(given, Fragment):
            return super().known(given, what)
        n, size = given.atoms, len(given.molecule)
        if what.get("atoms") not in (None, n):
            raise RequestError(f"atoms={what['atoms']!r} with a fragment in {n} atoms", "no atoms=", "")
        if given.pocket is not None and not self.placed:
            raise RequestError("a fragment in a pocket for a model that centres molecules", "molecules.pockets", "")
        around = {} if given.pocket is None else {self.surroundings: given.pocket}
        middle = given.molecule.positions.mean(0) if given.pocket is None else given.pocket.centre
        x0 = blank(n)
        x0["pos"][0, :size] = torch.from_numpy(given.molecule.positions - middle).float() / UNIT
        x0["atom"][0, :size] = self.numbers(given.molecule)
        bonds = torch.zeros(n, n, dtype=torch.int64)
        bonds[:size, :size] = torch.from_numpy(given.molecule.orders.copy())
        keep = torch.arange(n) < size
        both = to_pairs((keep[:, None] & keep)[None]) & torch.from_numpy(given.closed(n))[None]
        x0["bond"] = to_pairs(bonds[None])
        by_part = {"pos": keep[None], "atom": keep[None], "bond": both}
        told = {"template": template(keep[None], {"pos": x0["pos"]})} if self.templates else {}
        shown = {"atom": True, "bond": True}
        passes = 1 if self.templates else 10
        return Given(x0, by_part, shown, passes), {**what, **told, **around, "atoms": n}

    @property
    def surroundings(self) -> str:
        """The name of the condition that is a pocket.

        Raises:
            RequestError: If there is none.
        """
        name = next((name for name, own in self.conditions.items() if isinstance(own, Surroundings)), "")
        if not name:
            raise RequestError("a pocket for a model that was not trained in pockets", "molecules.pockets", "")
        return name

    def around(self, pocket: Pocket | list[Pocket], what: Mapping[str, Any]) -> tuple[Given, dict[str, Any]]:
        """In a pocket nothing of a molecule is known but what surrounds it."""
        name, atoms = self.surroundings, what.get("atoms")
        if atoms is None and isinstance(pocket, Pocket):
            raise RequestError("a pocket without a number of atoms", "atoms=, with hydrogens", "atoms=20")
        atoms = self.preview(len(pocket))["atoms"] if atoms is None else atoms
        x0 = blank(atoms if isinstance(atoms, int) else max(atoms))
        nothing = {part: torch.zeros(1, x.shape[1], dtype=torch.bool) for part, x in x0.items()}
        return Given(x0, nothing, passes=1), {**what, "atoms": atoms, name: pocket}

    @property
    def givens(self) -> Mapping[str, str]:
        if not any(isinstance(own, Surroundings) for own in self.conditions.values()):
            return {}
        return {
            "protein": "a PDB or mmCIF file in whose pocket molecules are made",
            "ligand": "with protein: the residue that marks the place, STI or STI_A_201, or a file of a molecule there",
            "centre": "with protein, instead: the place, x,y,z in angstrom",
        }

    def given(self, n: int, seed: int = 0, **said: Any) -> Any:
        """The pocket of protein and ligand, or protein and centre, for each of n samples.

        Raises:
            RequestError: A place without a protein, a centre that is no three numbers; DataError and MoleculeError for
                what files have not.
        """
        path, ligand, centre = (said.get(word) for word in ("protein", "ligand", "centre"))
        if path is None:
            raise RequestError(f"{', '.join(said)} without a protein", "a PDB or mmCIF file", "protein=1iep.pdb")
        if centre is not None:
            words = centre.split(",") if isinstance(centre, str) else centre
            try:
                centre = tuple(float(word) for word in words)
            except (TypeError, ValueError):
                raise RequestError(f"centre={centre!r}", "three numbers of angstrom", "centre=15.6,53.4,15.5") from None
        if isinstance(ligand, str) and ligand.lower().removesuffix(".gz").endswith(SUFFIXES):
            ligand = self.read(ligand)
        return [read_pocket(path, ligand=ligand, centre=centre)] * n

    def completed(self, artifact: Molecule, given: Any, number: int) -> Molecule:
        """Around a fragment its atoms exactly where they were; in a pocket in its frame, and settled there."""
        pocket = given[number] if isinstance(given, list) else given
        if isinstance(given, Fragment):
            middle = 0.0 if given.pocket is None else given.pocket.centre
            return given.complete(artifact.moved(artifact.positions + middle))
        if not isinstance(pocket, Pocket):
            return artifact
        inside = artifact.moved(artifact.positions + pocket.centre)
        return inside if self.settling is None else self.settling(inside, pocket)

    def size_of(self, artifact: Molecule) -> dict[str, Any]:
        return {"atoms": len(artifact)}

    def size_for(self, sites: int) -> dict[str, Any]:
        return {"atoms": sites}

    def preview(self, n: int) -> dict[str, Any]:
        """Numbers of atoms as training has them; the i-th is the same whatever n."""
        sizes = np.repeat(np.arange(len(self.counts)), self.counts)
        return {"atoms": [int(sizes[int((i + 1) * GOLDEN % 1 * len(sizes))]) for i in range(n)]}

    def network(  # type: ignore[override]
        self,
        *,
        design: Literal["vectors", "egnn", "transformer"] = "vectors",
        width: int = 160,
        pair: int = 64,
        depth: int = 6,
        heads: int = 8,
        vectors: int = 32,
        triangle: int = 16,
        parity: bool = True,
        previous: bool = True,
    ) -> nn.Module:
        """A network of molecules.

        Args:
            design: "vectors" is `MoleculeNetwork`; "egnn" `MoleculeEGNN`, "transformer" `MoleculeTransformer`, which
                take of the rest what they know.
            width, pair, depth, heads, vectors, triangle, parity, previous: Theirs.

        Raises:
            RequestError: Another design.
        """
        told: dict[str, Any] = {"previous": previous, "templates": self.templates, "conditions": self.conditions}
        size = len(self.kinds), width, pair, depth
        if design == "vectors":
            return MoleculeNetwork(*size, heads, vectors, triangle, parity=parity, **told)
        if design == "egnn":
            return MoleculeEGNN(*size, **told)
        if design == "transformer":
            return MoleculeTransformer(*size, heads, **told)
        raise RequestError(f"the design {design!r} of a network", '"vectors", "egnn" or "transformer"')

    def vocabulary(self, network: nn.Module) -> Mapping[str, tuple[int, tuple[str, ...]]]:
        """The kinds of atoms, and what is masked, of the tables and layers that stand for them."""
        axes = {"atom.weight": 0, "atoms.weight": 0, "atoms.bias": 0, "atom_before.weight": 1}
        told = {name: (axis, self.kinds) for name, axis in axes.items() if name in network.state_dict()}
        orders = ("no bond", "single", "double", "triple", "masked bond")
        counted = (
            {"tally.weight": (1, (*self.kinds, "masked", *orders))} if "tally.weight" in network.state_dict() else {}
        )
        return {**told, **counted, "atom.weight": (0, (*self.kinds, "masked"))}

    def augment(self, x: State, noise: Noise) -> State:
        """Each molecule turned at random, if `turned`."""
        if not self.turned:
            return x
        spin = SO3().random(x["pos"].new_empty(len(x["pos"]), 1, 3, 3), noise.fork("turned"))
        return {**x, "pos": x["pos"] @ spin[:, 0].mT.to(x["pos"])}

    def variants(self, artifact: Molecule) -> Sequence[Molecule]:
        """The molecule itself.

        Raises:
            RequestError: If they are turned, in more ways than can be listed.
        """
        return super().variants(artifact) if self.turned else [artifact]

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return self.source.load(split, root)

    def sampler(self) -> Solver:
        return Adams(50, noise_scale={"pos": 1.0, "atom": 0.5, "bond": 0.25})

    @property
    def auxiliary(self) -> dict[str, Auxiliary]:
        return {
            "valence": Auxiliary(self.valence, Term(0.1)),
            "lengths": Auxiliary(self.lengths, Term(1.0, window=(0.0, 0.7))),
        }

    def valence(self, prediction: State, x0: State, t: Any, **cond: Any) -> Tensor:
        """How far expected valences are off, the mean over atoms, [B]."""
        n = x0["atom"].shape[1]
        expected = (prediction["bond"].exp() * torch.arange(ORDERS, device=x0["bond"].device)).sum(-1)
        off = to_square(expected - x0["bond"].to(expected.dtype), n)
        real = cond["mask"].to(expected.dtype)
        return ((off * real[:, None]).sum(2).abs() * real).sum(1) / real.sum(1)

    def lengths(self, prediction: State, x0: State, t: Any, **cond: Any) -> Tensor:
        """How far bonds and angles are off, by the distances of near pairs, squared, over max(t, .1)^2, [B]."""
        n, mask = x0["atom"].shape[1], cond["mask"]
        i, j = pair_index(n, mask.device)
        far = [((s["pos"][:, i] - s["pos"][:, j]).square().sum(-1) + 1e-8).sqrt() for s in (prediction, x0)]
        near = ((far[1] < 2.9 / UNIT) & mask[:, i] & mask[:, j]).to(far[0].dtype)
        error = ((far[0] - far[1]).square() * near).sum(1) / near.sum(1).clamp_min(1)
        return error / t.to(error).clamp_min(0.1).square()

    def metrics(self) -> dict[str, Measure]:
        return dict(MEASURES)

    def judges(self) -> Mapping[str, Callable[[Examples, Examples], Judge]]:
        """PoseBusters and GFN2-xTB, of the packages posebusters and tblite."""
        return {"posebusters": posebusters_judge, "gfn2": gfn2}

    def observed(self) -> Mapping[str, Observer]:
        """The properties that are computed from a molecule alone, of those that may be asked for."""
        known: dict[str, Observer] = {"logp": partial(each, lambda one: describe(one).logp)}
        return {name: f for name, f in known.items() if name in self.conditions}

    def read(self, path: str | Path) -> Molecule:
        """The first molecule of a file."""
        return read(path)[0]

    def write(self, artifact: Molecule, path: str | Path, *, remarks: Sequence[str] = ()) -> None:
        """To SDF, MOL, XYZ, PDB or SMILES, by the suffix; `remarks` (seed, model, request) are data fields."""
        write(artifact, path, properties={f"gendiff_{k + 1}": text for k, text in enumerate(remarks)})

    @property
    def suffix(self) -> str:
        return ".sdf"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (".sdf", ".mol", ".mol2", ".xyz", ".pdb", ".smi")


def blank(n: int) -> State:
    """A state of n atoms of which nothing is known, with a batch axis of 1."""
    return {
        "pos": torch.zeros(1, n, 3),
        "atom": torch.zeros(1, n, dtype=torch.int64),
        "bond": torch.zeros(1, Pairs().count(n), dtype=torch.int64),
    }


def kinds_of(molecule: Molecule) -> list[str]:
    """The kind of each atom: "C", "N+", "O-", "Ca+2"."""
    return [kind_named(*pair) for pair in zip(molecule.elements.tolist(), molecule.charges.tolist(), strict=True)]


def kind_named(z: int, charge: int) -> str:
    """The kind of an element with a charge: "C", "N+", "O-", "Ca+2"."""
    return SYMBOLS[z] + ("" if not charge else f"{'+' if charge > 0 else '-'}{abs(charge) if abs(charge) > 1 else ''}")


def kind_of(kind: str) -> tuple[str, int]:
    """The symbol and the charge of a kind."""
    for sign, factor in (("+", 1), ("-", -1)):
        symbol, found, size = kind.partition(sign)
        if found:
            return symbol, factor * (int(size) if size.isdecimal() else 1)
    return kind, 0
