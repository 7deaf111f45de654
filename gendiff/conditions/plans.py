"""A plan: what is asked of n samples, with what a model decides before it draws them.

    plan = model.plan(4, phonemes="^ h ə l oʊ $");  model.sample(4, plan=plan.scaled(1.25))

A value that leaves something open (symbols without durations) is completed by its condition, from what the network
expects of it, one sample at a time, so that a sample's plan depends on nothing but what is asked of it. A plan of a
plan is the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gendiff.conditions.base import Condition, told_of
from gendiff.errors import RequestError, is_number

Expects = Callable[[str, Any], Mapping[str, Tensor]]
"""f(condition's name, one value) -> the side outputs of the network for it, without batch axis."""


@dataclass(frozen=True)
class Plan(Mapping[str, Any]):
    """What is asked of n samples, by name: a value for all of them or a list with one for each.

    Args:
        n: Of samples.
        asked: What a domain's `request` takes.
        conditions: Those of the domain.
    """

    n: int
    asked: Mapping[str, Any]
    conditions: Mapping[str, Condition] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> Any:
        return self.asked[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.asked)

    def __len__(self) -> int:
        return len(self.asked)

    def scaled(self, factor: float) -> Plan:
        """The plan with all that lies along the sites made longer by a factor, or shorter by one below 1.

        Raises:
            RequestError: For a factor that is not positive, or a plan in which nothing lies along the sites.
        """
        if not is_number(factor) or not 0 < factor < float("inf"):
            raise RequestError(f"plan.scaled({factor!r})", "a positive number", "plan.scaled(0.8)")
        new = {
            name: each(lambda value, own=own: own.scaled(value, factor), self.asked[name], own)
            for name, own in self.conditions.items() if name in self.asked
        }  # fmt: skip
        if all(new[name] == self.asked[name] for name in new) and factor != 1:
            raise RequestError(
                f"plan.scaled({factor:g}) of a plan of {', '.join(self) or 'nothing'}",
                "something that lasts for a number of sites in it",
            )
        return Plan(self.n, {**self.asked, **new}, self.conditions)


def each(f: Callable[[Any], Any], asked: Any, condition: Condition) -> Any:
    """f of one value, or of each in a list with one for each sample; of None None."""
    if condition.single(asked):
        return None if asked is None else f(asked)
    return [None if value is None else f(value) for value in asked]


def completed(conditions: Mapping[str, Condition], expects: Expects, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, with every value completed by its condition, one at a time and equal ones once.

    Raises:
        RequestError: For a value that cannot be completed, naming its condition.
    """
    out = dict(asked)
    for name, own in conditions.items():
        if name in asked:
            with told_of(name, own):
                out[name] = each(
                    lambda v, name=name, own=own: own.plan(v, lambda w: expects(name, w)), asked[name], own
                )
    return out


def sites_of(n: int, conditions: Mapping[str, Condition], asked: Mapping[str, Any]) -> list[int | None]:
    """How many sites the values of conditions tell each of n samples to have; None where they tell nothing."""
    out: list[int | None] = [None] * n
    for name, own in conditions.items():
        value = asked.get(name)
        for i, one in enumerate(listed(value, own, n)[:n]):
            if one is not None and out[i] is None:
                with told_of(name, own):
                    out[i] = own.sites(one)
    return out


def with_plan(
    n: int, plan: Mapping[str, Any], what: Mapping[str, Any], conditions: Mapping[str, Condition]
) -> dict[str, Any]:
    """What is asked beside a plan, and the plan.

    Raises:
        RequestError: For a plan of other samples than are asked for.
    """
    if not isinstance(plan, Mapping):
        raise RequestError(f"plan={type(plan).__name__}", "what model.plan gave", "plan=model.plan(n, ...)")
    if isinstance(plan, Plan) and plan.n != n:
        raise RequestError(f"a plan of {plan.n} samples for {n}", "as many", f"model.sample({plan.n}, plan=plan)")
    for name in what:
        if name not in plan:
            continue
        own = conditions.get(name)
        planned, asked = (listed(value, own, n) for value in (plan[name], what[name]))
        for i, (a, b) in enumerate(zip(planned, asked, strict=False)):
            if not (a == b if own is None or a is None or b is None else own.follows(a, b)):
                raise RequestError(
                    f"{name}: sample {i} of the plan is for {a!r:.60}, and {b!r:.60} is asked for",
                    "a plan of what is asked for",
                    f"sample(plan=plan) without {name}=",
                )
    return {**what, **plan}


def listed(value: Any, condition: Condition | None, n: int) -> Sequence[Any]:
    """A value for each of n samples."""
    single = not isinstance(value, list | tuple) if condition is None else condition.single(value)
    return [value] * n if single else list(value)
