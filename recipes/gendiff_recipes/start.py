"""Beginning from weights that are there: what fits is taken, rows of label tables by the names of their classes.

A class that the source did not know gets a new row, which begins as the source's row of "none": the average of all it
has seen. What is taken, new and left is said, and written to the run's start.json.
"""

from __future__ import annotations

from typing import Any

import torch

from gendiff.domain import Domain
from gendiff.errors import CheckpointError
from gendiff.model import Model
from gendiff.modelfile import digest
from gendiff.nn.embeddings import LabelEmbedding


def label_tables(model: Model) -> dict[str, str]:
    """The network's label tables: the name of the weight [classes + 1, width], and the label it is of.

    A table is a label's by its own name, as in `nn.Conditioning`, or else as the only one with as many classes.
    """
    labels, found = model.domain.labels, {}
    for name, module in model.denoiser.network.named_modules():
        if isinstance(module, LabelEmbedding):
            own = name.rpartition(".")[2]
            fits = [own] if own in labels else [k for k, v in labels.items() if len(v) == module.count]
            if len(fits) == 1:
                found[f"{name}.table.weight"] = fits[0]
    return found


def rows(own: Domain, other: Domain, label: str) -> tuple[list[int], list[str]]:
    """For every class of a label, and "none", its row in the other's table; and the classes that it does not have."""
    known = list(other.labels[label])
    new = [name for name in own.labels[label] if name not in known]
    return [known.index(name) if name in known else len(known) for name in own.labels[label]] + [len(known)], new


@torch.no_grad()
def begin_from(model: Model, source: Model) -> dict[str, Any]:
    """Copies into `model` the weights of `source` that fit it.

    Returns:
        What was "taken" (names), what is "new" (names with shapes), what was "left" of the source, and by label the
        "new_classes"; "said" is the same in one sentence.

    Raises:
        CheckpointError: If nothing fits.
    """
    own, other = model.denoiser.network.state_dict(), source.denoiser.network.state_dict()
    tables, theirs = label_tables(model), label_tables(source)
    taken, new, classes = [], [], {}
    for name, value in own.items():
        label = tables.get(name)
        if label is not None and theirs.get(name) == label and other[name].shape[1:] == value.shape[1:]:
            index, missing = rows(model.domain, source.domain, label)
            value.copy_(other[name][index])
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
