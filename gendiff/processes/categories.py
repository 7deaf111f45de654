r"""Categories: states that are classes, predictions that are distributions over classes.

A state is int64 [B, *sites]; a prediction of the clean state is log-probabilities [B, *sites, K]. On these the space is
flat: exp(x, v) = log softmax(x + v), log(x, y) = log y - log x, so mixing and guidance are geometric means.

Noise replaces a class by a draw from a fixed distribution pi, with a flow schedule's sigma = 1 - alpha:

    q(x_t | x0)  = alpha_t delta(x0) + (1 - alpha_t) pi      pi = a further class, "masked"   Absorbing
                                                            pi = 1/K                         UniformCategories
                                                            pi = the data's own marginal     MarginalCategories

With p(x0) predicted and a = alpha_t/alpha_s, a step t -> s draws every site from one of two bridges,

    Posterior             sum_x0 p(x0) q(x_s | x_t, x0),  q(x_s | x_t, x0) = q(x_t | x_s) q(x_s | x0)/q(x_t | x0)
    DiscreteFlowMatching  x_t, or with probability (alpha_s - alpha_t)/(1 - alpha_t) a draw of p: the fewest jumps
                          (Campbell et al. 2024; Gat et al. 2024)

both with the right q(x_s | x0), and for masks the same. Churn forgets x_t with probability (churn/sigma_s)^2 and draws
q(x_s | x0) afresh; on masks this masks a shown class again with probability churn^2/sigma_s (remasking: ReMDM, Wang et
al. 2025). `noise_scale` is a temperature on p; at 0 the most probable class is certain.

Along a sampled path E[D(x_s) | x_t] = D(x_t): the newest prediction is the best guess of those to come, and what a
solver extrapolates on a flow is here only chance. So every solver moves classes by plain steps towards the newest
prediction, and where it redoes a move, a class that was drawn is kept and goes on from the time it has reached. The
variational bound, per unit of time, is

    rate(t) error,   rate = -alpha'/(1 - alpha),   error = (1 - alpha)/alpha pi(x_t) sum_y D(r_y, r^_y),  y != x_t
    r_y = q(y | x0)/q(x_t | x0),   D(r, r^) = r log(r/r^) - r + r^

(Campbell et al. 2022; Lou et al. 2024): on masks the error is the cross entropy of masked sites (Sahoo et al. 2024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gendiff.errors import NOT_NEGATIVE, SHARE, DataError, GendiffError, SamplerError, at_least, check, refuse
from gendiff.processes.base import Leaf, require_noise
from gendiff.processes.schedules import Linear, Schedule, Time
from gendiff.random import Noise
from gendiff.spaces import ELEMENTS, Categorical, SiteKind, Weight, broadcast_mask, per_sample


@dataclass(frozen=True)
class Jump:
    """The numbers of one step.

    Attributes:
        now: alpha_t.
        then: alpha_s.
        renew: The share of sites that forget x_t.
        temperature: Of the prediction.
        again: How many moves of this step came before, each with a draw of its own.
    """

    now: float | Tensor
    then: float | Tensor
    renew: float | Tensor = 0.0
    temperature: float = 1.0
    again: int = 0


class Bridge(ABC):
    """How x_s hangs on x_t, given the clean class; frozen and without state."""

    @abstractmethod
    def __call__(self, shown: Tensor, p: Tensor, pi: Tensor, now: Any, then: Any) -> Tensor:
        """Probabilities of x_s [B, *sites, S], from x_t as indicators, p(x0), pi [S], alpha_t and alpha_s."""


@dataclass(frozen=True)
class Posterior(Bridge):
    """The exact step back along the chain that made the noise."""

    def __call__(self, shown: Tensor, p: Tensor, pi: Tensor, now: Any, then: Any) -> Tensor:
        at = (shown * pi).sum(-1, keepdim=True)  # pi(x_t)
        evidence = now * shown + (1 - now) * at  # q(x_t | x0) by x0
        share = torch.where(evidence > 0, p / evidence.clamp_min(1e-30), 0.0)
        if isinstance(then, Tensor):
            a = torch.where(then > 0, now / then, 1.0)
        else:
            a = now / then if then else 1.0  # from noise to noise, alpha = 0 at both ends, nothing moves
        return (a * shown + (1 - a) * at) * (then * share + (1 - then) * pi * share.sum(-1, keepdim=True))


@dataclass(frozen=True)
class DiscreteFlowMatching(Bridge):
    """The fewest jumps: a site stays, or moves to its clean class."""

    def __call__(self, shown: Tensor, p: Tensor, pi: Tensor, now: Any, then: Any) -> Tensor:
        share = (then - now) / (1 - now)
        return share * p + (1 - share) * shown


@dataclass(frozen=True)
class Categories(Leaf):
    """What the processes on classes share; see the top of the file.

    Args:
        classes: K, how many clean classes there are.
        schedule: A flow schedule; alpha is the chance that a site is still clean.
        bridge: `Posterior()` or `DiscreteFlowMatching()`.
        sites: What its sites are: each element of a state, or `Pairs()` of them.
        eta: How much samplers churn that say nothing of it: so many times the posterior's, as `DDIM(eta=...)`.
        below: At which chance of noise, sigma, that begins ("ReMDM-switch", Wang et al. 2025).
    """

    flows: ClassVar[bool] = False
    classes: int
    schedule: Schedule = field(default_factory=Linear)
    bridge: Bridge = field(default_factory=Posterior)
    sites: SiteKind = ELEMENTS
    eta: float = 0.0
    below: float = 0.5
    on: Any = field(init=False, repr=False, compare=False)  # the `Categorical` of these classes

    def __post_init__(self) -> None:
        check(self, classes=at_least(1), eta=NOT_NEGATIVE, below=SHARE)
        if not self.schedule.flow:
            raise GendiffError(
                f"{type(self).__name__} got the schedule {self.schedule!r}",
                "a flow schedule, alpha + sigma = 1 (Linear, Exponential, Polynomial, or one of them Shifted)",
                f"{type(self).__name__}({self.classes}, Linear())",
            )
        object.__setattr__(self, "on", Categorical(classes=self.classes, sites=self.sites))

    @property
    def straight(self) -> bool:
        return False

    @abstractmethod
    def pi(self, like: Tensor) -> Tensor:
        """The distribution of noise over all states a site may have, [S], as float64 on the device of `like`."""

    @abstractmethod
    def carry(self, x: Tensor, logs: Tensor) -> Tensor:
        """A prediction that knows what x_t already shows."""

    def indicators(self, x: Tensor) -> Tensor:
        """Classes [B, *sites] as float64 indicators [B, *sites, S]."""
        return (x[..., None] == torch.arange(len(self.pi(x)), device=x.device)).double()

    def probabilities(self, x: Tensor, prediction: Tensor, temperature: float = 1.0) -> Tensor:
        """p(x0) over all S states, float64, from log-probabilities, or classes, of the K clean ones."""
        logs = self.on.logs(prediction).double()
        if temperature == 0:
            p = (logs == logs.amax(-1, keepdim=True)).double()
            p = p / p.sum(-1, keepdim=True)
        else:
            p = torch.softmax(logs / temperature, -1)
        return torch.nn.functional.pad(p, (0, len(self.pi(x)) - self.classes))

    def draw(self, p: Tensor, noise: Noise) -> Tensor:
        """One class for every site from unnormalised probabilities [B, *sites, S]: int64 [B, *sites]."""
        below = p.cumsum(-1)
        u = noise.uniform(p.shape[:-1]) * below[..., -1]
        return self.on.project((below <= u[..., None]).sum(-1).clamp_max(p.shape[-1] - 1))

    def noise(self, x0: Tensor, t: Time, noise: Noise) -> Tensor:
        # Looked at on the host only: elsewhere it would wait for the device.
        if x0.device.type == "cpu" and not torch.compiler.is_compiling():
            self.check(x0)
        return self.blur(x0, self.schedule(t)[0], noise)

    def check(self, x: Tensor) -> None:
        """Refuses numbers that are no state of a real site."""
        states = len(self.pi(x))
        real = self.on.project(x)
        if bool(((real < 0) | (real >= states)).any()):
            raise DataError(
                f"{self!r} got classes from {int(real.min())} to {int(real.max())}",
                f"classes from 0 to {states - 1}",
                f"{type(self).__name__}({int(real.max()) + 1})" if int(real.min()) >= 0 else "",
            )

    def renoise(self, x: Tensor, t: float, s: float, noise: Noise, noise_scale: float = 1.0) -> Tensor:
        gone = noise_scale * (1 - self.schedule(s)[0] / self.schedule(t)[0])
        return self.blur(x, max(1 - gone, 0.0), noise)

    def blur(self, x: Tensor, keep: float | Tensor, noise: Noise) -> Tensor:
        """Every site kept with a probability, else drawn from pi."""
        u = noise.fork("keep").uniform(x.shape)
        fresh = self.draw(self.pi(x).expand(*x.shape, -1), noise.fork("fresh"))
        return torch.where(u < per_sample(keep, u), x, fresh)

    def churn(self, t: float, s: float) -> float:
        (alpha, sigma), (then, end) = self.schedule(t), self.schedule(s)
        if not self.eta or end <= 0 or sigma > self.below * (1 + 1e-9):
            return 0.0
        return float(end * (1 - (alpha * end / (then * sigma)) ** (2 * self.eta**2)) ** 0.5)

    def move(self, t: Time, s: Time, churn: Weight = 0.0, noise_scale: float = 1.0) -> Jump:
        if noise_scale not in NOT_NEGATIVE:
            raise SamplerError(f"{self!r} got noise_scale={noise_scale!r}", f"{NOT_NEGATIVE}: it is a temperature")
        then, sigma = self.schedule(s)
        if isinstance(churn, Tensor) or isinstance(sigma, Tensor):
            share = (torch.as_tensor(churn) / torch.as_tensor(sigma).clamp_min(1e-12)).clamp(0, 1) ** 2
        else:
            share = min(churn / sigma, 1.0) ** 2 if sigma > 0 else 0.0  # type: ignore[operator]
        return Jump(self.schedule(t)[0], then, share, noise_scale)

    def redone(self, move: Jump, u: float, s: float, again: int) -> Jump:
        reached, then = self.schedule(u)[0], self.schedule(s)[0]
        if u <= s:
            return Jump(then, then, again=again)
        return replace(move, now=reached, again=again)

    def resume(self, x: Tensor, base: Tensor) -> Tensor:
        return x

    def advance(
        self, x: Tensor, history: Sequence[Tensor], weights: Any, norms: Any, move: Jump, noise: Noise | None = None
    ) -> Tensor:
        return self.take(x, history[0], move, noise)

    def take(self, x: Tensor, target: Tensor, move: Jump, noise: Noise | None = None) -> Tensor:
        if move.again:
            if move.now == move.then:
                return x
            noise = require_noise(noise).fork(f"again {move.again}")
        return self.draw(self.reverse(x, target, move), require_noise(noise))

    def reverse(self, x: Tensor, target: Tensor, move: Jump) -> Tensor:
        """Probabilities of x_s given x_t and a prediction, [B, *sites, S]."""
        p, pi = self.probabilities(x, target, move.temperature), self.pi(x)
        now, then, renew = (per_sample(w, p) for w in (move.now, move.then, move.renew))
        back = self.bridge(self.indicators(x), p, pi, now, then)
        if not isinstance(renew, Tensor) and not renew:
            return back
        back = back / back.sum(-1, keepdim=True)
        return (1 - renew) * back + renew * (then * p + (1 - then) * pi)

    def prior(self, like: Tensor, noise: Noise, t: float = 1.0) -> Tensor:
        return self.draw(self.pi(like).expand(*like.shape, -1), noise)

    def log_prior(self, x: Tensor, t: float = 1.0, data_std: Any = 0.0) -> Tensor:
        return self.on.total((self.indicators(x) * self.pi(x)).sum(-1).log())

    def error(self, x: Tensor, guess: Tensor, x0: Tensor, t: Time) -> Tensor:
        logs, pi, shown, true = self.on.logs(guess).double(), self.pi(x), self.indicators(x), self.indicators(x0)
        alpha: Any = per_sample(torch.as_tensor(self.schedule(t)[0], dtype=torch.float64).clamp(1e-9, 1 - 1e-9), logs)
        p = torch.nn.functional.pad(logs.exp(), (0, len(pi) - self.classes))
        at = (shown * pi).sum(-1, keepdim=True)

        def ratios(of: Tensor) -> Tensor:
            """sum_x0 of(x0) q(y | x0)/q(x_t | x0), by y, where x_t may be noise."""
            evidence = (alpha * shown + (1 - alpha) * at).clamp_min(1e-30)
            return alpha * of / evidence + (1 - alpha) * pi * (of / evidence).sum(-1, keepdim=True)

        r, guessed = ratios(true), ratios(p)
        d = torch.xlogy(r, r) - torch.xlogy(r, guessed.clamp_min(1e-45)) - r + guessed
        d = torch.where((shown > 0) | (at == 0), 0.0, d).sum(-1)
        each = (1 - alpha[..., 0]) / alpha[..., 0] * at[..., 0] * d
        return self.on.total(each) / self.on.dim(x).clamp_min(1).to(x.device)

    def rate(self, t: Time) -> Tensor:
        """The weight of the error in the bound, per site: -alpha'/(1 - alpha)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return -self.schedule.slopes(t)[0] / self.schedule(t)[1]

    def gap(self, x: Tensor, guess: Tensor, x0: Tensor, t: Time, s: Time) -> Tensor:
        """KL of the step's law from the one the clean state would give, in nats [B]."""
        move = self.move(t, s, 0.0)
        true, p = (self.reverse(x, target, move) for target in (x0, guess))
        true, p = true / true.sum(-1, keepdim=True), p / p.sum(-1, keepdim=True)
        return self.on.total((torch.xlogy(true, true) - torch.xlogy(true, p.clamp_min(1e-45))).sum(-1))

    def decode(self, x: Tensor, guess: Tensor, x0: Tensor, t: float) -> Tensor:
        """-log p(x0 | x_t) at the last time, [B]."""
        return self.gap(x, guess, x0, t, 0.0)

    def start_gap(self, x0: Tensor) -> Tensor:
        """KL of q(x_1 | x0) from the prior, [B]."""
        alpha = self.schedule(1.0)[0]
        q, pi = alpha * self.indicators(x0) + (1 - alpha) * self.pi(x0), self.pi(x0)
        return self.on.total((torch.xlogy(q, q) - torch.xlogy(q, pi.clamp_min(1e-45))).sum(-1))

    def norm(self, t: Time, scale: float) -> Time:
        return 1.0

    def pace(self, t: Time, scale: float) -> Time:
        return self.schedule.clock_slope(t) / self.schedule.clock(t)

    def drift(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        raise GendiffError(
            f"The probability flow of {self!r} was asked for", "a process on a continuous space", "the bound: elbo(...)"
        )


@dataclass(frozen=True)
class Absorbing(Categories):
    """Masked diffusion: sites turn into the further class K, "masked", and stay so."""

    def pi(self, like: Tensor) -> Tensor:
        return (torch.arange(self.classes + 1, device=like.device) == self.classes).double()

    def carry(self, x: Tensor, logs: Tensor) -> Tensor:
        return torch.where(broadcast_mask(x == self.classes, logs), logs, self.on.logs(x).to(logs.dtype))  # type: ignore[arg-type]


@dataclass(frozen=True)
class UniformCategories(Categories):
    """Classes turn into classes drawn uniformly."""

    def pi(self, like: Tensor) -> Tensor:
        return torch.full((self.classes,), 1 / self.classes, dtype=torch.float64, device=like.device)

    def carry(self, x: Tensor, logs: Tensor) -> Tensor:
        return logs


@dataclass(frozen=True)
class MarginalCategories(Categories):
    """Classes turn into classes drawn as often as the data have them: marginal transitions (Vignac et al. 2023).


    What is noised then looks like data, site by site, from the first step: of pairs of atoms most have no bond.

    Args:
        marginal: The probabilities of the K classes, which sum to one; a domain's `fit` finds them (`marginal_of`).
    """

    marginal: tuple[float, ...] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        right = all(0 <= p <= 1 for p in self.marginal) and abs(sum(self.marginal) - 1) < 1e-6
        if len(self.marginal) != self.classes or not right:
            refuse(
                self, "marginal", f"{self.classes} probabilities that sum to one",
                f"MarginalCategories({self.classes}, marginal=marginal_of(states, {self.classes}))",
            )  # fmt: skip

    def pi(self, like: Tensor) -> Tensor:
        return torch.tensor(self.marginal, dtype=torch.float64, device=like.device)

    def carry(self, x: Tensor, logs: Tensor) -> Tensor:
        return logs


def marginal_of(states: Iterable[Tensor], classes: int) -> tuple[float, ...]:
    """How often each class is met in single states, int64 [*sites] each, every class once more than it is."""
    counts = torch.ones(classes, dtype=torch.float64)
    for state in states:
        counts += torch.bincount(state.flatten(), minlength=classes)[:classes]
    shares = [round(share, 6) for share in (counts / counts.sum()).tolist()]
    first = max(range(classes), key=shares.__getitem__)
    shares[first] = 1.0 - sum(share for k, share in enumerate(shares) if k != first)
    return tuple(shares)
