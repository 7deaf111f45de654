"""How a denoiser learns to sample in one to four steps.

Read `jumps` first (what a flow map is, on any space), then `base` (a lesson, and what every method shares). `meanflow`
follows the flow map's derivative (by `derivatives`), `consistency` its constancy along a path, `semigroup` its
composition, `moments` its distribution; `guided` learns what another model says.
To add a method: subclass `FewStep` as a frozen dataclass and write `losses`.
The laws that prove it: `gendiff.testing.check_fewstep`, and tests/core/test_fewstep.py.
"""

from gendiff.training.fewstep.base import AdaptiveWeight as AdaptiveWeight
from gendiff.training.fewstep.base import FewStep as FewStep
from gendiff.training.fewstep.base import Lesson as Lesson
from gendiff.training.fewstep.consistency import ConsistencyTraining as ConsistencyTraining
from gendiff.training.fewstep.derivatives import Derivative as Derivative
from gendiff.training.fewstep.derivatives import Finite as Finite
from gendiff.training.fewstep.derivatives import Forward as Forward
from gendiff.training.fewstep.derivatives import Reverse as Reverse
from gendiff.training.fewstep.guided import GuidanceDistillation as GuidanceDistillation
from gendiff.training.fewstep.guided import Reflow as Reflow
from gendiff.training.fewstep.jumps import aim as aim
from gendiff.training.fewstep.jumps import eulerian as eulerian
from gendiff.training.fewstep.jumps import jump as jump
from gendiff.training.fewstep.jumps import velocity as velocity
from gendiff.training.fewstep.meanflow import ContinuousConsistency as ContinuousConsistency
from gendiff.training.fewstep.meanflow import MeanFlow as MeanFlow
from gendiff.training.fewstep.moments import DistributionMatching as DistributionMatching
from gendiff.training.fewstep.moments import MomentMatching as MomentMatching
from gendiff.training.fewstep.moments import ScoreRegularized as ScoreRegularized
from gendiff.training.fewstep.semigroup import Progressive as Progressive
from gendiff.training.fewstep.semigroup import Shortcut as Shortcut
