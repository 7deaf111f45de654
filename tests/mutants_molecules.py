"""Mutants of the molecule domain: see `mutants`."""

from __future__ import annotations

HOME = "domains/gendiff_molecules"
DOMAIN = ("tests/domains/test_molecules_domain.py",)
MOLECULE = ("tests/domains/test_molecules_molecule.py",)
TORSIONS = ("tests/domains/test_molecules_torsions.py",)
TABLES = ("tests/domains/test_molecules_tables.py",)
MEASURES = ("tests/domains/test_molecules_measures.py",)

MOLECULES: list[tuple[str, str, str, str, tuple[str, ...]]] = [
    (
        "vectors that add up where they cancel",
        f"{HOME}/networks.py",
        "eye[self.i] - eye[self.j]",
        "eye[self.i] + eye[self.j]",
        DOMAIN,
    ),
    (
        "bonds to padding that are summed",
        f"{HOME}/networks.py",
        "given = given * at.real.to(given.dtype)",
        "given = given * torch.ones_like(at.real).to(given.dtype)",
        DOMAIN,
    ),
    (
        "triangles over padding",
        f"{HOME}/networks.py",
        "at.matrix(self.sides(z)) * at.square.to(z.dtype)",
        "at.matrix(self.sides(z)) * at.off.to(z.dtype)",
        DOMAIN,
    ),
    (
        "attention to padding",
        f"{HOME}/networks.py",
        "torch.where(mask, 0.0, -1e4)",
        "torch.where(mask, 0.0, 0.0)",
        DOMAIN,
    ),
    (
        "a cross product whatever parity says",
        f"{HOME}/networks.py",
        "        if self.parity:\n            v = v + y[0]",
        "        if True:\n            v = v + y[-1]",
        DOMAIN,
    ),
    (
        "a template in other axes",
        f"{HOME}/networks.py",
        'towards = ((template["pos"] - middle) * own)[..., None]',
        'towards = ((template["pos"] - middle).abs() * own)[..., None]',
        DOMAIN,
    ),
    (
        "valences of padding",
        f"{HOME}/domain.py",
        "off * real[:, None]).sum(2).abs() * real",
        "off * real[:, None]).sum(2).abs()",
        DOMAIN,
    ),
    (
        "lengths to padding",
        f"{HOME}/domain.py",
        "& mask[:, i] & mask[:, j]).to(far[0].dtype)",
        "& mask[:, i]).to(far[0].dtype)",
        DOMAIN,
    ),
    (
        "two pieces that may not be joined",
        f"{HOME}/fragments.py",
        "(piece[i] >= 0) & (piece[i] == piece[j])",
        "(piece[i] >= 0) & (piece[j] >= 0)",
        DOMAIN,
    ),
    (
        "a fragment's place by a mirror image",
        f"{HOME}/fragments.py",
        "return rotation, b - rotation @ a",
        "return -rotation, b + rotation @ a",
        DOMAIN,
    ),
    (
        "known atoms that are padding",
        f"{HOME}/fragments.py",
        "rank = far.masked_fill(~real, torch.inf).argsort(1)",
        "rank = far.argsort(1)",
        DOMAIN,
    ),
    (
        "charges that are no part of a kind",
        f"{HOME}/sources.py",
        "astype(np.int64)[wanted] * 512 + packed.charges[wanted] + 256",
        "astype(np.int64)[wanted] * 512 + 256",
        DOMAIN,
    ),
    (
        "torsions without a sign",
        f"{HOME}/measures.py",
        "np.degrees(np.arctan2(sine, (n1 * n2).sum(-1)))",
        "np.degrees(np.arctan2(np.abs(sine), (n1 * n2).sum(-1)))",
        MEASURES,
    ),
    (
        "unique among all that were asked for",
        f"{HOME}/measures.py",
        "len(set(found)) / len(found) if found else",
        "len(set(found)) / len(own) if found else",
        MEASURES,
    ),
    (
        "radicals that pass",
        f"{HOME}/molecule.py",
        "and not (self.implied and valence < max(allowed, default=0))",
        "and not (valence < max(allowed, default=0))",
        MOLECULE,
    ),
    (
        "atoms taken in another order",
        f"{HOME}/molecule.py",
        "new[places] = np.arange(len(places))",
        "new[np.sort(places)] = np.arange(len(places))",
        MOLECULE,
    ),
    (
        "kinds that are counted at padding too",
        f"{HOME}/networks.py",
        "kinds + 1).to(dtype) * mask[..., None]).sum(1)",
        "kinds + 1).to(dtype)).sum(1)",
        DOMAIN,
    ),
    (
        "weights of kinds by their places",
        "gendiff/adaptation.py",
        "index = torch.tensor([place[names[i]] for i in both])",
        "index = torch.tensor(both)",
        DOMAIN,
    ),
    (
        "a torsion that turns the other side",
        f"{HOME}/torsions.py",
        "out.append((*ends, mask if ends == (i, j) else ~mask))",
        "out.append((*ends, ~mask if ends == (i, j) else mask))",
        TORSIONS,
    ),
    (
        "a pose's middle that is every atom's",
        f"{HOME}/torsions.py",
        "middle = x[:, self.root].mean(1, keepdim=True)",
        "middle = x.mean(1, keepdim=True) + 0 * x[:, self.root[:1]]",
        TORSIONS,
    ),
    (
        "hydrogen bonds of every pair",
        f"{HOME}/docking.py",
        "bond = (a.gives[:, None] & b.takes) | (a.takes[:, None] & b.gives)",
        "bond = (a.gives[:, None] | b.takes) | (a.takes[:, None] & b.gives)",
        TORSIONS,
    ),
    (
        "poses ranked the worst first",
        f"{HOME}/docking.py",
        "for k in scores.argsort().tolist():",
        "for k in scores.argsort(descending=True).tolist():",
        TORSIONS,
    ),
    (
        "what is not sound ranked first",
        f"{HOME}/tables.py",
        'return not own["sound"], sum(off)',
        'return bool(own["sound"]), sum(off)',
        TABLES,
    ),
    (
        "drawings without wedges",
        f"{HOME}/tables.py",
        "addChiralHs=False, wedgeBonds=True",
        "addChiralHs=False, wedgeBonds=False",
        TABLES,
    ),
]
