"""How data become noise on a space, and the exact move back towards a prediction.

Read `base` first (the verbs noise, renoise, move, take, prior), then `gaussian`, `geodesic`, `joint` (named parts, each
with its clock), `categories` and `brownian`. `schedules/` turns times into (alpha, sigma).
To add a process: subclass `Leaf` with a schedule and the space it is on.
The law that proves it: `gendiff.testing.check_process(process, like)`.
"""

from gendiff.processes.base import Leaf as Leaf
from gendiff.processes.base import Move as Move
from gendiff.processes.base import Process as Process
from gendiff.processes.base import leaf_of as leaf_of
from gendiff.processes.base import pick as pick
from gendiff.processes.base import require_noise as require_noise
from gendiff.processes.base import schedule_of as schedule_of
from gendiff.processes.brownian import BrownianSO3 as BrownianSO3
from gendiff.processes.brownian import Turn as Turn
from gendiff.processes.categories import Absorbing as Absorbing
from gendiff.processes.categories import Bridge as Bridge
from gendiff.processes.categories import Categories as Categories
from gendiff.processes.categories import DiscreteFlowMatching as DiscreteFlowMatching
from gendiff.processes.categories import Jump as Jump
from gendiff.processes.categories import MarginalCategories as MarginalCategories
from gendiff.processes.categories import Posterior as Posterior
from gendiff.processes.categories import UniformCategories as UniformCategories
from gendiff.processes.categories import marginal_of as marginal_of
from gendiff.processes.gaussian import Gaussian as Gaussian
from gendiff.processes.geodesic import Geodesic as Geodesic
from gendiff.processes.joint import Joint as Joint
