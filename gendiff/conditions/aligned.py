"""Tokens that lie along the sites: phonemes over frames, residues over atoms.

    symbols a_1 ... a_P with durations d_1 ... d_P, sum d = sites;  site s belongs to token k(s), at the share u(s)
    field[s] = h_k(s) + W [u, 1 - u, log d_k(s)],    h = encoder(a)

Tokens are read by a small transformer before they are spread, so that a site knows its token's neighbours, and two like
tokens in a row are told apart by where in them a site lies. A gathered field is all a network sees of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.conditions.base import Batched, Condition, distinct
from gendiff.errors import RequestError, at_least, check, nearest
from gendiff.nn.tokens import AlignedEmbedding
from gendiff.training import Auxiliary, Term


@dataclass(frozen=True)
class DurationLoss:
    """Half the Poisson deviance of durations d from the expected ones e^s, the mean over a sample's symbols,

        d (log d - s) - d + e^s,

    whose minimum is the mean, so that expected totals are right; a regression of log d would make them short.

    Args:
        name: The condition's.
    """

    name: str

    def __call__(self, prediction: Any, x0: Any, t: Any, *, side: Mapping[str, Tensor], **cond: Any) -> Tensor:
        s, batch = side[f"{self.name}_log_durations"].float(), cond[self.name]
        d, mask = counts_of(batch).to(s), batch["mask"]
        deviance = torch.special.xlogy(d, d) - d * s - d + s.exp()
        return (deviance * mask).sum(1) / mask.sum(1).clamp_min(1)


def rounded(durations: Tensor) -> list[int]:
    """Whole numbers near positive float64 [P], at least 1, whose sums up to each place are near too; 0 stays."""
    ends = torch.cat([durations.new_zeros(1), durations.cumsum(0)]).round().diff()
    return torch.where(durations > 0, ends.clamp_min(1), 0.0).long().tolist()


def counts_of(batch: Mapping[str, Tensor]) -> Tensor:
    """The durations [B, P] in a batch."""
    index, count = batch["index"], batch["symbols"].shape[1]
    return torch.zeros(len(index), count + 1, device=index.device).scatter_add_(
        1, index, torch.ones_like(index, dtype=torch.float32)
    )[:, :-1]


@dataclass(frozen=True)
class Aligned(Condition):
    """Symbols with a number of sites each.

    One sample's value is a mapping or a pair: {"symbols": ["h", "e", "j"], "durations": [4, 9, 7]}. Where durations are
    planned, symbols alone will do, also as a text with spaces between them: "h e j".

    Args:
        symbols: Those that are known; `fit` takes them from training values.
        layers: Of the encoder that is trained along.
        width: Of that encoder; None for that of the network.
        planned: Whether it learns to expect durations, so that symbols alone may be asked (`model.plan`).
    """

    symbols: tuple[str, ...] = ()
    layers: int = 2
    width: int | None = None
    planned: bool = False

    @property
    def gives(self) -> tuple[str, ...]:
        return ("field",)

    def __post_init__(self) -> None:
        check(self, layers=at_least(0))
        if self.width is not None:
            check(self, width=at_least(1))
        distinct(self, "symbols")

    def encode(self, value: Any) -> dict[str, Tensor]:
        if value is None:
            return {"symbols": torch.empty(0, dtype=torch.int64), "durations": torch.empty(0, dtype=torch.int64)}
        symbols, durations = self.pair(value)
        if durations is None:
            raise RequestError(
                f"{len(symbols)} symbols without durations", "how many sites each has",
                'NAME=model.plan(1, NAME=symbols)["NAME"], or {"symbols": ["a"], "durations": [12]}',
            )  # fmt: skip
        known = {symbol: i for i, symbol in enumerate(self.symbols)}
        for place, symbol in enumerate(symbols):
            if symbol not in known:
                raise RequestError(
                    f"the symbol {symbol!r} (number {place + 1}) was never seen in training",
                    f"symbols among the {len(known)} known ones.{nearest(symbol, known)}",
                )
        counts = durations.tolist() if isinstance(durations, Tensor | np.ndarray) else list(durations)
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and 0 <= n < 2**31 for n in counts)
        if len(counts) != len(symbols) or not whole:
            raise RequestError(
                f"{len(symbols)} symbols with the durations {counts!r:.80}", "a whole number of sites for each"
            )
        return {
            "symbols": torch.tensor([known[symbol] for symbol in symbols], dtype=torch.int64),
            "durations": torch.tensor(counts, dtype=torch.int64),
        }

    def pair(self, value: Any) -> tuple[Sequence[str], Any]:
        """Symbols of a value, and its durations or None.

        Raises:
            RequestError: For a value that is neither.
        """
        if isinstance(value, str):
            value = {"symbols": value}
        if isinstance(value, Mapping) and set(value) in ({"symbols", "durations"}, {"symbols"}):
            value = value["symbols"], value.get("durations")
        if isinstance(value, tuple) and len(value) == 2:
            symbols, durations = value
            return symbols.split() if isinstance(symbols, str) else symbols, durations
        raise RequestError(f"{value!r:.80}", "symbols and durations", 'NAME={"symbols": ["a"], "durations": [12]}')

    def single(self, value: Any) -> bool:
        return not isinstance(value, list)

    def plan(self, value: Any, expects: Callable[[Any], Mapping[str, Tensor]]) -> Any:
        symbols, durations = self.pair(value)
        if durations is not None:
            return value
        expected = expects((symbols, [1] * len(symbols))).get("log_durations") if self.planned else None
        if expected is None:
            raise RequestError(
                f"{len(symbols)} symbols without durations, and this model does not expect any",
                "durations too",
                'NAME={"symbols": ["a"], "durations": [12]}',
            )
        return {"symbols": list(symbols), "durations": rounded(expected[: len(symbols)].double().exp())}

    def sites(self, value: Any) -> int | None:
        durations = self.pair(value)[1]
        return None if durations is None else sum(int(d) for d in durations)

    def scaled(self, value: Any, factor: float) -> Any:
        """The same symbols with durations whose sum is `factor` times as large, rounded, and none of which ends."""
        symbols, durations = self.pair(value)
        if durations is None:
            return value
        d = torch.as_tensor(list(durations), dtype=torch.float64)
        return {"symbols": list(symbols), "durations": rounded(factor * d)}

    def follows(self, planned: Any, asked: Any) -> bool:
        (symbols, durations), (others, said) = self.pair(planned), self.pair(asked)
        return list(symbols) == list(others) and (said is None or list(durations) == list(said))

    def fits(self, single: Any, sites: tuple[int, ...]) -> None:
        total = int(single["durations"].sum())
        if total != sites[0]:
            raise RequestError(
                f"durations of {total} sites in all, for a sample of {sites[0]}", "as many as it has sites"
            )

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """Symbols [B, P] with their mask, and for every site [B, T] its token and its share of the way through it.

        The last index, P, is that of sites of which nothing is asked.
        """
        count = max(1, *(len(single["symbols"]) for single in singles))
        length = sites[0] if sites else max(1, *(int(single["durations"].sum()) for single in singles))
        symbols = torch.zeros(len(singles), count, dtype=torch.int64)
        mask = torch.zeros(len(singles), count, dtype=torch.bool)
        index = torch.full((len(singles), length), count)
        place = torch.zeros(len(singles), length, 3)
        for i, single in enumerate(singles):
            own, d = single["symbols"], single["durations"]
            symbols[i, : len(own)], mask[i, : len(own)] = own, True
            token = torch.repeat_interleave(torch.arange(len(own)), d)
            begin = torch.repeat_interleave(d.cumsum(0) - d, d)
            each = torch.repeat_interleave(d, d).float()
            u = (torch.arange(len(token)) - begin + 0.5) / each.clamp_min(1)
            index[i, : len(token)] = token
            place[i, : len(token)] = torch.stack([u, 1 - u, each.clamp_min(1).log()], -1)
        return {"symbols": symbols, "mask": mask, "index": index, "place": place}

    def drop(self, batch: Batched, gone: Tensor) -> dict[str, Tensor]:
        assert isinstance(batch, dict)
        none = batch["symbols"].shape[1]
        return {
            **batch,
            "mask": batch["mask"] & ~gone[:, None],
            "index": torch.where(gone[:, None], none, batch["index"]),
            "place": torch.where(gone[:, None, None], 0.0, batch["place"]),
        }

    def embedder(self, width: int) -> nn.Module:
        return AlignedEmbedding(len(self.symbols), width, self.layers, inner=self.width, sizes=self.planned)

    def auxiliary(self, name: str) -> dict[str, Auxiliary]:
        return {"durations": Auxiliary(DurationLoss(name), Term(0.05))} if self.planned else {}

    def fit(self, values: Sequence[Any]) -> Self:
        known = [self.pair(value)[0] for value in values if value is not None]
        if self.symbols or not known:
            return self
        return replace(self, symbols=tuple(sorted({symbol for symbols in known for symbol in symbols})))

    @property
    def rows(self) -> tuple[str, ...]:
        return self.symbols

    def read(self, text: str) -> Any:
        """ "h:4 e:9 j:7", or "h e j" without durations."""
        if text.lower() == "none":
            return None
        if not re.search(r":\d+(\s|$)", text):
            return text
        parts = [item.rpartition(":") for item in text.split()]
        if not parts or not all(colon and count.isascii() and count.isdigit() for _, colon, count in parts):
            raise RequestError(f"{text!r}", "symbols with their numbers of sites", 'NAME="h:4 e:9 j:7"')
        return {"symbols": [symbol for symbol, _, _ in parts], "durations": [int(count) for _, _, count in parts]}

    def words(self, value: Any) -> str:
        return "" if value is None else " ".join(self.pair(value)[0])[:40]

    def describe(self) -> str:
        alone = ", or without it" if self.planned else ""
        return f"symbols, of {len(self.symbols)} known ones, with the number of sites of each{alone}"
