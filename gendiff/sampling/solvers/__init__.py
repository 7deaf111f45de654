"""Solvers as tables of numbers.

Read `table` first: it says what a row is. `views` and `weights` compute the weights; the families are `single` (one
step at a time), `multistep` (which remember predictions), `langevin` and `calibrated` (tables fitted to a model).
To add a solver: subclass `Solver` as a frozen dataclass with `steps` and `times`, and write `step`.
The law that proves it: `gendiff.testing.check_order(solver, denoiser, like, grid=...)`, and tests/core/test_orders.py.
"""

from gendiff.sampling.solvers.calibrated import Calibrated as Calibrated
from gendiff.sampling.solvers.calibrated import Fitted as Fitted
from gendiff.sampling.solvers.calibrated import FittedTimes as FittedTimes
from gendiff.sampling.solvers.langevin import AnnealedLangevin as AnnealedLangevin
from gendiff.sampling.solvers.langevin import Langevin as Langevin
from gendiff.sampling.solvers.langevin import corrected as corrected
from gendiff.sampling.solvers.multistep import DEIS as DEIS
from gendiff.sampling.solvers.multistep import IPNDM as IPNDM
from gendiff.sampling.solvers.multistep import LMS as LMS
from gendiff.sampling.solvers.multistep import PNDM as PNDM
from gendiff.sampling.solvers.multistep import Adams as Adams
from gendiff.sampling.solvers.multistep import DPMpp2M as DPMpp2M
from gendiff.sampling.solvers.multistep import DPMpp3M as DPMpp3M
from gendiff.sampling.solvers.multistep import DPMpp3S as DPMpp3S
from gendiff.sampling.solvers.multistep import SASolver as SASolver
from gendiff.sampling.solvers.multistep import UniPC as UniPC
from gendiff.sampling.solvers.single import DDIM as DDIM
from gendiff.sampling.solvers.single import DDPM as DDPM
from gendiff.sampling.solvers.single import RK4 as RK4
from gendiff.sampling.solvers.single import Churn as Churn
from gendiff.sampling.solvers.single import Consistency as Consistency
from gendiff.sampling.solvers.single import DPMpp2S as DPMpp2S
from gendiff.sampling.solvers.single import DPMSolver as DPMSolver
from gendiff.sampling.solvers.single import Euler as Euler
from gendiff.sampling.solvers.single import EulerMaruyama as EulerMaruyama
from gendiff.sampling.solvers.single import FlowMap as FlowMap
from gendiff.sampling.solvers.single import Heun as Heun
from gendiff.sampling.solvers.single import Midpoint as Midpoint
from gendiff.sampling.solvers.single import OnePath as OnePath
from gendiff.sampling.solvers.table import Past as Past
from gendiff.sampling.solvers.table import Row as Row
from gendiff.sampling.solvers.table import Solver as Solver
from gendiff.sampling.solvers.views import Circle as Circle
from gendiff.sampling.solvers.views import HalfSlope as HalfSlope
from gendiff.sampling.solvers.views import Points as Points
from gendiff.sampling.solvers.views import Rates as Rates
from gendiff.sampling.solvers.views import View as View
from gendiff.sampling.solvers.weights import Clock as Clock
from gendiff.sampling.solvers.weights import Index as Index
from gendiff.sampling.solvers.weights import LogSNR as LogSNR
from gendiff.sampling.solvers.weights import Soft as Soft
from gendiff.sampling.solvers.weights import Variable as Variable
from gendiff.sampling.solvers.weights import adams as adams
from gendiff.sampling.solvers.weights import heun as heun
from gendiff.sampling.solvers.weights import multistep2 as multistep2
from gendiff.sampling.solvers.weights import multistep3 as multistep3
from gendiff.sampling.solvers.weights import noisy as noisy
from gendiff.sampling.solvers.weights import posterior as posterior
from gendiff.sampling.solvers.weights import unipc as unipc
