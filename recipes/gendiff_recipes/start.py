"""Beginning from weights that are there: what fits is taken, rows of tables by the names of their classes or words.

A class that the source did not know gets a new row, which begins as the source's row of "none", the average of all it
has seen; a new word begins as the mean of all words. What is taken, new and left is said, and written to the run's
start.json.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gendiff.domain import Domain
from gendiff.errors import CheckpointError
from gendiff.model import Model
from gendiff.modelfile import digest


def row_tables(model: Model) -> dict[str, str]:
    """The network's tables with a row for each class or word: the name of the weight, and the condition it is of.

    A table is a condition's by its own name, as in `nn.Conditioning`, or else as the only one with as many rows.
    """
    sizes = {name: len(own.rows) for name, own in model.domain.conditions.items() if own.rows}
    found = {}
    for name, module in model.denoiser.network.named_modules():
        table = getattr(module, "table", None)
        if isinstance(table, nn.Embedding):
            own, count = name.rpartition(".")[2], table.num_embeddings
            fits = [own] if own in sizes else [k for k, size in sizes.items() if count in (size, size + 1)]
            if len(fits) == 1:
                found[f"{name}.table.weight"] = fits[0]
    return found


def taken_rows(own: Domain, other: Domain, name: str, theirs: Tensor) -> tuple[Tensor, list[str]]:
    """A condition's table from the other's, row by row; and the classes or words that the other does not have."""
    place = {row: i for i, row in enumerate(other.conditions[name].rows)}
    with_none = len(theirs) > len(place)
    new = theirs[-1] if with_none else theirs.mean(0)
    wanted = own.conditions[name].rows
    table = [theirs[place[row]] if row in place else new for row in wanted] + [theirs[-1]] * with_none
    return torch.stack(table), [row for row in wanted if row not in place]


@torch.no_grad()
def begin_from(model: Model, source: Model) -> dict[str, Any]:
    """Copies into `model` the weights of `source` that fit it.

    Returns:
        What was "taken" (names), what is "new" (names with shapes), what was "left" of the source, and by label the
        "new_classes" (or words); "said" is the same in one sentence.

    Raises:
        CheckpointError: If nothing fits.
    """
    own, other = model.denoiser.network.state_dict(), source.denoiser.network.state_dict()
    tables, theirs = row_tables(model), row_tables(source)
    taken, new, classes = [], [], {}
    for name, value in own.items():
        label = tables.get(name)
        if label is not None and theirs.get(name) == label and other[name].shape[1:] == value.shape[1:]:
            table, missing = taken_rows(model.domain, source.domain, label, other[name])
            if table.shape != value.shape:  # a class there, and a word here
                new.append(f"{name} {list(value.shape)}")
                continue
            value.copy_(table)
            taken.append(name)
            if missing:
                classes[label] = missing
        elif name in other and other[name].shape == value.shape and label == theirs.get(name):
            value.copy_(other[name])
            taken.append(name)
        else:
            new.append(f"{name} {list(value.shape)}")
    left = [f"{name} {list(value.shape)}" for name, value in other.items() if name not in taken]
    if not taken:
        raise CheckpointError(
            f"None of the {len(other)} weights to begin from fits the network", f"weights like {new[0]}" if new else ""
        )
    said = f"Begun from weights: {len(taken)} of {len(own)} taken"
    said += "".join(f"; {label}: new rows for {', '.join(names)}" for label, names in classes.items())
    said += f"; new: {', '.join(new)}" if new else ""
    said += f"; left: {', '.join(left)}" if left else ""
    for what in ("process", "head"):
        a, b = getattr(source.denoiser, what), getattr(model.denoiser, what)
        if repr(a) != repr(b):
            said += f"; they were trained with another {what}, {a!r}, and are now trained with {b!r}"
    return {
        "source": digest(other), "taken": taken, "new": new, "left": left, "new_classes": classes,
        "said": said + ".",
    }  # fmt: skip
