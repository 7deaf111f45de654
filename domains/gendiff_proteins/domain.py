"""Protein backbones as a domain: a structure in angstrom is a bundle of frames in nanometres.

    pos   CA positions, centred, Gaussian noise of 1 nm along the straight path       head Velocity
    rot   orientations, noise uniform on SO(3) along geodesics                        head Tangent

The rotations run by a faster clock, kappa(t) = (e^(rt) - 1)/(e^r - 1): they settle while positions still move, which
lets chains keep their bonds. Encoding keeps CA exactly; decoding places N, C and O by ideal geometry, 0.09 A RMS from
the crystal's. Sequence and numbering are not part of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import (
    DDPM,
    SO3,
    Centered,
    Condition,
    Domain,
    Examples,
    Exponential,
    Gaussian,
    Geodesic,
    Given,
    Heads,
    Joint,
    Label,
    Linear,
    Measurement,
    Request,
    Tangent,
    Velocity,
)
from gendiff.domain import Made
from gendiff.errors import DataError, RequestError, nearest
from gendiff.evaluation import Judge, Measure, Observer
from gendiff.evaluation.measures import each
from gendiff.processes import schedule_of
from gendiff.sampling.solvers import Solver
from gendiff.training import Auxiliary

from . import frames, metrics, superpose
from .bonding import three_states
from .docking import Docked
from .geometry import geometry_loss
from .judge import proteinmpnn
from .motif import Motif, scaffolds
from .networks import FrameNetwork, Rings
from .peptides import Peptide, padded, peptides
from .reading import read
from .relaxation import Relaxation
from .repulsion import untangle
from .sources import FOLDS, Backbones, Chains, fold
from .structure import LONGEST, SHORTEST, Structure
from .symmetry import Symmetric
from .writing import write

State = dict[str, Tensor]

LARGEST = 4096  # residues of several chains together
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Proteins(Domain):
    """Backbones of single chains.

    Args:
        source: where structures come from: `Backbones()`, `Ideal()` or `Structures("folder")`.
        rate: how much faster rotations settle than positions; 0 makes their clock linear.
        floor: smallest time in the weight of the geometric loss.
        asked: more that may be asked than the fold, by name, e.g. {"structure": Sites(("H", "E", "L"))}.
        relaxation: what finishes samples: bonds, angles and contacts as in real chains. None leaves them as they are
            decoded, and known residues where they are given; relaxed ones move by about 0.1 A.
    """

    name: ClassVar[str] = "proteins"
    ragged: ClassVar[bool] = True

    source: Chains = field(default_factory=Backbones)
    rate: float = 3.0
    floor: float = 0.1
    asked: Mapping[str, Condition] = field(default_factory=dict)
    relaxation: Relaxation | None = None

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {"fold": Label(FOLDS), **self.source.conditions, **self.asked}

    @property
    def process(self) -> Joint:
        clock = Exponential(self.rate) if self.rate else Linear()
        return Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), clock))

    @property
    def head(self) -> Heads:
        return Heads(pos=Velocity(), rot=Tangent())

    def encode(self, artifact: Structure) -> State:
        """Frames of one unbroken chain: "pos" [N, 3] in nm about its centre, "rot" [N, 3, 3]."""
        if not SHORTEST <= len(artifact) <= LONGEST:
            raise DataError(f"{artifact!r}", f"{SHORTEST} to {LONGEST} residues")
        if artifact.breaks:
            at = ", ".join(f"{artifact.chains[b]}{artifact.numbers[b]}" for b in artifact.breaks[:4])
            raise DataError(f"{artifact!r} has chain breaks after {at}", "one unbroken chain", "structure.pieces()[0]")
        return self.encode_given(artifact)

    def encode_given(self, artifact: Structure) -> State:
        """The state of a chain that may be broken: a damaged structure to start from."""
        return self.frames_of(artifact)

    def frames_of(self, artifact: Structure) -> State:
        """The frames of a chain that may be broken: a motif with gaps."""
        if len(artifact) > LONGEST:
            raise DataError(f"{artifact!r}", f"at most {LONGEST} residues")
        pos, rot = frames.frames_from_backbone(torch.from_numpy(artifact.backbone))
        return {"pos": (frames.NM * (pos - pos.mean(0))).float(), "rot": rot.float()}

    def decode(self, x: State) -> Structure:
        backbone = frames.backbone_from_frames(x["pos"].double() / frames.NM, x["rot"].double())
        return Structure(backbone.numpy(), name="sample")

    def request(
        self,
        n: int,
        *args: Any,
        length: int | Sequence[int] | None = None,
        index: Sequence[Tensor] | None = None,
        ring: Sequence[Tensor] | None = None,
        **what: Any,
    ) -> Request:
        """n chains. `length` is a number of residues, or a list of n; `fold` is alpha, beta, mixed or coil.

        `index`, int64 [length] each, are places along several chains, as `Motif.index` has them; `ring`, bool [length]
        each, the residues whose chain is closed (`Peptide.ring`).

        Raises:
            RequestError: no length, one out of range, or an unknown keyword, with the nearest.
        """
        own = self.conditions
        unknown = [name for name in what if name not in own]
        if args or unknown:
            got = f"Proteins was asked for {unknown[0]!r}" if unknown else f"Proteins got {args[0]!r} without a name"
            hint = nearest(unknown[0], ("length", *own)) if unknown else ""
            takes = "".join(f", {name} ({condition.describe()})" for name, condition in own.items())
            raise RequestError(got, f"It takes length (residues){takes}.{hint}", "length=80")
        lengths = [length] * n if isinstance(length, int) and not isinstance(length, bool) else length
        if lengths is None or isinstance(lengths, bool | str):
            raise RequestError(
                f"Proteins got length={length!r}", f"a number of residues, or a list of {n}", "length=80"
            )
        sizes = [int(size) for size in lengths]
        if len(sizes) != n:
            raise RequestError(f"length has {len(sizes)} values for {n} samples", f"one number, or {n}", "length=80")
        most = LONGEST if index is None else LARGEST
        wrong = [size for size in sizes if not SHORTEST <= size <= most]
        if wrong:
            raise RequestError(f"length={wrong[0]}", f"{SHORTEST} to {most} residues")
        longest = max(sizes, default=SHORTEST)
        like = {"pos": torch.empty(n, longest, 3), "rot": torch.empty(n, longest, 3, 3)}
        mask = torch.arange(longest)[None] < torch.tensor(sizes)[:, None]
        told: dict[str, Any] = {"mask": mask}
        if index is not None:
            whole = torch.arange(longest).repeat(n, 1)
            for row, own in zip(whole, [index[0]] * n if len(index) == 1 else index, strict=True):
                row[: len(own)] = own
            told["index"] = whole
        if ring is not None:
            told["ring"] = padded(list(ring) * n if len(ring) == 1 else ring, longest)
        return Request(like, {**told, **self.encode_conditions(n, sites=(longest,), lengths=sizes, **what)})

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """A `Motif`, or a list of one for each sample, tells which residues are known, and how long the samples are; a
        `Symmetric` which chains are images of others, a `Peptide` whether they are closed.

        Raises:
            RequestError: a length that is not the motif's, or something in which nothing is known.
        """
        if isinstance(given, Symmetric):
            asked = what.get("length")
            given = replace(given, length=asked) if given.length is None else given
            total = given.count * given.size
            if asked not in (None, given.size, total):
                raise RequestError(f"length={asked!r} with {given.count} chains of {given.size}", "no length=")
            return given.given(self.with_nothing), {**what, "length": total, "index": [given.index]}
        if (many := peptides(given, what.get("length"))) is not None:
            return self.of_peptides(many, what)
        motifs = list(given) if isinstance(given, list | tuple) else [given]
        if not motifs or not all(isinstance(one, Motif) for one in motifs):
            return super().known(given, what)
        lengths = [one.length for one in motifs]
        asked = what.get("length")
        if asked is not None and asked not in (lengths, lengths[0] if len(set(lengths)) == 1 else None):
            raise RequestError(f"length={asked!r} with a motif in a chain of {lengths[0]}", "one length", "no length=")
        most = max(lengths)
        pos, keep = torch.zeros(len(motifs), most, 3), torch.zeros(len(motifs), most, dtype=torch.bool)
        rot = torch.eye(3).repeat(len(motifs), most, 1, 1)
        for k, one in enumerate(motifs):
            known, own = self.frames_of(one.structure), list(one.places)
            pos[k, own], rot[k, own], keep[k, own] = known["pos"], known["rot"], True
        told: dict[str, Any] = {**what, "length": lengths[0] if len(motifs) == 1 else lengths}
        if any(bool((one.index.diff() != 1).any()) for one in motifs):
            told["index"] = [one.index for one in motifs]
        x0, by_part = self.with_nothing({"pos": pos, "rot": rot}, {"pos": keep, "rot": keep})
        if not any(one.hotspots for one in motifs):
            return Given(x0, by_part), told
        made = torch.zeros(len(motifs), most, dtype=torch.bool)
        for row, one in zip(made, motifs, strict=True):
            row[: one.length] = torch.from_numpy(one.made & bool(one.hotspots))
        berths = [frames.NM * one.berth() if one.hotspots else np.zeros(3) for one in motifs]
        berth = torch.from_numpy(np.stack(berths)).float()
        return Docked(x0, by_part, made=made, berth=berth), told

    def of_peptides(self, many: Sequence[Peptide], what: Mapping[str, Any]) -> tuple[Given, dict[str, Any]]:
        """What is known of closed chains and of mirror images: their motifs, or nothing; and where the rings are."""
        motifs, sizes = [one.known for one in many], [one.size for one in many]
        told: dict[str, Any] = {**what, "length": sizes[0] if len(sizes) == 1 else sizes}
        if any(one.cyclic for one in many):
            told["ring"] = [one.ring for one in many]
        if all(motif is not None for motif in motifs):
            found, told = Proteins.known(self, motifs, told)
            assert isinstance(found, Given)
            return found, told
        if any(motif is not None for motif in motifs):
            raise RequestError("peptides of which some have a motif", "a motif for each, or none")
        pos, rot = torch.zeros(len(many), max(sizes), 3), torch.eye(3).repeat(len(many), max(sizes), 1, 1)
        none = torch.zeros(len(many), max(sizes), dtype=torch.bool)
        return Given(*self.with_nothing({"pos": pos, "rot": rot}, {"pos": none, "rot": none}), shown=True), told

    def completed(self, artifact: Structure, given: Any, number: int) -> Structure:
        """With a motif: in the place of its file, known residues as they are there, chains and numbers said."""
        one = given[number if len(given) > 1 else 0] if isinstance(given, list | tuple) and given else given
        return one.complete(artifact) if isinstance(one, Motif | Symmetric | Peptide) else artifact

    @property
    def givens(self) -> Mapping[str, str]:
        return {
            "pdb": "a PDB or mmCIF file that known residues are taken from",
            "contig": 'with pdb: what is kept and made, "10-20/A16-35/10-20", "A1-150/0 70" beside a target',
            "hotspots": "with a target: residues that a binder shall touch, A45,A49",
            "symmetry": "C2, C3, ..., D2, ..., T, O or I: each chain has `length` residues, or those of a contig",
            "cyclic": "true: chains are closed, their last residue joined to their first; 7 residues or more",
            "hand": "L or D: the hand of all residues that are made",
        }

    def given(self, n: int, seed: int = 0, **said: Any) -> Any:
        """`Motif`s for n samples from pdb and contig, and hotspots; a `Symmetric` from symmetry; `Peptide`s from cyclic
        and hand.

        Raises:
            RequestError: words that do not fit together; StructureError and ContigError for what the file has not.
        """
        if said.keys() & {"cyclic", "hand"}:
            return self.given_peptides(n, seed, **said)
        path, contig, spots, name = (said.get(key) for key in ("pdb", "contig", "hotspots", "symmetry"))
        if (path is None) != (contig is None):
            raise RequestError(
                f"{'pdb' if contig is None else 'contig'} was told alone", "both", 'pdb=1prw.pdb "contig=10/A16-35/10"'
            )
        if spots is not None and contig is None:
            raise RequestError(
                f"hotspots={spots!r} without a target", "pdb and contig", 'pdb=x.pdb "contig=A1-150/0 70"'
            )
        if path is None or contig is None:
            if name is None:
                raise RequestError(
                    f"nothing of {', '.join(said) or 'what is known'}", "pdb and contig, or symmetry", ""
                )
            return Symmetric(str(name))
        words = contig if isinstance(contig, str) else ",".join(map(str, contig))
        hot = [spots] if isinstance(spots, str) else list(spots or ())
        many = scaffolds(self.read(path), words, n, seed=seed, hotspots=[str(one) for one in hot])
        if name is None:
            return many
        if len({one.length for one in many}) > 1 or len(many[0].starts) > 1:
            raise RequestError(f"symmetry={name} with the contig {words!r}", "one chain of one length", "")
        return Symmetric(str(name), many[0].length, motif=many[0])

    def given_peptides(self, n: int, seed: int, *, cyclic: Any = False, hand: Any = "L", **said: Any) -> Any:
        """A `Peptide`, or with pdb and contig n of them."""
        if "symmetry" in said:
            raise RequestError(
                f"symmetry={said['symmetry']} with closed chains or a hand", "one of them", 'symmetry="C3" alone'
            )
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        kind = Peptide(None, words.get(str(cyclic).lower(), cyclic), str(hand).upper())  # type: ignore[arg-type]
        if not said:
            return kind
        return [replace(kind, motif=motif) for motif in self.given(n, seed, **said)]

    def with_nothing(self, x0: State, keep: State) -> tuple[State, State]:
        """What is known and where, [B, ...] by part, with the parts that are not in it, of which nothing is."""
        return x0, keep

    def size_of(self, artifact: Structure) -> dict[str, Any]:
        return {"length": len(artifact)}

    def size_for(self, sites: int) -> dict[str, Any]:
        return {"length": sites}

    def preview(self, n: int) -> dict[str, Any]:
        """Lengths spread over the range of the source; the i-th is the same whatever n."""
        low, high = max(self.source.min_length, SHORTEST), min(self.source.max_length, LONGEST)
        return {"length": [int(low + (i + 1) * GOLDEN % 1 * (high + 1 - low)) for i in range(n)]}

    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The lengths of the source, in residues."""
        return {"length": (self.source.min_length, self.source.max_length)}

    def network(  # type: ignore[override]
        self,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        pair: int = 32,
        jumps: bool = False,
        guided: bool = False,
    ) -> nn.Module:
        """A `FrameNetwork`.

        Args:
            width: channels per residue.
            depth: blocks; each moves the frames once.
            heads: attention heads.
            pair: channels per pair of residues.
            jumps: whether it is told the time to jump to (few steps).
            guided: whether it is told a guidance scale.
        """
        clock = schedule_of(self.process, "rot").clock
        return FrameNetwork(
            width, depth, heads, pair, conditions=self.conditions, clock=clock, jumps=jumps, guided=guided
        )

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        """The chains of the source; with the condition "structure", what DSSP says of each residue, as H, E or L."""
        examples = self.source.load(split, root)
        if "structure" not in self.asked:
            return examples
        cond = [{"structure": three_states(e.artifact), **e.cond} for e in examples]
        items = Made(examples.artifacts, cond, examples.names)
        return Examples(items, examples.rejected, examples.others, examples.notes)

    def metrics(self) -> dict[str, Measure]:
        return {measure.name: measure for measure in (*metrics.MEASURES, superpose.diversity)}

    def judges(self) -> Mapping[str, Callable[[Examples, Examples], Judge]]:
        """ProteinMPNN, of the package of that name."""
        return {"proteinmpnn": proteinmpnn}

    def observed(self) -> Mapping[str, Observer]:
        """The fold by CA alone and, where it may be asked for, the secondary structure by hydrogen bonds."""
        known: dict[str, Observer] = {"fold": partial(each, fold), "structure": partial(each, three_states)}
        return {name: f for name, f in known.items() if name in self.conditions}

    def sampler(self) -> Solver:
        return DDPM(60, noise_scale=0.4)

    @property
    def auxiliary(self) -> dict[str, Auxiliary]:
        return {"geometry": Auxiliary(self.geometry)}

    def geometry(self, prediction: State, x0: State, t: Any, **cond: Any) -> Tensor:
        """The geometric loss of the predicted frames, a third of the sum per residue, like the loss of positions."""
        return geometry_loss(prediction, x0, t, cond["mask"], floor=self.floor) / 3

    def constrain(self, prediction: State, t: float, **cond: Any) -> State:
        """Predicted chains with overlapping residues moved apart."""
        mask, ring = cond["mask"], cond.get("ring")
        rings = None if ring is None else Rings.of(mask, cond.get("index"), ring)
        return {**prediction, "pos": untangle(prediction["pos"], mask, rings=rings)}

    def finish(self, artifacts: list[Structure]) -> list[Structure]:
        return artifacts if self.relaxation is None else self.relaxation(artifacts)

    @property
    def finishes(self) -> bool:
        return self.relaxation is not None

    def read(self, path: str | Path) -> Structure:
        return read(path)

    def write(self, artifact: Structure, path: str | Path, *, remarks: Sequence[str] = ()) -> None:
        """To PDB or mmCIF, by the suffix; `remarks` (seed, model, request) are lines of text kept in the file."""
        write(artifact, path, remarks=remarks)

    def plot(self, artifacts: Sequence[Structure], path: str | Path, *, labels: Sequence[str] | None = None) -> None:
        from .plot import plot

        plot(artifacts, path, labels=labels)

    @property
    def suffix(self) -> str:
        return ".pdb"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (".pdb", ".cif", ".ent", ".mmcif")
