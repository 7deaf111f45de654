r"""Side chains on given backbones: their torsions, drawn together.

    chi   [M], radians, of all torsions of a chain, residue by residue       Geodesic(Torus())        head Tangent

A state has as many sites as the chain has torsions, none for G and A, one to four for the others: there is nothing to
mask, and no loss for what is not there. A torsion that repeats every half turn (the last of D, E, F and Y) is carried
as twice its angle, so that its two names are one point of the circle. The backbone with its letters is a condition
(`GivenBackbone`); torsions that are known are shown clean (`KnownTorsions` in training, `Packing` when one is asked).

What is decoded are angles, `Chis`; a sample is the structure itself with its side chains built
(`building`). Torsional diffusion of side chains is DiffPack's (Zhang et al. 2023), which draws chi_1 to chi_4 in turn
and ranks by a confidence network; here all are drawn at once, and `packing_measures.best` ranks by agreement and
contacts. Ligands, waters and hydrogens are not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import (
    DDPM,
    Condition,
    Domain,
    Examples,
    Geodesic,
    Given,
    Heads,
    Joint,
    Measurement,
    Request,
    Tangent,
    Torus,
)
from gendiff.errors import SHARE, DataError, RequestError, check, nearest, ordered
from gendiff.random import Noise
from gendiff.sampling.solvers import Solver
from gendiff.training import Known

from . import ideal
from .building import Torsions, angles, dense, lettered, packed, torsions, whole, wrapped
from .frames import frames_from_backbone
from .names import LETTERS
from .packing_network import PackingNetwork
from .packing_sources import AtomicSource, AtomicStructures
from .reading import read
from .structure import Structure
from .writing import write

State = dict[str, Tensor]

MOST = 4096  # residues of a backbone


@dataclass(frozen=True)
class GivenBackbone(Condition):
    """A `Structure` whose side chains are asked for: its frames, its letters, where its torsions are.

    Of a training example those torsions are told whose residues are whole; of what is asked all that its letters have.
    It gives no vector, tokens or field: a `PackingNetwork` reads it as it is.
    """

    @property
    def gives(self) -> tuple[str, ...]:
        return ()

    def encode(self, value: Any) -> dict[str, Tensor]:
        """Positions (angstrom, about their mean), rotations, O, letters, places along chains, and the torsions.

        Raises:
            RequestError: What is no structure, has D residues or too many.
        """
        return self.told(value, known=False)

    def encode_example(self, value: Any) -> dict[str, Tensor]:
        return self.told(value, known=True)

    def told(self, value: Any, *, known: bool) -> dict[str, Tensor]:
        """The numbers of a structure, or of none."""
        if value is None:
            value = Structure(np.zeros((0, 4, 3)))
        if not isinstance(value, Structure):
            raise RequestError(
                f"a backbone of type {type(value).__name__}", "a Structure", 'model.sample(4, given=read("1aki.pdb"))'
            )
        packable(value)
        pos, rot = frames_from_backbone(torch.from_numpy(value.backbone))
        middle = pos.mean(0) if len(value) else pos.new_zeros(3)
        leap = np.ones(len(value), dtype=np.int64)
        leap[[k + 1 for k in value.breaks]] = 100
        which = torsions(value, known=known)
        return {
            "pos": (pos - middle).float(),
            "rot": rot.float(),
            "oxygen": (torch.from_numpy(value.backbone[:, 3]) - middle).float(),
            "letter": lettered(value.sequence),
            "index": torch.from_numpy(np.cumsum(leap)),
            "mask": torch.ones(len(value), dtype=torch.bool),
            "residue": which.residue,
            "number": which.number,
        }

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """Residues padded to the longest chain, torsions to `sites`."""
        longest = max(1, *(len(one["pos"]) for one in singles))
        wide = sites[0] if sites else max(len(one["residue"]) for one in singles)

        def pad(name: str) -> Tensor:
            parts = [one[name] for one in singles]
            size = wide if name in ("residue", "number") else longest
            out = parts[0].new_zeros(len(parts), size, *parts[0].shape[1:])
            for row, part in zip(out, parts, strict=True):
                row[: len(part)] = part
            if name == "rot":
                out[[k for k, one in enumerate(singles) for _ in range(longest - len(one["pos"]))],
                    [j for one in singles for j in range(len(one["pos"]), longest)]] = torch.eye(3)  # fmt: skip
            return out

        return {name: pad(name) for name in singles[0]}

    def drop(self, batch: Any, gone: Tensor) -> dict[str, Tensor]:
        """Residues that nobody sees: torsions by their letters alone."""
        return {**batch, "mask": batch["mask"] & ~gone[:, None]}

    def embedder(self, width: int) -> nn.Module:
        raise RequestError("GivenBackbone has no embedder", "a PackingNetwork, which reads it")

    def audit(self, values: Sequence[Any]) -> list[str]:
        missing = sum(value is None for value in values)
        return [f"{missing} of {len(values)} examples have none"] if missing else []

    def read(self, text: str) -> Any:
        """The structure in a file."""
        return None if text.lower() == "none" else read(text)

    @property
    def files(self) -> tuple[str, ...]:
        return (".pdb", ".cif", ".ent", ".mmcif", ".bcif")

    def words(self, value: Any) -> str:
        return value.name if isinstance(value, Structure) else ""

    def describe(self) -> str:
        return "a structure whose side chains are asked for"


def packable(structure: Structure) -> None:
    """Refuses structures whose side chains cannot be built.

    Raises:
        RequestError: With the first D residue, or the number of residues.
    """
    if len(structure) > MOST:
        raise RequestError(f"{structure!r}", f"at most {MOST} residues", "its chains, one after the other")
    if "D" in structure.hands:
        k = structure.hands.index("D")
        raise RequestError(
            f"the D residue {structure.chains[k]}{structure.numbers[k]}",
            "L residues: side chains are built with their hand",
            "pack structure.mirrored(), and mirror the result",
        )


@dataclass(frozen=True, eq=False)
class Chis:
    """Torsions of a chain as they are drawn, before they are put on it: `[M]`, radians on the circle of each."""

    angles: np.ndarray

    def on(self, structure: Structure, held: np.ndarray | None = None) -> Structure:
        """The structure with these side chains, but for the residues `held` (bool [N]), which keep theirs."""
        which, letters = torsions(structure), lettered(structure.sequence)
        own = np.where(which.twice(letters).numpy(), self.angles / 2, self.angles)
        return packed(structure, dense(own, which, len(structure)), None if held is None else ~held)


@dataclass(frozen=True, eq=False)
class Packing:
    """A structure of which some side chains are known, for `model.sample(given=...)`.

    Args:
        structure: With its backbone, its letters, and the side chains that are known.
        held: Residues whose side chains stay, by selections ("A1-50", "B"), or bool [N].

    Raises:
        RequestError: A residue that is held and lacks atoms.
    """

    structure: Structure
    held: tuple[str, ...] | np.ndarray = ()

    def __post_init__(self) -> None:
        packable(self.structure)
        own = self.mask
        if own.shape != (len(self.structure),):
            raise RequestError(f"held of shape {own.shape}", f"one for each of {len(self.structure)} residues")
        lacking = np.flatnonzero(own & ~whole(self.structure))
        if len(lacking):
            k = lacking[0]
            raise RequestError(
                f"{self.structure.chains[k]}{self.structure.numbers[k]} is held and lacks atoms of its side chain",
                "residues that are whole",
                "Packing(structure, held=building.whole(structure) & mask)",
            )

    @property
    def mask(self) -> np.ndarray:
        """bool [N]: the residues that stay."""
        if isinstance(self.held, np.ndarray):
            return self.held.astype(bool)
        return self.structure.mask(*([self.held] if isinstance(self.held, str) else self.held))

    @property
    def known(self) -> tuple[Tensor, Tensor]:
        """The state [M], and bool [M] where it is known; 0 elsewhere."""
        which = torsions(self.structure)
        keep = torch.from_numpy(self.mask)[which.residue]
        return torch.where(keep, state_of(self.structure, which).nan_to_num(), 0.0), keep


def state_of(structure: Structure, which: Torsions) -> Tensor:
    """The torsions of a structure as they are carried, float32 [M]; NaN where atoms are missing."""
    own = angles(structure)[which.residue.numpy(), which.number.numpy()]
    return torch.from_numpy(wrapped(np.where(which.twice(lettered(structure.sequence)).numpy(), 2 * own, own))).float()


@dataclass(frozen=True)
class KnownTorsions(Known):
    """Shows a run of torsions along the chain clean, and tells which, in a share of the samples.

    Args:
        share: In which share of the samples.
        least: Least of all torsions that are shown, as a share.
        most: Most of them.
    """

    share: float = 0.3
    least: float = 0.1
    most: float = 0.9

    def __post_init__(self) -> None:
        check(self, share=SHARE, least=SHARE, most=SHARE)
        ordered(self, "least", "most", equal=True)

    def keep(self, x0: State, mask: Tensor | None, noise: Noise) -> Tensor:
        """bool [B, M]: a run that may go on at the beginning."""
        chi = x0["chi"]
        real = torch.ones(chi.shape, dtype=torch.bool) if mask is None else mask.cpu()
        u = noise.fork("known torsions").uniform((len(chi), 3))
        total = real.sum(1, keepdim=True)
        size = ((self.least + (self.most - self.least) * u[:, 1:2]) * total).ceil() * (u[:, :1] < self.share)
        on = (torch.arange(chi.shape[1]) - (u[:, 2:] * total).floor()) % total.clamp_min(1)
        return ((on < size) & real).to(chi.device)

    def __call__(
        self, process: Joint, x0: State, noise: Noise, mask: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return {"chi": (self.keep(x0, mask, noise), x0["chi"])}

    def told(self, x0: State, mask: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        return {"held": self.keep(x0, mask, noise)}


@dataclass(frozen=True)
class SideChains(Domain):
    """Side chains on given backbones.

    Args:
        source: Where structures come from: `AtomicStructures()` or `SideChainFiles("folder")`.
    """

    name: ClassVar[str] = "proteins"
    ragged: ClassVar[bool] = True

    source: AtomicSource = field(default_factory=AtomicStructures)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {"backbone": GivenBackbone()}

    @property
    def process(self) -> Joint:
        return Joint(chi=Geodesic(Torus()))

    @property
    def head(self) -> Heads:
        return Heads(chi=Tangent())

    def encode(self, artifact: Structure | Chis) -> State:
        """The torsions of the residues that are whole, [M].

        Raises:
            DataError: A structure without any, or with D residues.
        """
        if isinstance(artifact, Chis):
            return {"chi": torch.from_numpy(wrapped(np.asarray(artifact.angles))).float()}
        if "D" in artifact.hands:
            raise DataError(f"{artifact!r} has D residues", "L residues")
        which = torsions(artifact, known=True)
        if not len(which.residue):
            raise DataError(f"{artifact!r} has no whole side chain with a torsion", "some")
        return {"chi": state_of(artifact, which)}

    def decode(self, x: State) -> Chis:
        return Chis(x["chi"].double().numpy())

    def request(self, n: int, *args: Any, backbone: Any = None, held: Tensor | None = None, **what: Any) -> Request:
        """Side chains for n structures. `backbone` is a `Structure`, or a list of n; `given=` asks for it as well.

        Args:
            n: Of samples.
            args: None are taken.
            backbone: Whose side chains.
            held: bool [n, M] or [1, M], the torsions that are shown (`Packing`).
            what: Nothing else is taken.

        Raises:
            RequestError: No structure, one without torsions, or an unknown keyword.
        """
        if args or what:
            got = f"{next(iter(what))!r}" if what else f"{args[0]!r} without a name"
            hint = nearest(next(iter(what), ""), ("backbone",))
            raise RequestError(f"SideChains was asked for {got}", f"backbone, a Structure.{hint}", "given=structure")
        if backbone is None:
            raise RequestError("SideChains got no backbone", "a Structure", "model.sample(4, given=structure)")
        many = list(backbone) if isinstance(backbone, list | tuple) else [backbone] * n
        if len(many) != n:
            raise RequestError(f"{len(many)} backbones for {n} samples", "one, or one for each")
        sizes = [len(torsions(one).residue) if isinstance(one, Structure) else 0 for one in many]
        for one, size in zip(many, sizes, strict=True):
            if isinstance(one, Structure) and not size:
                raise RequestError(f"{one!r} has no side chain with a torsion", "letters other than A, G and X")
        longest = max(sizes)
        mask = torch.arange(longest)[None] < torch.tensor(sizes)[:, None]
        told = {} if held is None else {"held": held.expand(n, -1)}
        cond = self.encode_conditions(n, sites=(longest,), lengths=sizes, backbone=many)
        return Request({"chi": torch.empty(n, longest)}, {"mask": mask, **told, **cond})

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """A `Structure`, all of whose side chains are asked for, a `Packing`, or a list of one for each sample."""
        many = list(given) if isinstance(given, list | tuple) else [given]
        if not many or not all(isinstance(one, Structure | Packing) for one in many):
            return super().known(given, what)
        if what:
            raise RequestError(f"{next(iter(what))}= with a structure that is given", "the structure alone")
        own = [one if isinstance(one, Packing) else Packing(one) for one in many]
        found = [one.known for one in own]
        longest = max(1, *(len(chi) for chi, _ in found))
        chi, keep = torch.zeros(len(own), longest), torch.zeros(len(own), longest, dtype=torch.bool)
        for row, kept, (values, known) in zip(chi, keep, found, strict=True):
            row[: len(values)], kept[: len(values)] = values, known
        structures = [one.structure for one in own]
        told = {"backbone": structures[0] if len(own) == 1 else structures, "held": keep}
        return Given({"chi": chi}, {"chi": keep}, shown=True), told

    def implied(self, what: Mapping[str, Any]) -> Any:
        """The backbone that side chains are asked for."""
        return what.get("backbone")

    def completed(self, artifact: Chis, given: Any, number: int) -> Structure:
        """The structure with the side chains that were drawn; those that are held are as they were."""
        one = given[number if len(given) > 1 else 0] if isinstance(given, list | tuple) else given
        own = one if isinstance(one, Packing) else Packing(one)
        return artifact.on(own.structure, own.mask)

    @property
    def givens(self) -> Mapping[str, str]:
        return {
            "pdb": "a PDB or mmCIF file whose side chains are made",
            "held": "with pdb: residues whose side chains stay, A1-50,B",
        }

    def given(self, n: int, seed: int = 0, **said: Any) -> Packing:
        """A `Packing` from pdb and held.

        Raises:
            RequestError: held without pdb; StructureError for what the file has not.
        """
        if said.get("pdb") is None:
            raise RequestError(f"SideChains was told {', '.join(said)}", "pdb", "pdb=1aki.pdb")
        held = said.get("held") or ()
        words = held.split(",") if isinstance(held, str) else map(str, held)
        return Packing(self.read(said["pdb"]), tuple(word.strip() for word in words if word.strip()))

    def preview(self, n: int) -> dict[str, Any]:
        """An ideal helix of the twenty letters."""
        return {"backbone": [helix(LETTERS)] * n}

    def network(  # type: ignore[override]
        self, *, width: int = 96, depth: int = 4, edge: int = 48, near: int = 20, dropout: float = 0.0
    ) -> nn.Module:
        """A `PackingNetwork`, whose arguments these are."""
        return PackingNetwork(width, depth, edge, near, dropout=dropout)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return self.source.load(split, root)

    def sampler(self) -> Solver:
        return DDPM(20, noise_scale=0.4)

    def read(self, path: str | Path) -> Structure:
        return read(path)

    def write(self, artifact: Structure, path: str | Path, *, remarks: Sequence[str] = ()) -> None:
        """To PDB or mmCIF, by the suffix.

        Raises:
            RequestError: For torsions that are on no backbone.
        """
        if isinstance(artifact, Chis):
            raise RequestError("torsions without a backbone", "a structure", "torsions.on(structure)")
        write(artifact, path, remarks=remarks)

    @property
    def suffix(self) -> str:
        return ".pdb"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (".pdb", ".cif", ".ent", ".mmcif")


def helix(sequence: str) -> Structure:
    """An ideal helix of these letters, without side chains."""
    torsion = np.tile(np.array(ideal.HELIX), (1, len(sequence), 1))
    return Structure(ideal.build(torsion, np.full((1, len(sequence)), 180.0))[0], sequence, name="helix")
