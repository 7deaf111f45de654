"""From predictions to a sample.

Read `loop` first: it reads a solver's rows and moves a state. `grids/` are the times, `solvers/` the tables of rows.
`ode` follows the flow to a tolerance, `parallel` makes all steps at once; `calibration` fits a table to a model and
`fitting` a grid. To add what no table can say: subclass `Loop` and write `draw`.
The law that proves a sampler: `gendiff.testing.check_order(solver, denoiser, like, grid=...)`.
"""

from gendiff.sampling.calibration import Along as Along
from gendiff.sampling.calibration import Pilot as Pilot
from gendiff.sampling.calibration import Pilots as Pilots
from gendiff.sampling.calibration import better as better
from gendiff.sampling.calibration import calibrate as calibrate
from gendiff.sampling.calibration import follow as follow
from gendiff.sampling.fitting import cheapest as cheapest
from gendiff.sampling.fitting import fitted_grid as fitted_grid
from gendiff.sampling.fitting import step_costs as step_costs
from gendiff.sampling.loop import Callback as Callback
from gendiff.sampling.loop import Draw as Draw
from gendiff.sampling.loop import Loop as Loop
from gendiff.sampling.loop import Progress as Progress
from gendiff.sampling.loop import replace_solver as replace_solver
from gendiff.sampling.loop import run as run
from gendiff.sampling.loop import sample as sample
from gendiff.sampling.loop import source as source
from gendiff.sampling.loop import table as table
from gendiff.sampling.ode import Adaptive as Adaptive
from gendiff.sampling.ode import Arrival as Arrival
from gendiff.sampling.ode import EvenSteps as EvenSteps
from gendiff.sampling.ode import Flow as Flow
from gendiff.sampling.ode import Path as Path
from gendiff.sampling.ode import Stage as Stage
from gendiff.sampling.ode import drift as drift
from gendiff.sampling.parallel import Parallel as Parallel
from gendiff.sampling.parallel import Played as Played
