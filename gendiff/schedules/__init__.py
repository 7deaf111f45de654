r"""Schedules: how much signal and how much noise there is at time t in [0, 1].

    x_t = alpha(t) x0 + sigma(t) z,    t = 0 is data (alpha = 1, sigma = 0), t = 1 is noise

with the log signal-to-noise ratio and the clock

    logsnr(t) = 2 log(alpha/sigma)                       time(logsnr) is its inverse
    clock(t)  = sigma/alpha, the noise level of EDM      for VP, cosine, VE, EDM, discrete betas
              = sigma/(alpha + sigma)                    for flows, where alpha may end at 0

The clock is the variable in which a solver takes straight steps: with n = alpha (or alpha + sigma for flows) the state
x/n moves on the line lerp(x_t/n_t, x0, 1 - c_s/c_t). Endpoints are values, not limits. Every formula is written once
and runs on Python floats (solver tables, on the host) and on float64 tensors (training times).

Formulas are in `paths`, schedules made of schedules in `wrappers`, tables in `discrete`. `slopes(t)` are the exact
d alpha/dt and d sigma/dt: the same formulas on numbers that carry their slope (`numbers.Dual`).
"""

from gendiff.schedules.base import Exploding as Exploding
from gendiff.schedules.base import Flow as Flow
from gendiff.schedules.base import Schedule as Schedule
from gendiff.schedules.base import moving as moving
from gendiff.schedules.discrete import Discrete as Discrete
from gendiff.schedules.numbers import Dual as Dual
from gendiff.schedules.numbers import Floats as Floats
from gendiff.schedules.numbers import Tensors as Tensors
from gendiff.schedules.numbers import Time as Time
from gendiff.schedules.numbers import exp_capped as exp_capped
from gendiff.schedules.numbers import maths as maths
from gendiff.schedules.paths import EDM as EDM
from gendiff.schedules.paths import VE as VE
from gendiff.schedules.paths import VP as VP
from gendiff.schedules.paths import Cosine as Cosine
from gendiff.schedules.paths import Exponential as Exponential
from gendiff.schedules.paths import Laplace as Laplace
from gendiff.schedules.paths import Linear as Linear
from gendiff.schedules.paths import Polynomial as Polynomial
from gendiff.schedules.paths import Sigmoid as Sigmoid
from gendiff.schedules.paths import TrigFlow as TrigFlow
from gendiff.schedules.wrappers import Shifted as Shifted
from gendiff.schedules.wrappers import ZeroTerminal as ZeroTerminal
