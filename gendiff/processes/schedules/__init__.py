"""Schedules: t in [0, 1] to (alpha, sigma); 0 is data, 1 is noise.

Read `base` first, then `paths` (closed forms), `discrete` (tables of betas), `wrappers` (shifts and cuts of others);
`numbers` lets one formula serve floats and tensors.
To add a schedule: subclass `Schedule` as a frozen dataclass; endpoints are values, not limits.
The law that proves it: `gendiff.testing.check_schedule(schedule)`; tests/core/test_schedules.py runs over every one.
"""

from gendiff.processes.schedules.base import Exploding as Exploding
from gendiff.processes.schedules.base import Flow as Flow
from gendiff.processes.schedules.base import Schedule as Schedule
from gendiff.processes.schedules.base import moving as moving
from gendiff.processes.schedules.discrete import Discrete as Discrete
from gendiff.processes.schedules.numbers import Dual as Dual
from gendiff.processes.schedules.numbers import Duals as Duals
from gendiff.processes.schedules.numbers import Floats as Floats
from gendiff.processes.schedules.numbers import Tensors as Tensors
from gendiff.processes.schedules.numbers import Time as Time
from gendiff.processes.schedules.numbers import exp_capped as exp_capped
from gendiff.processes.schedules.numbers import maths as maths
from gendiff.processes.schedules.paths import EDM as EDM
from gendiff.processes.schedules.paths import VE as VE
from gendiff.processes.schedules.paths import VP as VP
from gendiff.processes.schedules.paths import Cosine as Cosine
from gendiff.processes.schedules.paths import Exponential as Exponential
from gendiff.processes.schedules.paths import Laplace as Laplace
from gendiff.processes.schedules.paths import Linear as Linear
from gendiff.processes.schedules.paths import Polynomial as Polynomial
from gendiff.processes.schedules.paths import Sigmoid as Sigmoid
from gendiff.processes.schedules.paths import TrigFlow as TrigFlow
from gendiff.processes.schedules.wrappers import Shifted as Shifted
from gendiff.processes.schedules.wrappers import ZeroTerminal as ZeroTerminal
