"""Small molecules: the example of a joint state with a part on pairs, trained twenty minutes on one thread, and judged.

    python benchmarks/qm9.py train runs/qm9                                        # 20 minutes, one thread, any load
    python benchmarks/qm9.py train runs/qm9 --resume                               # if it was stopped
    python benchmarks/qm9.py sample runs/qm9 --eta 1 --temperature 1 0.5 --seed 2 --n 500 --out samples.npz
    python benchmarks/qm9.py judge samples.npz --results benchmarks/results/qm9.json  # needs rdkit, no network

`sample --eta 0 0.5 1 --below 0.5 1` compares churns too. Sizes are drawn as training has them, in no order. Of each way
of sampling, with Wilson's interval:

    valid       RDKit's sanitising accepts it (which takes under-valent atoms for radicals)
    connected   it is one piece
    both        these two
    good        both, and every atom has its valence: H 1, O 2, N 3, C 4
    unique      share of different canonical SMILES among the good
    lengths     Wasserstein-1 distance of bond lengths from test molecules, kind by kind, weighted by how many; angstrom
    right       of the centres that RDKit calls R or S from the positions, the share R; mirror images exchange the two

`data` are test molecules, from which lengths are measured, and `other data` as many others: the floor. GENDIFF_DATA
names the data folder. The budget of the run is in steps, since minutes of a shared machine are no measure.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 4000  # 20 minutes of one thread of an AVX-512 processor with nothing beside it


def recipe() -> Any:
    """How the example is trained."""
    from gendiff import Objective
    from gendiff_qm9 import QM9
    from gendiff_recipes.recipe import Optimizer, Recipe, Trainer

    return Recipe(
        "qm9.neutral", QM9(), objective=Objective(parts={"atom": 0.3, "bond": 2.0}), ema=0.998,
        optimizer=Optimizer(lr=1e-3, warmup=200, decay=0.5),
        trainer=Trainer(steps=STEPS, batch=64, accelerator="cpu", threads=1, show=0, checkpoint=500),
    )  # fmt: skip


def pack(molecules: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Molecules by name as arrays: atomic numbers, positions and bonds (i, j, order), end to end."""
    from gendiff_qm9 import NUMBERS

    out: dict[str, np.ndarray] = {}
    for name, own in molecules.items():
        bonds = [m.bonds.triu().nonzero() for m in own]
        out[f"{name}/offset"] = np.cumsum([0, *(len(m.atoms) for m in own)])
        out[f"{name}/z"] = np.concatenate([np.asarray(NUMBERS)[m.atoms.numpy()] for m in own])
        out[f"{name}/pos"] = np.concatenate([m.pos.numpy() for m in own])
        out[f"{name}/bond_offset"] = np.cumsum([0, *(len(b) for b in bonds)])
        orders = [m.bonds[b[:, 0], b[:, 1]] for m, b in zip(own, bonds, strict=True)]
        rows = [np.column_stack([b.numpy(), order.numpy()]) for b, order in zip(bonds, orders, strict=True)]
        out[f"{name}/bonds"] = np.concatenate(rows).astype(np.int64)
    return out


def sample(args: argparse.Namespace) -> None:
    """Draws n molecules by each way, and as many of the test set."""
    import torch

    import gendiff
    from gendiff import Absorbing, Joint, Model, Pairs
    from gendiff_qm9 import QM9

    torch.set_num_threads(1)
    model = gendiff.load(args.run, parts=[QM9])
    test = model.domain.dataset("test")
    order = np.random.default_rng(0).permutation(len(test))
    halves = {"data": order[: args.n], "other data": order[args.n : 2 * args.n]}
    found = {name: [test[int(k)].artifact for k in rows] for name, rows in halves.items()}
    ways = {(eta, below if eta else 1.0) for eta in args.eta for below in args.below}
    for eta, below in sorted(ways):
        own = {"eta": eta, "below": below}
        process = Joint({**model.denoiser.process.parts, "atom": Absorbing(4, **own)})
        process = Joint({**process.parts, "bond": Absorbing(4, sites=Pairs(), **own)})
        drawn = Model.new(model.domain, process=process, **model.size)
        drawn.denoiser.network.load_state_dict(model.denoiser.network.state_dict())
        for temperature in args.temperature:
            noise = {"pos": 1.0, "atom": temperature, "bond": temperature}
            solver = gendiff.Adams(args.evaluations, noise_scale=noise)
            name = f"{args.evaluations} evaluations, eta={eta:g}, below={below:g}, temperature={temperature:g}"
            name += f", seed {args.seed}"
            print(name, flush=True)
            found[name] = drawn.sample(args.n, sampler=solver, seed=args.seed, batch=100)
    arrays: dict[str, Any] = pack(found)
    np.savez_compressed(args.out, **arrays)


def unpack(own: dict[str, np.ndarray]) -> list[Any]:
    """The molecules of such arrays."""
    from gendiff_molecules import Molecule

    atoms, ties = own["offset"], own["bond_offset"]
    rows = zip(atoms, atoms[1:], ties, ties[1:], strict=False)
    return [Molecule(own["z"][a:b], own["pos"][a:b], own["bonds"][c:d]) for a, b, c, d in rows]


def share(own: Any) -> dict[str, float]:
    """A share, and its interval of 95 %."""
    if not own.n:
        return {"share": math.nan, "n": 0}
    return {"share": round(own.value, 4), "low": round(own.low, 4), "high": round(own.high, 4), "n": own.n}


def judge(args: argparse.Namespace) -> None:
    """The table, printed and written."""
    from gendiff_molecules.measures import summary

    data = np.load(args.samples)
    rows: dict[str, Any] = {}
    reference: list[Any] = []
    for name in dict.fromkeys(key.rpartition("/")[0] for key in data):
        each = unpack({key: data[f"{name}/{key}"] for key in ("offset", "z", "pos", "bond_offset", "bonds")})
        reference = reference or each
        told = summary(each, reference)
        rows[name] = {
            **{word: share(own) for word, own in told.shares.items()},
            "unique": round(told.unique, 4),
            "lengths": round(told.distances["lengths"], 4),
        }
        shares = {word: rows[name][word]["share"] for word in ("valid", "connected", "both", "good", "right")}
        words = ", ".join(f"{word} {value:.3f}" for word, value in shares.items())
        print(f"{name:44} {words}, unique {rows[name]['unique']:.3f}, lengths {rows[name]['lengths']:.4f}", flush=True)
    if args.results:
        said = json.loads(args.run.read_text()) if args.run else {}
        text = json.dumps({"command": sys.argv, "training": said, "ways": rows}, indent=1)
        Path(args.results).write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    train_ = verbs.add_parser("train")
    train_.add_argument("run", type=Path)
    train_.add_argument("--resume", action="store_true")
    sample_ = verbs.add_parser("sample")
    sample_.add_argument("run", type=Path)
    sample_.add_argument("--n", type=int, default=1000)
    sample_.add_argument("--evaluations", type=int, default=50)
    sample_.add_argument("--eta", type=float, nargs="+", default=[0.0])
    sample_.add_argument("--below", type=float, nargs="+", default=[0.5])
    sample_.add_argument("--temperature", type=float, nargs="+", default=[1.0], help="of elements and bonds")
    sample_.add_argument("--seed", type=int, default=1)
    sample_.add_argument("--out", type=Path, required=True)
    judge_ = verbs.add_parser("judge")
    judge_.add_argument("samples", type=Path)
    judge_.add_argument("--results", type=Path)
    judge_.add_argument("--run", type=Path, help="a JSON file about the training, copied into the results")
    train_.set_defaults(do=run)
    sample_.set_defaults(do=sample)
    judge_.set_defaults(do=judge)
    args = parser.parse_args()
    args.do(args)


def run(args: argparse.Namespace) -> None:
    """Trains, or goes on."""
    from gendiff_recipes.training import train

    train(recipe(), args.run, quiet=True, resume=args.resume)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "gendiff_qm9"))
    main()
