r"""Adaptation: a trained network learns something new while its weights stay as they are.

    LoRA      W' = W + (alpha / r) U D,   U [m, r] zero at the start, D [r, n] random      (Hu et al. 2021)
    Partial   W' trains itself for some weights, all others stand still
    Control   y = f(x; W, h_1 + Z_1 g_1, h_2 + Z_2 g_2, ...),   Z_k zero at the start      (Zhang et al. 2023)

In `Control`, f is the frozen network, h_k what it computes on the way, and g_k the same places of a copy of it that
trains and is told one condition more. All three begin as the network that is adapted, in every bit, and train nothing
of it: what trains is what requires a gradient, which the optimiser, the average and the files take from there.

A weight of any shape [m, ...] is adapted as the matrix [m, n] of its rows. The module that holds it keeps it under its
name and hands out W' in its place (`put`), so that forward passes, embeddings computed once and compiled graphs need
no knowledge of it, and merging W' gives the same bits. Classes and words that the network did not know have rows of
their own, which train beside the others that stand still.
"""

from __future__ import annotations

import copy
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gendiff.errors import POSITIVE, RecipeError, RequestError, at_least, check, nearest, refuse


@dataclass(frozen=True)
class Begun:
    """What of a network was taken from another one, by names of weights.

    Attributes:
        taken: With the other's numbers; of tables, row by row.
        new: With numbers of their own.
        left: Of the other, and not taken.
        rows: Numbers of the rows that are new, by table.
        classes: Their names, by condition.
    """

    taken: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)


class Adapter(ABC):
    """How a network is adapted; members are frozen dataclasses with JSON-able fields."""

    @property
    def condition(self) -> str | None:
        """The condition that only the adapter knows, and the base is not told; None where there is none."""
        return None

    @abstractmethod
    def attach(self, network: nn.Module, base: nn.Module, begun: Begun) -> nn.Module:
        """The adapted network, in which what trains requires a gradient, and nothing else.

        Args:
            network: One for all that may be asked now, with the weights of the base; it becomes part of the result.
            base: The network that is adapted, which is not changed.
            begun: What of `network` is the base's.

        Raises:
            RecipeError: For a network that cannot be adapted like this.
        """


class Weight(NamedTuple):
    """A weight: its first name, the modules that hold it with its name there, and its numbers."""

    name: str
    places: list[tuple[nn.Module, str]]
    value: nn.Parameter


def weights_of(network: nn.Module) -> list[Weight]:
    """All weights, each once."""
    found: dict[int, Weight] = {}
    for path, module in network.named_modules():
        for key, value in module._parameters.items():
            if value is not None:
                name = f"{path}.{key}" if path else key
                found.setdefault(id(value), Weight(name, [], value)).places.append((module, key))
    return list(found.values())


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern (`*` is anything) is a dotted name, or some of its parts in a row, as b.c is of a.b.c.d."""
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def chosen(owner: Adapter, weights: Sequence[Weight], where: Sequence[str]) -> list[Weight]:
    """The weights whose names match any of the patterns.

    Raises:
        RecipeError: For a pattern that matches none, with the nearest part of a name.
    """
    for pattern in where:
        if not any(matches(weight.name, pattern) for weight in weights):
            parts = {part for weight in weights for part in weight.name.split(".") if not part.isdigit()}
            listed = ", ".join(sorted(parts)[:40])
            refuse(
                owner, "where", f"names of weights or parts of them: {pattern!r} is in none.{nearest(pattern, parts)}",
                f"Parts: {listed}",
            )  # fmt: skip
    return [weight for weight in weights if any(matches(weight.name, pattern) for pattern in where)]


class LowRank(nn.Module):
    """A weight W [m, ...] to W + scale U D, in the precision of W whatever autocast says.

    Args:
        like: W.
        rank: Columns of U, at most those that a matrix of the shape of W has.
        scale: Before the product.
    """

    def __init__(self, like: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = len(like), like[0].numel()
        rank = min(rank, rows, columns)
        self.scale = scale
        self.up = nn.Parameter(torch.zeros(rows, rank, dtype=like.dtype, device=like.device))
        self.down = nn.Parameter(torch.empty(rank, columns, dtype=like.dtype, device=like.device))
        nn.init.uniform_(self.down, -(columns**-0.5), columns**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            changed = weight + (self.scale * self.up @ self.down).view(weight.shape)
        if changed.stride() == weight.stride():
            return changed
        # A kernel is chosen by strides, even those of axes of one entry, and other kernels round otherwise.
        return torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device=weight.device).copy_(
            changed
        )


class Rows(nn.Module):
    """A table [n, ...] to the same with some rows that train.

    Args:
        table: Whose rows they begin as.
        index: Which.
    """

    index: Tensor

    def __init__(self, table: Tensor, index: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(index, device=table.device), persistent=False)
        self.rows = nn.Parameter(table.detach()[self.index].clone())

    def forward(self, table: Tensor) -> Tensor:
        return table.index_copy(0, self.index, self.rows.to(table.dtype))


def put(weight: Weight, change: nn.Module) -> None:
    """Lets the modules that hold a weight hand out change(weight) in its place, after earlier changes.

    The weight keeps its name and numbers; what changes it is registered beside it, below "adapted".
    """
    for owner, key in weight.places:
        names = getattr(type(owner), "changed_weights", ())
        if not names:
            owner.adapted = nn.ModuleDict()
        if key not in names:
            kind = type(owner) if not names else type(owner).__mro__[1]
            owner.__class__ = handing_out(kind, (*names, key))
            owner.adapted[key] = nn.Sequential()  # type: ignore[index]
        owner.adapted[key].append(change)  # type: ignore[index,union-attr]


@functools.cache
def handing_out(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """A kind of module with some weights changed where they are used; the same can be copied and pickled."""

    def changed(name: str) -> property:
        return property(lambda self: self.adapted[name](self._parameters[name]))

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        return bare, (kind, names), self.__dict__

    body: dict[str, Any] = {name: changed(name) for name in names}
    return type(kind.__name__, (kind,), {**body, "changed_weights": names, "__reduce_ex__": reduce})


def bare(kind: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """An empty module of such a kind, for copies."""
    made = handing_out(kind, names)
    return made.__new__(made)


def stands_still(network: nn.Module, begun: Begun, but: Sequence[str] = ()) -> nn.Module:
    """The network with all frozen that is its base's, but for some weights; new rows of tables train."""
    for weight in weights_of(network):
        trains = weight.name in begun.new or weight.name in but
        weight.value.requires_grad_(trains and weight.value.is_floating_point())
        if weight.name in begun.rows and not trains:
            put(weight, Rows(weight.value, begun.rows[weight.name]))
    return network


@dataclass(frozen=True)
class LoRA(Adapter):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) U D, U zero at the start.

    What the base does not know (embedders of new conditions, rows of new classes and words) trains as well.

    Args:
        rank: Of the change of each weight.
        alpha: The change is multiplied by alpha / rank; None for alpha = rank.
        where: Names of weights, or parts of them (`attention`, `blocks.0.*`), that are adapted; () for every matrix and
            convolution, tables of classes apart, of which the change has at most half as many numbers.
    """

    rank: int = 8
    alpha: float | None = None
    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, rank=at_least(1), alpha=POSITIVE)

    def pays(self, weight: Weight) -> bool:
        """Whether it is a matrix or a convolution, and the change at most half of it."""
        rows, columns = len(weight.value), weight.value[0].numel()
        return not isinstance(weight.places[0][0], nn.Embedding) and 2 * self.rank * (rows + columns) <= rows * columns

    def attach(self, network: nn.Module, base: nn.Module, begun: Begun) -> nn.Module:
        able = [
            weight
            for weight in weights_of(network)
            if weight.value.ndim >= 2 and weight.value.is_floating_point() and weight.name in begun.taken
        ]
        adapted = chosen(self, able, self.where) if self.where else [w for w in able if self.pays(w)]
        if not adapted:
            refuse(
                self, "rank", "a rank of which some change has at most half as many numbers as the weight",
                'LoRA(rank=1), or where=("*",) for all weights',
            )  # fmt: skip
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        for weight in adapted:
            put(weight, LowRank(weight.value, self.rank, scale))
        return stands_still(network, begun, [w.name for w in weights_of(network) if ".adapted." in f".{w.name}"])


@dataclass(frozen=True)
class Partial(Adapter):
    """Partial freezing: some weights train, all others stand still; what the base does not know trains as well.

    Args:
        where: Names of the weights that train, or parts of them: ("conditioning", "out"). () for none but what is new.
    """

    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self)

    def attach(self, network: nn.Module, base: nn.Module, begun: Begun) -> nn.Module:
        network = stands_still(network, begun, [w.name for w in chosen(self, weights_of(network), self.where)])
        if not any(p.requires_grad for p in network.parameters()):
            refuse(
                self, "where", "weights that train: nothing here is new to the base", 'Partial(where=("attention",))'
            )
        return network


@dataclass(frozen=True)
class Control(Adapter):
    """A side branch for a condition that the base does not know (ControlNet, Zhang et al. 2023, arXiv:2302.05543).

    A copy of the base, as far as its half, is told this condition too and trains; what it computes joins the frozen
    base through layers that are zero at the start. Networks that can be joined say so by `as_side` (see `Controlled`):
    `gendiff.nn.UNet` and `gendiff.nn.DiT`.

    Args:
        asks: The name of the condition, one of the domain's: a field such as an edge map, or any other.
    """

    asks: str

    def __post_init__(self) -> None:
        check(self)
        if not self.asks:
            refuse(self, "asks", "the name of a condition of the domain", 'Control("edges")')

    @property
    def condition(self) -> str | None:
        return self.asks

    def attach(self, network: nn.Module, base: nn.Module, begun: Begun) -> nn.Module:
        if not hasattr(network, "as_side") or not hasattr(network, "features"):
            raise RecipeError(
                f"Control cannot join a {type(network).__name__}", "a network that a side branch can join: UNet, DiT",
                f"LoRA(), which adapts every network, or the methods as_side and features in {type(network).__name__}",
            )  # fmt: skip
        if begun.classes:
            names = "; ".join(f"{name}: {', '.join(rows)}" for name, rows in begun.classes.items())
            raise RecipeError(
                f"Control leaves the base as it is, and it does not know {names}", "the classes and words of the base",
                "Adapt it by LoRA first, and control model.merged()",
            )  # fmt: skip
        return Controlled(copy.deepcopy(base), network, self.asks)


class Controlled(nn.Module):
    """A frozen network, and a side branch that joins it.

    The side needs `as_side()`, which gives up what `features` does not use and returns a layer, zero at the start, for
    each of its tensors, and `features(x, t, **cond)`, a list of them. The base takes those as `control`.

    Args:
        base: Is frozen.
        side: A network like it that knows the condition.
        condition: Which the base is not told.
    """

    def __init__(self, base: nn.Module, side: nn.Module, condition: str) -> None:
        super().__init__()
        self.condition = condition
        self.base, self.side = base.requires_grad_(False), side.requires_grad_(True)
        self.joints: nn.ModuleList = side.as_side()  # type: ignore[operator]
        for told in ("takes_previous", "takes_to", "takes_guidance"):
            setattr(self, told, getattr(base, told, False))

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t: the base's, each with the side's beside it."""
        known, told = self.base.embed(self.known(cond)), self.side.embed(cond)  # type: ignore[operator]
        return {
            name: {which: {**known.get(name, {}).get(which, {}), SIDE: own} for which, own in both.items()}
            for name, both in told.items()
        }

    def known(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of this the base is told."""
        return {name: value for name, value in cond.items() if name != self.condition}

    def forward(self, x: Any, t: Tensor, **cond: Any) -> Any:
        """As the base's own, and told the condition of the side."""
        told, known = dict(cond), self.known(cond)
        if "embedded" in cond:
            both = cond["embedded"]
            told["embedded"] = {name: {which: own[SIDE] for which, own in each.items()} for name, each in both.items()}
            known["embedded"] = {
                name: {which: {k: v for k, v in own.items() if k != SIDE} for which, own in each.items()}
                for name, each in both.items()
                if name != self.condition
            }
        features = self.side.features(x, t, **told)  # type: ignore[operator]
        return self.base(x, t, **known, control=[z(g) for z, g in zip(self.joints, features, strict=True)])


SIDE = "side"
"""Among what a condition tells the base: what it tells the side."""


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """Of an adapted network, by name: what trains, and buffers, which change with it. All else is its base's."""
    still = {id(p) for p in network.parameters() if not p.requires_grad}
    names = {name for name, p in network.named_parameters(remove_duplicate=False) if id(p) in still}
    return {name: value for name, value in network.state_dict().items() if name not in names}


def load_trained(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts back what `trained_state` gave.

    Raises:
        RequestError: For a state of other names or shapes.
    """
    own = trained_state(network)
    odd = sorted(set(own) ^ set(state)) or [name for name, value in own.items() if value.shape != state[name].shape]
    if odd:
        raise RequestError(
            f"{len(odd)} tensors do not fit the adapter, first {odd[0]!r}", "those that it was saved with"
        )
    network.load_state_dict(dict(state), strict=False)


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights that an adapted network computes with, under the names of its base.

    Raises:
        RequestError: For a side branch, which is no change of weights.
    """
    if isinstance(network, Controlled):
        raise RequestError(
            "a side branch cannot be merged", "an adapter that changes weights: LoRA, Partial",
            "model.save(path) keeps it as a file beside its base",
        )  # fmt: skip
    out = network.state_dict()
    for path, module in network.named_modules():
        for key in getattr(type(module), "changed_weights", ()):
            out[f"{path}.{key}" if path else key] = getattr(module, key).detach()
    return {name: value for name, value in out.items() if not re.search(r"(^|\.)adapted\.", name)}
