"""Mutants of the protein domain's complexes, plans and sequences, and of what is shown: see `mutants`."""

from __future__ import annotations

HOME = "domains/gendiff_proteins"
COMPLEXES = ("tests/domains/test_proteins_complexes.py",)
SYMMETRY = ("tests/domains/test_proteins_symmetry.py",)
PLANNED = ("tests/domains/test_proteins_planned.py",)
SEQUENCES = ("tests/domains/test_proteins_sequences.py",)
REFINED = ("tests/domains/test_proteins_refinement.py",)
KNOWN = ("tests/core/test_known.py",)

PROTEINS: list[tuple[str, str, str, str, tuple[str, ...]]] = [
    (
        "chains that are joined in the features of neighbours",
        f"{HOME}/networks.py",
        "shifted(mask, offset) & follows(index, offset)",
        "shifted(mask, offset)",
        COMPLEXES,
    ),
    (
        "a sum along the chain over the next chain too",
        f"{HOME}/networks.py",
        "weight * shifted(seen, k) * follows(index, k)[..., None]",
        "weight * shifted(seen, k)",
        COMPLEXES,
    ),
    (
        "places from the first chain's beginning",
        f"{HOME}/networks.py",
        "return cls(relative, (place - first).to(dtype),",
        "return cls(relative, place.expand(b, n).to(dtype),",
        COMPLEXES,
    ),
    (
        "padding that ends no chain",
        f"{HOME}/networks.py",
        "> _REACH) | (place[1:] == count)",
        "> _REACH)",
        COMPLEXES,
    ),
    (
        "known residues as they were decoded",
        f"{HOME}/motif.py",
        "        backbone[places] = own.backbone\n",
        "",
        COMPLEXES,
    ),
    (
        "a break in what is known that is not told",
        f"{HOME}/motif.py",
        "leap[there] = missing(structure, k)",
        "leap[there] = 1",
        COMPLEXES,
    ),
    (
        "a known chain that is relaxed too",
        f"{HOME}/relaxation.py",
        "rate * step * free[:, None, None]",
        "rate * step",
        COMPLEXES,
    ),
    (
        "ends of chains that may touch",
        f"{HOME}/relaxation.py",
        "(high - low > 1) | ((high - low == 1) & ~np.append(joins, True)[low])",
        "high - low > 1",
        COMPLEXES,
    ),
    (
        "a binder on the inside of its hotspots",
        f"{HOME}/motif.py",
        "out = (spot - around).sum(0)",
        "out = (around - spot).sum(0)",
        COMPLEXES,
    ),
    (
        "a binder that is never let go",
        f"{HOME}/docking.py",
        "if s <= self.release:",
        "if s <= 0:",
        COMPLEXES,
    ),
    (
        "images by the inverse rotations",
        f"{HOME}/symmetry.py",
        'out["rot"] = torch.einsum("gij,bnjk->bgnik"',
        'out["rot"] = torch.einsum("gji,bnjk->bgnik"',
        SYMMETRY,
    ),
    (
        "pairs of images by the wrong element",
        f"{HOME}/symmetry.py",
        'torch.einsum("kji,ljm->klim", g, g)',
        'torch.einsum("kij,lmj->klim", g, g)',
        SYMMETRY,
    ),
    (
        "a motif that is shifted before its images are there",
        f"{HOME}/symmetry.py",
        "        x = images(x, self.rotations, self.length)  # what is known is shifted to the mean of where it is\n",
        "",
        SYMMETRY,
    ),
    (
        "a motif about the axes shown to networks that never saw one",
        f"{HOME}/symmetry.py",
        "shown=self.motif is None",
        "shown=True",
        SYMMETRY,
    ),
    (
        "chains as far out in noise as clean ones",
        f"{HOME}/symmetry.py",
        "push = (least - far).clamp_min(0)",
        "push = (far - least).clamp_min(0)",
        SYMMETRY,
    ),
    (
        "parallel strands that face each other backwards",
        f"{HOME}/topology.py",
        'j = middle - i if kind == "antiparallel" else middle + i',
        'j = middle - i if kind == "parallel" else middle + i',
        PLANNED,
    ),
    (
        "pairs asked where nothing is said of a residue",
        f"{HOME}/topology.py",
        'return {"structure": asked, "pairing": both if said',
        'return {"structure": asked, "pairing": torch.ones_like(both) if said',
        PLANNED,
    ),
    (
        "a distogram's padding that counts",
        f"{HOME}/pairs.py",
        "return (each * real).sum(1) / real.sum(1).clamp_min(1)",
        "return each.mean(1)",
        PLANNED,
    ),
    (
        "a sequence in the order of its residues",
        f"{HOME}/sequences.py",
        "place[order] = torch.arange(size)",
        "place = order",
        SEQUENCES,
    ),
    (
        "a residue that sees its own letter",
        f"{HOME}/sequences.py",
        "    shown.fill_diagonal_(MASKED)\n",
        "",
        SEQUENCES,
    ),
    (
        "missing residues counted with one of those beside them",
        f"{HOME}/refinement.py",
        "int(other) - int(one) - 1) > 0",
        "int(other) - int(one)) > 1",
        REFINED,
    ),
    (
        "an ensemble on the wrong side of what is asked",
        f"{HOME}/refinement.py",
        "low, high = (middle, high) if median(middle) < angstrom else (low, middle)",
        "low, high = (middle, high) if median(middle) > angstrom else (low, middle)",
        REFINED,
    ),
    (
        "what is known, as noisy as the rest",
        "gendiff/guidance/given.py",
        "if s <= 0 or self.shown else",
        "if s <= 0 else",
        KNOWN,
    ),
    (
        "what is shown, in the other samples",
        "gendiff/training/known.py",
        ".uniform((len(own.index),)) < self.share",
        ".uniform((len(own.index),)) > self.share",
        KNOWN,
    ),
    (
        "what is shown without its noise",
        "gendiff/training/known.py",
        "own.fork(name)) if self.level else clean",
        "own.fork(name)) if self.level < 0 else clean",
        KNOWN,
    ),
]
