"""What steers a sample: conditions, measurements, known parts, rewards.

Read `rules` first (how two predictions are joined), then `wrappers` (a guided denoiser is a denoiser), `given` and
`editing` (known sites, a start), `operators` and `inverse` (measurements), `particles` (rewards, by many particles).
To add a rule: subclass `Rule` as a frozen dataclass and write `join`; a wrapper keeps gradients.
The law that proves a rule: `gendiff.testing.check_rule(rule, process, like)`; a wrapper: test_wrapper_derivatives.py.
"""

from gendiff.guidance.editing import From as From
from gendiff.guidance.editing import noised_start as noised_start
from gendiff.guidance.editing import start_at as start_at
from gendiff.guidance.given import Given as Given
from gendiff.guidance.given import with_resampling as with_resampling
from gendiff.guidance.inverse import DPS as DPS
from gendiff.guidance.inverse import MMPS as MMPS
from gendiff.guidance.inverse import TMPD as TMPD
from gendiff.guidance.inverse import DiffPIR as DiffPIR
from gendiff.guidance.inverse import Look as Look
from gendiff.guidance.inverse import Measurement as Measurement
from gendiff.guidance.inverse import Method as Method
from gendiff.guidance.inverse import PiGDM as PiGDM
from gendiff.guidance.inverse import PosteriorMean as PosteriorMean
from gendiff.guidance.inverse import conjugate as conjugate
from gendiff.guidance.inverse import known as known
from gendiff.guidance.operators import Average as Average
from gendiff.guidance.operators import Blur as Blur
from gendiff.guidance.operators import Chain as Chain
from gendiff.guidance.operators import Differences as Differences
from gendiff.guidance.operators import LinearOperator as LinearOperator
from gendiff.guidance.operators import Magnitudes as Magnitudes
from gendiff.guidance.operators import Mask as Mask
from gendiff.guidance.operators import Matrix as Matrix
from gendiff.guidance.operators import Operator as Operator
from gendiff.guidance.particles import FeynmanKac as FeynmanKac
from gendiff.guidance.particles import Likelihood as Likelihood
from gendiff.guidance.particles import Particles as Particles
from gendiff.guidance.particles import Potential as Potential
from gendiff.guidance.particles import Reward as Reward
from gendiff.guidance.particles import effective as effective
from gendiff.guidance.particles import resample as resample
from gendiff.guidance.particles import steer as steer
from gendiff.guidance.rules import APG as APG
from gendiff.guidance.rules import CFG as CFG
from gendiff.guidance.rules import CFGPerCondition as CFGPerCondition
from gendiff.guidance.rules import CFGPlusPlus as CFGPlusPlus
from gendiff.guidance.rules import CFGRescale as CFGRescale
from gendiff.guidance.rules import CFGZeroStar as CFGZeroStar
from gendiff.guidance.rules import GuidanceInterval as GuidanceInterval
from gendiff.guidance.rules import Outer as Outer
from gendiff.guidance.rules import Rule as Rule
from gendiff.guidance.rules import as_rule as as_rule
from gendiff.guidance.rules import check_parts as check_parts
from gendiff.guidance.rules import guidance_name as guidance_name
from gendiff.guidance.rules import is_one as is_one
from gendiff.guidance.rules import of_samples as of_samples
from gendiff.guidance.wrappers import Autoguidance as Autoguidance
from gendiff.guidance.wrappers import ClassifierGuidance as ClassifierGuidance
from gendiff.guidance.wrappers import Constrained as Constrained
from gendiff.guidance.wrappers import Guided as Guided
from gendiff.guidance.wrappers import ScaleInput as ScaleInput
