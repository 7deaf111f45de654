"""What a network is told: the time, and what is asked by any number of named conditions.

With angular frequencies w_k spaced geometrically between w_min and w_max, the time t becomes

    e(t) = [cos(w_k t), sin(w_k t)]_k,        c = MLP(e(t)) + sum_name v_name

and, of a network that can jump from t to s, or is told a guidance scale w, also MLP(e(t - s)) and MLP(e(w - 1)), which
start at zero: such a network begins as the one without.

The frequencies stay low (w_max = 50 per unit of time): neighbouring times of a 1000-step grid are told apart, and
the derivative in t, which few-step objectives need, stays tame (Lu & Song 2024, arXiv:2410.11081, section 4.1).
Times are embedded in float32 or better even under autocast: bfloat16 would merge half of 1000 times. The vectors v,
and tokens and fields beside them, come from the conditions' own embedders (`gendiff.conditions`); a table of classes
has one row more than classes, and the last means "nothing asked", which classifier-free guidance drops to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.denoisers import TOLD
from gendiff.errors import RequestError, nearest


class Embeds(Protocol):
    """What a network needs of a condition: the module that tells it what is asked (see `gendiff.conditions`)."""

    @property
    def gives(self) -> tuple[str, ...]:
        """What that module gives, of "vector", "tokens" and "field"."""
        ...

    def embedder(self, width: int) -> nn.Module:
        """f(batch or None) -> {"vector": [B, width]} and the like."""
        ...


class FourierTime(nn.Module):
    """Times [B] to features [B, width]: cosines and sines at geometric frequencies, never below float32."""

    frequencies: Tensor

    def __init__(self, width: int = 128, *, scale: float = 1.0, lowest: float = 0.5, highest: float = 50.0) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise RequestError(f"FourierTime(width={width})", "an even width of at least 2")
        ratio = torch.linspace(0, 1, width // 2, dtype=torch.float64)
        w = scale * lowest * (highest / lowest) ** ratio
        self.register_buffer("frequencies", w.float(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """t [B] to [B, width]; the second moment of the features is 1."""
        angle = t.to(self.frequencies.dtype)[:, None] * self.frequencies
        return 2**0.5 * torch.cat((angle.cos(), angle.sin()), dim=-1)


def whole(owner: str, least: int = 1, **sizes: Any) -> None:
    """Refuses sizes of a network, or entries of its lists of sizes, that are no whole numbers of at least `least`.

    Raises:
        RequestError: For the first of them.
    """
    for name, size in sizes.items():
        entries = size if isinstance(size, Sequence) and not isinstance(size, str) else (size,)
        if not entries or any(not isinstance(n, int) or isinstance(n, bool) or n < least for n in entries):
            raise RequestError(f"{owner}({name}={size!r})", f"whole numbers of at least {least}")


def share(owner: str, **values: Any) -> None:
    """Refuses what is no number in [0, 1).

    Raises:
        RequestError: For the first of them.
    """
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise RequestError(f"{owner}({name}={value!r})", "a number from 0 to 1, below 1")


class LabelEmbedding(nn.Module):
    """Class indices [B] to vectors [B, width]; index `count` is "nothing asked"."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count = count
        self.table = nn.Embedding(count + 1, width)
        nn.init.normal_(self.table.weight, std=0.5)

    def forward(self, label: Tensor | None) -> dict[str, Tensor]:
        """label [B] int64 in 0..count, or None for nothing asked ([1, width], which broadcasts)."""
        return {"vector": self.table.weight[self.count :] if label is None else self.table(label)}


class NumberEmbedding(nn.Module):
    """Numbers near one to vectors [B, width]: cosines and sines, then two layers; a learned row where none is asked."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = FourierTime(128, lowest=0.5, highest=20.0)
        self.layers = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.nothing = nn.Parameter(0.5 * torch.randn(1, width))

    def forward(self, number: Tensor | None) -> dict[str, Tensor]:
        """[B, 2], the number and whether it is asked (1 or 0), or None."""
        if number is None:
            return {"vector": self.nothing}
        z, there = number.to(self.nothing.dtype).unbind(-1)
        return {"vector": torch.where(there[:, None] > 0, self.layers(self.features(z)), self.nothing)}


class SiteEmbedding(LabelEmbedding):
    """Class indices of sites [B, N] to a field [B, N, width]; index `count` is "nothing asked"."""

    def forward(self, label: Tensor | None) -> dict[str, Tensor]:
        """[B, N] int64 in 0..count, or None ([1, width])."""
        return {"field": super().forward(label)["vector"]}


class FieldEmbedding(nn.Module):
    """Numbers of sites [B, *sites, channels + 1], the last whether they are asked, to a field [B, *sites, width]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.layer = nn.Linear(channels + 1, width)

    def forward(self, field: Tensor | None) -> dict[str, Tensor]:
        """The field, or None ([1, width])."""
        weight = self.layer.weight
        return {
            "field": self.layer(weight.new_zeros(1, self.channels + 1) if field is None else field.to(weight.dtype))
        }


class About(NamedTuple):
    """What a network is told.

    Attributes:
        vector: [B, W], the time and what is asked as one vector.
        tokens: [B, L, W] to attend to, or None.
        mask: bool [B, L] of them.
        field: [B or 1, *sites, W] to join to the input, or None.
    """

    vector: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None
    field: Tensor | None = None


class Asked(nn.Module):
    """Conditions to what a network is told of them.

    Args:
        width: of the vector, the tokens and the field.
        conditions: what may be asked, by name.
    """

    def __init__(self, width: int, conditions: Mapping[str, Embeds] | None = None) -> None:
        super().__init__()
        for name in conditions or {}:
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                raise RequestError(
                    f"a condition named {name!r}, a name that torch's modules do not take or have for themselves",
                    "another name",
                    f"Call it {name.replace('.', '_')}_; a column of a table is renamed there, or left out: --ask with "
                    "the others",
                )
        self.given = frozenset(what for own in (conditions or {}).values() for what in own.gives)
        self.tables = nn.ModuleDict({name: own.embedder(width) for name, own in (conditions or {}).items()})

    def gives(self, what: str) -> bool:
        """Whether any condition gives this: "tokens" or "field"."""
        return what in self.given

    def embed(self, cond: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Tensor]]]:
        """By condition, what it gives as it is "asked", and with "nothing" asked, in the same shapes.

        A network that finds this among its conditions as "embedded" computes none of it again.

        Raises:
            RequestError: a condition this network was not built with.
        """
        self.check(cond)
        out = {}
        for name, table in self.tables.items():
            if cond.get(name) is not None:
                asked = table(cond[name])
                out[name] = {"asked": asked, "nothing": shaped(table(None), asked)}
        return out

    def check(self, cond: Mapping[str, Any]) -> None:
        """Refuses conditions that the network was not built with."""
        for name in cond:
            if name not in self.tables and name != "embedded":
                known = ", ".join(self.tables) or "none"
                raise RequestError(
                    f"the condition {name}=",
                    f"one this network was built with: {known}." + nearest(name, list(self.tables)),
                    f"network(conditions={{{name!r}: Label(...)}})",
                )

    def add(self, vector: Tensor, cond: Mapping[str, Any], axes: int = 1) -> About:
        """What the network is told by conditions, from a vector [B, width] that theirs are added to.

        Args:
            vector: Of the time.
            cond: Batches as the conditions collate them, by name (missing or None: nothing asked), or what `embed` made
                of them under "embedded".
            axes: Of the sites of a field.

        Raises:
            RequestError: a condition this network was not built with.
        """
        self.check(cond)
        n, embedded, tokens, masks, field = len(vector), cond.get("embedded", {}), [], [], None
        with torch.autocast(vector.device.type, enabled=False):
            for name, table in self.tables.items():
                found = embedded[name]["asked"] if name in embedded else table(cond.get(name))
                if "vector" in found:
                    vector = vector + found["vector"]
                if "tokens" in found:
                    tokens.append(found["tokens"].expand(n, -1, -1))
                    masks.append(found["mask"].expand(n, -1))
                if "field" in found:
                    own = found["field"]
                    own = own.view(*own.shape[:-1], *[1] * (axes + 2 - own.ndim), own.shape[-1])
                    field = own if field is None else field + own
        if not tokens:
            return About(vector, field=field)
        return About(vector, torch.cat(tokens, 1), torch.cat(masks, 1), field)


class Jumps(nn.Module):
    """What a few-step network is told beside the time: where it jumps to, and how strongly it is guided. [B, width].

    Args:
        width: of the vector.
        jumps: whether it is told the time to jump to.
        guided: whether it is told a guidance scale.
        time_scale: multiplies times before they are embedded.
    """

    def __init__(self, width: int, jumps: bool, guided: bool, *, time_scale: float = 1.0) -> None:
        super().__init__()
        self.gap = self.layers(width, FourierTime(scale=time_scale)) if jumps else None
        self.scale = self.layers(width, FourierTime(lowest=0.1, highest=10.0)) if guided else None

    @staticmethod
    def layers(width: int, features: FourierTime) -> nn.Sequential:
        """Two layers on features; the second starts at zero."""
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(features, nn.Linear(128, width), nn.SiLU(), last)

    def forward(self, vector: Tensor, t: Tensor, to: Tensor | None, guidance: Tensor | None) -> Tensor:
        """The vector [B, width] with t [B] and to [B], None for t itself, and a scale [B], None for 1."""
        with torch.autocast(t.device.type, enabled=False):
            if self.gap is not None:
                vector = vector + self.gap(torch.zeros_like(t) if to is None else t - to)
            if self.scale is not None:
                vector = vector + self.scale(torch.zeros_like(t) if guidance is None else guidance.to(t) - 1)
        return vector


class Conditioning(Asked):
    """Time and conditions to what a network is told.

    Args:
        width: of the vector, the tokens and the field.
        conditions: what may be asked, by name.
        time_scale: multiplies the time before it is embedded; for clocks that do not run over about [-1, 1].
        jumps: whether it is also told the time to jump to (`denoiser(x, t, to=s)`).
        guided: whether it is also told a guidance scale.
    """

    def __init__(
        self,
        width: int,
        conditions: Mapping[str, Embeds] | None = None,
        *,
        time_scale: float = 1.0,
        jumps: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__(width, conditions)
        self.time = nn.Sequential(
            FourierTime(scale=time_scale), nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.jumps = Jumps(width, jumps, guided, time_scale=time_scale) if jumps or guided else None

    def forward(
        self,
        t: Tensor,
        cond: Mapping[str, Any],
        axes: int = 1,
        to: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> About:
        """t [B] and conditions by name to what the network is told; `to` and `guidance` [B]; the rest as in `add`."""
        with torch.autocast(t.device.type, enabled=False):
            vector = self.time(t)
        if self.jumps is not None:
            vector = self.jumps(vector, t, to, guidance)
        return self.add(vector, cond, axes)


def shaped(nothing: dict[str, Tensor], asked: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is given with nothing asked, in the shapes of what is given otherwise: tokens are padded, fields spread."""

    def one(name: str, like: Tensor) -> Tensor:
        if name not in TOLD:  # a side output, which has no meaning where nothing is asked
            return torch.zeros_like(like)
        value = nothing[name]
        if name in ("tokens", "mask"):
            out = like.new_zeros(like.shape)
            out[:, : value.shape[1]] = value
            return out
        return value.view(1, *[1] * (like.ndim - value.ndim), *value.shape[1:]).expand_as(like)

    return {name: one(name, like) for name, like in asked.items()}


def pooled_field(
    field: Tensor, mask: Tensor | None, sites: Sequence[int], patch: Sequence[int], stride: Sequence[int] | None = None
) -> Tensor:
    """A field averaged over patches, whose padded sites count as zero.

    Args:
        field: [B or 1, *sites, W], or with one entry for all sites.
        mask: bool [B, *sites] or None.
        sites: of the state, along each axis.
        patch: sites of a patch, along each axis.
        stride: what sites are padded to a multiple of, the patch by default.

    Returns:
        [B or 1, W, *patches].
    """
    x = field.expand(-1, *sites, -1).movedim(-1, 1)
    x = x if mask is None else x * mask[:, None]
    short = [-n % p for n, p in zip(sites, stride or patch, strict=True)]
    x = F.pad(x, [n for s in reversed(short) for n in (0, s)]) if any(short) else x
    if all(p == 1 for p in patch):
        return x
    pool = F.avg_pool1d if len(patch) == 1 else F.avg_pool2d
    return pool(x, tuple(patch))


def beside(x: Tensor, previous: Tensor | None) -> Tensor:
    """x [B, C, ...] with the prediction before as more channels, zeros where there is none."""
    return torch.cat([x, torch.zeros_like(x) if previous is None else previous.to(x.dtype)], 1)
