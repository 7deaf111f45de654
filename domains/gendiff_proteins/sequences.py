r"""What a model with a sequence says of the letters of a backbone: marginals, likelihoods, mutations.

With a backbone X shown and some letters masked, the network's log-probabilities of a masked residue i given the others
that are shown, s_A, are log p(s_i | s_A, X). From them

    marginals     log p(s_i = a | s_{-i}, X)       every residue masked alone, all others shown   (Meier et al. 2021)
                  log p(s_i = a | X)               nothing shown
    likelihood    log p(s | X) = sum_k log p(s_{o_k} | s_{o_1}, ..., s_{o_{k-1}}, X)      exact for an order o
    mutation      log p(s_i = b | s_{-i}, X) - log p(s_i = a | s_{-i}, X);    sites of a multiple mutant masked together

The time that the network is told is the share of masked residues, as in training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from gendiff.errors import RequestError, nearest
from gendiff.generation import Generation
from gendiff.guidance import Given
from gendiff.random import Noise

from .pairs import LETTERS
from .planned import lettered
from .structure import Structure

MASKED = len(LETTERS)
_MUTATION = re.compile(r"(?P<old>[A-Z])(?P<chain>[A-Za-z0-9]*:)?(?P<number>-?\d+[a-z]?)(?P<new>[A-Z])")


@torch.no_grad()
def conditionals(model: Generation, structure: Structure, shown: Tensor, batch: int = 16) -> Tensor:
    """log p(s_i | what is shown, X) for every residue, float64 [M, N, 20].

    Args:
        model: One whose states have the part "sequence".
        structure: The backbone.
        shown: Letters as classes, int64 [M, N], 20 where masked.
        batch: Rows at a time.

    Raises:
        RequestError: A model that has no sequence.
    """
    if not getattr(model.domain, "sequence", False):
        raise RequestError(
            f"{model.domain!r:.80} has no sequence", "a model of sequences", "gendiff train proteins.inverse_folding"
        )
    given, what = model.domain.known(structure, {})
    assert isinstance(given, Given)
    request, known = model.domain.request(1, **what), given.x0
    found = []
    with model.at_rest():
        for rows in shown.split(batch):
            size = len(rows)
            x = {name: part.expand(size, *part.shape[1:]).clone() for name, part in known.items()}
            for name, part in request.like.items():
                if name not in ("pos", "rot"):
                    x[name] = torch.full((size, *part.shape[1:]), model.denoiser.process.parts[name].classes)
            x["sequence"] = rows.clone()
            cond = {name: part.expand(size, *part.shape[1:]) for name, part in request.cond.items()}
            t = (rows == MASKED).double().mean(1)
            x = {name: part.to(model.device) for name, part in x.items()}
            cond = {name: part.to(model.device) for name, part in cond.items()}
            found.append(model.denoiser(x, t, **cond)["sequence"].double().cpu())
    return torch.cat(found)


def marginals(model: Generation, structure: Structure, batch: int = 16) -> Tensor:
    """log p(s_i = a | s_{-i}, X), float64 [N, 20], each residue masked alone; letters in the order of `LETTERS`."""
    letters = lettered(structure)
    shown = letters.repeat(len(letters), 1)
    shown.fill_diagonal_(MASKED)
    found = conditionals(model, structure, shown, batch)
    return torch.stack([found[i, i] for i in range(len(letters))])


def log_likelihood(model: Generation, structure: Structure, *, seed: int = 0, batch: int = 16) -> float:
    """log p(s | X) in nats of the structure's sequence, exact for a random order of its residues."""
    letters = lettered(structure)
    size = len(letters)
    order = Noise.of(seed, 1).fork("order").uniform((1, size))[0].argsort()
    place = torch.empty(size, dtype=torch.int64)
    place[order] = torch.arange(size)
    shown = torch.where(place[None] < torch.arange(size)[:, None], letters[None], MASKED)  # row k shows the first k
    found = conditionals(model, structure, shown, batch)
    return float(sum(found[k, order[k], letters[order[k]]] for k in range(size)))


def mutations(model: Generation, structure: Structure, asked: Sequence[str], batch: int = 16) -> list[float]:
    """How much likelier each mutant is than what is there, in nats: log p(new) - log p(old), its sites masked together.

    Args:
        model: One whose states have the part "sequence".
        structure: The backbone with its sequence.
        asked: Mutants, "A25G", or several at once, "A25G,L30V"; a chain before a colon where there are several,
            "AB:25G". Nothing ("") is the null mutant, 0.
        batch: Mutants at a time.

    Raises:
        RequestError: A mutation that does not read, a residue that is not there, or another letter than said.
    """
    letters = lettered(structure)
    read = [[mutation(structure, word.strip()) for word in one.split(",") if word.strip()] for one in asked]
    shown = letters.repeat(len(read), 1)
    for row, changes in zip(shown, read, strict=True):
        for place, _ in changes:
            row[place] = MASKED
    found = conditionals(model, structure, shown, batch) if read else torch.empty(0)
    return [
        float(sum((found[k, place, new] - found[k, place, letters[place]] for place, new in changes), torch.zeros(())))
        for k, changes in enumerate(read)
    ]


def mutation(structure: Structure, word: str) -> tuple[int, int]:
    """A mutation such as "A25G": the residue's place and the new letter's class."""
    match = _MUTATION.fullmatch(word)
    if match is None or match["new"] not in LETTERS:
        raise RequestError(f"the mutation {word!r}", "the old letter, a number and the new letter", '"A25G"')
    chain = (match["chain"] or "").rstrip(":")
    places = [
        k
        for k, number in enumerate(structure.numbers)
        if number == match["number"].upper() and (not chain or structure.chains[k] == chain)
    ]
    if len(places) != 1:
        hint = nearest(match["number"], structure.numbers)
        raise RequestError(
            f"the mutation {word!r}: {len(places)} residues of {structure!r} have the number {match['number']}",
            f"one.{hint}" if not places else 'one: name the chain, "AB:25G"',
        )
    there = structure.sequence[places[0]]
    if there != match["old"]:
        raise RequestError(f"the mutation {word!r}", f"{there} at {match['number']}, which is there", "")
    return places[0], LETTERS.index(match["new"])


def recovery(designs: Sequence[Structure], native: Sequence[Structure]) -> list[float]:
    """The share of letters that each design has in common with the native chain."""
    return [
        sum(a == b for a, b in zip(one.sequence, other.sequence, strict=True)) / max(len(one), 1)
        for one, other in zip(designs, native, strict=True)
    ]
