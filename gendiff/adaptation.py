r"""A network begun from another one's weights, and adapters of it in files.

    base weights --begin--> network for what may be asked now --attach--> adapted network --trained_state--> file

What fits is taken, rows of tables by the names of their classes or words. A class that the source did not know gets a
new row, which begins as the source's row of "none", the average of all it has seen; a new word begins as the mean of
all words.

An adapter's file is a model file that holds, instead of all weights, those that the adapter trains, and whose config
says two things more: the adapter, and the base, by the digest of its weights and the places where it was. It is of no
use without that base, and is refused on another.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.config import check_type, complete, from_config, to_config, unread
from gendiff.domain import Domain, sealed
from gendiff.errors import CheckpointError, GendiffError, RecipeError, RequestError, nearest
from gendiff.modelfile import as_checkpoint_error, described, digest, make_network
from gendiff.training import Adapter, Begun


@dataclass(frozen=True)
class Adaptation:
    """What a model was adapted from, and how.

    Attributes:
        adapter: How.
        digest: Of the base's weights.
        path: The base's file; "" if it was never in one.
    """

    adapter: Adapter
    digest: str
    path: str = ""

    def config(self, beside: Path | None = None) -> dict[str, Any]:
        """JSON-able, with the way to the base from a folder too: both may be moved together."""
        base = {"digest": self.digest, "path": self.path}
        if self.path and beside is not None:
            with contextlib.suppress(ValueError):  # there is no way to another drive
                base["beside"] = os.path.relpath(self.path, beside.resolve())
        return {"adapter": to_config(self.adapter), "base": base}


def row_tables(domain: Domain, network: nn.Module) -> dict[str, str]:
    """The network's tables with a row for each class or word: the name of the weight, and the condition it is of.

    A table is a condition's by its own name, as in `nn.Conditioning`, or else as the only one with as many rows.
    """
    sizes = {name: len(own.rows) for name, own in domain.conditions.items() if own.rows}
    found = {}
    for name, module in network.named_modules():
        table = getattr(module, "table", None)
        if isinstance(table, nn.Embedding):
            own, count = name.rpartition(".")[2], table.num_embeddings
            fits = [own] if own in sizes else [k for k, size in sizes.items() if count in (size, size + 1)]
            if len(fits) == 1:
                found[f"{name}.table.weight"] = fits[0]
    return found


def taken_rows(own: Domain, other: Domain, name: str, theirs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """A condition's table from the other's, row by row; and the numbers of those that the other does not have."""
    place = {row: i for i, row in enumerate(other.conditions[name].rows)}
    with_none = len(theirs) > len(place)
    new = theirs[-1] if with_none else theirs.mean(0)
    wanted = own.conditions[name].rows
    table = [theirs[place[row]] if row in place else new for row in wanted] + [theirs[-1]] * with_none
    return torch.stack(table), tuple(i for i, row in enumerate(wanted) if row not in place)


def taken_names(
    mine: tuple[int, tuple[str, ...]], theirs: tuple[int, tuple[str, ...]], weight: Tensor, value: Tensor
) -> Tensor | None:
    """A weight along whose axis things are named, from another's, name by name; None if they do not fit.

    What only the own one has stays as it is.
    """
    axis, names = mine
    place = {name: i for i, name in enumerate(theirs[1])}
    rest = [list(one.shape[:axis]) + list(one.shape[axis + 1 :]) for one in (weight, value)]
    both = [i for i, name in enumerate(names) if name in place]
    if axis != theirs[0] or rest[0] != rest[1] or not both:
        return None
    index = torch.tensor([place[names[i]] for i in both])
    return value.index_copy(axis, torch.tensor(both), weight.index_select(axis, index).to(value))


@torch.no_grad()
def begin(own: Domain, network: nn.Module, other: Domain, source: nn.Module) -> Begun:
    """Copies into a network, of a domain, the weights of another that fit it."""
    mine, weights = network.state_dict(), source.state_dict()
    tables, theirs = row_tables(own, network), row_tables(other, source)
    named = own.vocabulary(network), other.vocabulary(source)
    taken, new, rows, classes = [], [], {}, {}
    for name, value in mine.items():
        label = tables.get(name)
        if label is not None and theirs.get(name) == label and weights[name].shape[1:] == value.shape[1:]:
            table, missing = taken_rows(own, other, label, weights[name])
            if table.shape != value.shape:  # a class there, and a word here
                new.append(name)
                continue
            value.copy_(table)
            taken.append(name)
            if missing:
                rows[name] = missing
                classes[label] = tuple(own.conditions[label].rows[i] for i in missing)
        elif name in weights and name in named[0] and name in named[1]:
            found = taken_names(named[0][name], named[1][name], weights[name], value)
            if found is None:
                new.append(name)
                continue
            value.copy_(found)
            taken.append(name)
        elif name in weights and weights[name].shape == value.shape and label == theirs.get(name):
            value.copy_(weights[name])
            taken.append(name)
        else:
            new.append(name)
    left = tuple(name for name in weights if name not in taken)
    return Begun(tuple(taken), tuple(new), left, rows, classes)


def adapt(adapter: Adapter, own: Domain, network: nn.Module, other: Domain, base: nn.Module) -> tuple[nn.Module, Begun]:
    """An adapted network of a domain, from a fresh one and its base, of another domain; the base is not changed.

    Raises:
        RecipeError: For a condition that the adapter needs and there is not, or that only it could bring.
        CheckpointError: For a network that does not take the base whole.
    """
    known, name = other.conditions, adapter.condition
    kind = type(adapter).__name__
    if name is not None:
        if name not in own.conditions:
            listed = ", ".join(own.conditions) or "none"
            raise RecipeError(
                f"{kind} asks for {name!r}", f"a condition of the domain: {listed}.{nearest(name, own.conditions)}"
            )
        more = [one for one in own.conditions if one not in known and one != name]
        if name in known or more:
            got = f"knows {name!r} already" if name in known else f"does not know {', '.join(map(repr, more))} either"
            raise RecipeError(
                f"The base of {kind}({name!r}) {got}", "one condition that is new, and those of the base", "LoRA()"
            )
    begun = begin(own, network, other, base)
    gone = [one for one in known if one not in own.conditions]
    left = [one for one in begun.left if not any(word in gone for word in one.split("."))]
    if left or not begun.taken:
        raise CheckpointError(
            f"{kind}: {len(left)} of {len(begun.taken) + len(begun.left)} weights of the base do not fit the network"
            + (f", first {left[0]!r}" if left else ""),
            "a network of the base's own sizes, of a domain with its conditions",
        )
    training = network.training
    return adapter.attach(network, base, begun).train(training), begun


NAMED = 8
"""How many weights are named in a sentence."""


def begun_text(begun: Begun, shapes: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """What was taken, what is new and what was left, in one sentence.

    Args:
        begun: What was taken.
        shapes: Of the network's weights, by name.
        others: Of the source's.
    """
    said = f"Begun from weights: {len(begun.taken)} of {len(shapes)} taken"
    said += "".join(f"; {label}: new rows for {', '.join(names)}" for label, names in begun.classes.items())
    for what, names, own in (("new", begun.new, shapes), ("left", begun.left, others)):
        shown = ", ".join(f"{name} {list(own[name])}" for name in names[:NAMED])
        shown += f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        said += f"; {what}: {shown}" if names else ""
    return said


def on_scale_of(domain: Domain, before: Domain, base: Domain) -> Domain:
    """A domain that was fitted to new data, with the numbers that fitting changed as the base has them.

    Its network was trained on states of that scale (the mean and the deviation of pixels, say).

    Args:
        domain: Fitted.
        before: The same before it was fitted.
        base: The domain of the model that is adapted.
    """
    if type(domain) is not type(base):
        return domain
    fields = [f.name for f in type(domain).__dataclass_fields__.values() if f.init and f.name != "asked"]  # type: ignore[attr-defined]
    changed = {k: getattr(base, k) for k in fields if getattr(domain, k) != getattr(before, k)}
    for name, value in changed.items():  # a domain within is on the scale of the base's, and keeps its source
        if isinstance(value, Domain):
            changed[name] = on_scale_of(getattr(domain, name), getattr(before, name), value)
    return replace(domain, **changed) if changed else domain  # type: ignore[type-var]


def read_adaptation(config: Mapping[str, Any], where: str, kinds: Any) -> tuple[Adaptation, str]:
    """The adapter and the base that a config names, and the way to it from the adapter's folder.

    Raises:
        CheckpointError: For what is not of their kinds.
    """
    try:
        adapter = from_config(config["adapter"], where=f"{where}: adapter", kinds=kinds, hint=Adapter)
        base = config["base"]
        complete(base, ["digest", "path"], f"{where}: base")
        unread(base, ["digest", "path", "beside"], f"{where}: base")
        check_type(base, Mapping[str, str], f"{where}: base")
    except GendiffError as error:
        raise as_checkpoint_error(error) from error
    return Adaptation(adapter, base["digest"], base["path"]), base.get("beside", "")


def base_path(adaptation: Adaptation, beside: str, file: Path) -> Path:
    """Where the base of an adapter's file is: at the place that the file names, or as far from the file as it was.

    Raises:
        CheckpointError: If it is at neither.
    """
    places = [Path(adaptation.path)] if adaptation.path else []
    places += [file.resolve().parent / beside] if beside else []
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        where = " nor ".join(dict.fromkeys(map(str, places))) or "no file"
        raise CheckpointError(
            f"{file} is an adapter, and its base is not there ({where}; digest {adaptation.digest[:12]}...)",
            "the model that it was trained on",
            f'gendiff.load(BASE).with_adapter("{file}")',
        )
    return found


def check_base(adaptation: Adaptation, base: nn.Module, where: str) -> None:
    """Refuses a base of other weights.

    Raises:
        CheckpointError: With both digests.
    """
    found = digest(base.state_dict())
    if found != adaptation.digest:
        raise CheckpointError(
            f"{where} was trained on weights with the digest {adaptation.digest[:12]}..., these have {found[:12]}...",
            "the model that it was trained on",
            "with_adapter(path, any_base=True) tries it all the same",
        )


def check_adapter(
    own: Domain, size: Mapping[str, Any], base: nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Refuses an adapter whose network needs more than its file and its base, before memory is taken for it.

    Raises:
        CheckpointError: For a network that has a weight which neither of them has.
    """
    weights = {name: tuple(value.shape) for name, value in base.state_dict().items()}
    every = {**weights, **{f"adapter {name}": shape for name, shape in shapes.items()}}
    network = described(own, size, every, f"{where}: network")
    entries = [sum(math.prod(shape) for shape in every.values()), sum(p.numel() for p in network.parameters())]
    if entries[1] > 2 * entries[0]:
        raise CheckpointError(
            f"{where}: a network of {entries[1]:,} numbers",
            f"about the {entries[0]:,} of the base and the adapter's file",
        )


def adapted_network(
    adapter: Adapter, own: Domain, size: Mapping[str, Any], other: Domain, base: nn.Module, where: str
) -> nn.Module:
    """The network of an adapter's file on a base, before the file's tensors are put into it.

    Raises:
        CheckpointError: Where they do not fit one another.
    """
    try:
        with sealed():
            return adapt(adapter, own, make_network(own, size), other, base)[0]
    except (RecipeError, RequestError) as error:
        raise CheckpointError(f"{where}: {error.got}", error.expected, error.fix) from error
