"""Grids: the times at which a sampler stops, from noise to data.

`continuous` holds grids by formula (`LinearGrid`, `Karras`, `PowerGrid`, `LogSNRGrid`), `discrete` those over a table
of training steps, `walks` grids that also go up or cover a part (`UpAndDown`, `Restart`, `Interval`).
To add a grid: subclass `Grid` as a frozen dataclass; __call__(process, steps) returns steps + 1 times.
The law that proves it: tests/core/test_times.py runs over every grid.
"""

from gendiff.sampling.grids.continuous import AYS as AYS
from gendiff.sampling.grids.continuous import AlignYourSteps as AlignYourSteps
from gendiff.sampling.grids.continuous import BetaGrid as BetaGrid
from gendiff.sampling.grids.continuous import EvenParts as EvenParts
from gendiff.sampling.grids.continuous import Fixed as Fixed
from gendiff.sampling.grids.continuous import Grid as Grid
from gendiff.sampling.grids.continuous import Karras as Karras
from gendiff.sampling.grids.continuous import Levels as Levels
from gendiff.sampling.grids.continuous import LinearGrid as LinearGrid
from gendiff.sampling.grids.continuous import LogSNRGrid as LogSNRGrid
from gendiff.sampling.grids.continuous import PolyExponential as PolyExponential
from gendiff.sampling.grids.continuous import PowerGrid as PowerGrid
from gendiff.sampling.grids.continuous import ShiftedGrid as ShiftedGrid
from gendiff.sampling.grids.continuous import counted as counted
from gendiff.sampling.grids.discrete import Leading as Leading
from gendiff.sampling.grids.discrete import Linspace as Linspace
from gendiff.sampling.grids.discrete import Trailing as Trailing
from gendiff.sampling.grids.walks import Interval as Interval
from gendiff.sampling.grids.walks import Restart as Restart
from gendiff.sampling.grids.walks import UpAndDown as UpAndDown
