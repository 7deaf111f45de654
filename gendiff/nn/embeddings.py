"""Conditions of a network: the time and any number of named labels, as one vector per sample.

With angular frequencies w_k spaced geometrically between w_min and w_max, the time t becomes

    e(t) = [cos(w_k t), sin(w_k t)]_k,        c(t, labels) = MLP(e(t)) + sum_name E_name[label_name]

The frequencies stay low (w_max = 50 per unit of time): neighbouring times of a 1000-step grid are told apart, and
the derivative in t, which few-step objectives need, stays tame (Lu & Song 2024, arXiv:2410.11081, section 4.1).
Times are embedded in float32 or better even under autocast: bfloat16 would merge half of 1000 times. A table E
has one row more than classes; the last one means "none", the label that classifier-free guidance drops to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.errors import RequestError, nearest


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


def whole(owner: str, **sizes: Any) -> None:
    """Refuses sizes of a network, or entries of its lists of sizes, that are no whole numbers of at least 1.

    Raises:
        RequestError: For the first of them.
    """
    for name, size in sizes.items():
        entries = size if isinstance(size, Sequence) and not isinstance(size, str) else (size,)
        if not entries or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in entries):
            raise RequestError(f"{owner}({name}={size!r})", "whole numbers of at least 1")


def share(owner: str, **values: Any) -> None:
    """Refuses what is no number in [0, 1).

    Raises:
        RequestError: For the first of them.
    """
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise RequestError(f"{owner}({name}={value!r})", "a number from 0 to 1, below 1")


class LabelEmbedding(nn.Module):
    """Class indices [B] to vectors [B, width]; index `count` is "none", and so is an absent label."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count = count
        self.table = nn.Embedding(count + 1, width)
        nn.init.normal_(self.table.weight, std=0.5)

    def forward(self, label: Tensor | None) -> Tensor:
        """label [B] int64 in 0..count, or None for "none" everywhere ([1, width], which broadcasts)."""
        return self.table.weight[self.count :] if label is None else self.table(label)


class Conditioning(nn.Module):
    """Time and named labels to one vector per sample.

    Args:
        width: of the vector.
        labels: name of each label and its number of classes.
        time_scale: multiplies the time before it is embedded; for clocks that do not run over about [-1, 1].
    """

    def __init__(self, width: int, *, labels: Mapping[str, int] | None = None, time_scale: float = 1.0) -> None:
        super().__init__()
        self.labels = dict(labels or {})
        self.time = nn.Sequential(
            FourierTime(scale=time_scale), nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.tables = nn.ModuleDict({name: LabelEmbedding(count, width) for name, count in self.labels.items()})

    def forward(self, t: Tensor, labels: Mapping[str, Tensor | None]) -> Tensor:
        """t [B], labels each [B] int64 (missing or None: "none"), to [B, width].

        Raises:
            RequestError: a label this network was not built with.
        """
        for name in labels:
            if name not in self.labels:
                known = ", ".join(self.labels) or "none"
                raise RequestError(
                    f"the condition {name}=",
                    f"a label this network was built with: {known}." + nearest(name, list(self.labels)),
                    f"network(labels={{{name!r}: number_of_classes}})",
                )
        with torch.autocast(t.device.type, enabled=False):
            c = self.time(t)
            for name, table in self.tables.items():
                c = c + table(labels.get(name))
        return c
