"""RDKit, loaded when it is first used, silent, and with its reasons in words.

`import gendiff_molecules` loads no RDKit. What RDKit would print is caught and becomes part of a reason; atoms are
counted from 1 there, as chemists' files count them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

from gendiff.errors import MissingExtra


@cache
def chem() -> ModuleType:
    """`rdkit.Chem`.

    Raises:
        MissingExtra: If RDKit is not installed.
    """
    try:
        from rdkit import Chem
    except ImportError:
        raise MissingExtra("gendiff_molecules", "rdkit", "molecules") from None
    return Chem


@contextmanager
def quiet() -> Iterator[None]:
    """RDKit prints nothing inside."""
    chem()
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        yield


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def overheard() -> Iterator[list[str]]:
    """What RDKit would print inside, line by line; its messages go to the process's own stream again afterwards."""
    chem()
    from rdkit import rdBase

    logger, listener = logging.getLogger("rdkit"), _Listener()
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [listener], False
    rdBase.LogToPythonLogger()
    logger.handlers = [listener]  # the line above may have put its own beside it
    try:
        yield listener.said
    finally:
        rdBase.LogToCppStreams()
        logger.handlers, logger.propagate = handlers, propagate


def named(mol: Any, index: int) -> str:
    """An atom in words: "atom 3 (N)", counted from 1."""
    return f"atom {index + 1} ({mol.GetAtomWithIdx(index).GetSymbol()})"


def some(words: list[str], most: int = 6) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def problems(mol: Any) -> list[str]:
    """Why RDKit will not have a molecule, a sentence each, with the atoms named; empty if it will."""
    Chem = chem()
    with quiet():
        try:
            Chem.SanitizeMol(Chem.Mol(mol))
        except Chem.MolSanitizeException as error:
            found = [error.cause]
        except RuntimeError as error:  # an assertion of RDKit's own
            return [" ".join(str(error).split())[:120]]
        else:
            return []
        with suppress(RuntimeError):  # all of them; it sees no valence that goes wrong by kekulising
            found = list(Chem.DetectChemistryProblems(mol)) or found
    return [_in_words(mol, one) for one in found]


def _in_words(mol: Any, problem: Any) -> str:
    kind = problem.GetType()
    if kind == "KekulizeException":
        atoms = [named(mol, index) for index in problem.GetAtomIndices()]
        return f"its aromatic bonds cannot be kekulised: no single and double bonds fit {some(atoms)}"
    if kind == "AtomValenceException":
        atom = mol.GetAtomWithIdx(problem.GetAtomIdx())
        orders = [bond.GetBondTypeAsDouble() for bond in atom.GetBonds()]
        allowed = [v for v in chem().GetPeriodicTable().GetValenceList(atom.GetAtomicNum()) if v >= 0]
        charge = f", charge {atom.GetFormalCharge():+d}" if atom.GetFormalCharge() else ""
        return (
            f"{named(mol, atom.GetIdx())} has valence {sum(orders):g}{charge}; without charge "
            f"{' or '.join(map(str, allowed)) or 'any'} is allowed"
        )
    if kind == "AtomKekulizeException":
        return f"{named(mol, problem.GetAtomIdx())} is called aromatic and is in no ring"
    return " ".join(problem.Message().split())
