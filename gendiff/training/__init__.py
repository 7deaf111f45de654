"""How a denoiser learns.

Read `losses` first (one loss on any space), then `times` (at which times to train), `couplings` (which noise an example
is joined to), `ema` (averaged weights), `profiles` (averages chosen afterwards), `adapters` (a trained network
learns something new) and `fewstep` (a denoiser learns to jump).
To add a weighting: subclass `Weighting`; a time distribution: `TimeDistribution`; a coupling: `Coupling`;
an adapter: `Adapter`; a few-step method: `FewStep`.
The laws that prove them: `gendiff.testing.check_weighting`; tests/core/test_times.py and test_couplings.py.
"""

from gendiff.training.adapters import Adapter as Adapter
from gendiff.training.adapters import Begun as Begun
from gendiff.training.adapters import Control as Control
from gendiff.training.adapters import LoRA as LoRA
from gendiff.training.adapters import Partial as Partial
from gendiff.training.adapters import load_trained as load_trained
from gendiff.training.adapters import merged_state as merged_state
from gendiff.training.adapters import trained_state as trained_state
from gendiff.training.couplings import Coupling as Coupling
from gendiff.training.couplings import EquivariantOT as EquivariantOT
from gendiff.training.couplings import Immiscible as Immiscible
from gendiff.training.couplings import Independent as Independent
from gendiff.training.couplings import KabschAligned as KabschAligned
from gendiff.training.couplings import OptimalTransport as OptimalTransport
from gendiff.training.couplings import Paired as Paired
from gendiff.training.couplings import Sinkhorn as Sinkhorn
from gendiff.training.couplings import pairwise as pairwise
from gendiff.training.couplings import reflow as reflow
from gendiff.training.couplings import turn as turn
from gendiff.training.ema import EMA as EMA
from gendiff.training.fewstep import AdaptiveWeight as AdaptiveWeight
from gendiff.training.fewstep import ConsistencyTraining as ConsistencyTraining
from gendiff.training.fewstep import ContinuousConsistency as ContinuousConsistency
from gendiff.training.fewstep import DistributionMatching as DistributionMatching
from gendiff.training.fewstep import FewStep as FewStep
from gendiff.training.fewstep import Finite as Finite
from gendiff.training.fewstep import Forward as Forward
from gendiff.training.fewstep import GuidanceDistillation as GuidanceDistillation
from gendiff.training.fewstep import Lesson as Lesson
from gendiff.training.fewstep import MeanFlow as MeanFlow
from gendiff.training.fewstep import MomentMatching as MomentMatching
from gendiff.training.fewstep import Progressive as Progressive
from gendiff.training.fewstep import Reflow as Reflow
from gendiff.training.fewstep import Reverse as Reverse
from gendiff.training.fewstep import ScoreRegularized as ScoreRegularized
from gendiff.training.fewstep import Shortcut as Shortcut
from gendiff.training.known import Known as Known
from gendiff.training.known import KnownParts as KnownParts
from gendiff.training.known import KnownSites as KnownSites
from gendiff.training.known import template as template
from gendiff.training.losses import Clean as Clean
from gendiff.training.losses import MinSNR as MinSNR
from gendiff.training.losses import Objective as Objective
from gendiff.training.losses import Output as Output
from gendiff.training.losses import Weighting as Weighting
from gendiff.training.losses import denoising_loss as denoising_loss
from gendiff.training.profiles import Profiles as Profiles
from gendiff.training.profiles import Snapshot as Snapshot
from gendiff.training.profiles import fit as fit
from gendiff.training.profiles import gamma_of as gamma_of
from gendiff.training.profiles import profile as profile
from gendiff.training.profiles import reconstruct as reconstruct
from gendiff.training.profiles import sigma_rel_of as sigma_rel_of
from gendiff.training.terms import Auxiliary as Auxiliary
from gendiff.training.terms import Term as Term
from gendiff.training.times import Beta as Beta
from gendiff.training.times import Binned as Binned
from gendiff.training.times import CosineInterpolated as CosineInterpolated
from gendiff.training.times import ImportanceTimes as ImportanceTimes
from gendiff.training.times import LogitNormal as LogitNormal
from gendiff.training.times import LogNormal as LogNormal
from gendiff.training.times import LossHistogram as LossHistogram
from gendiff.training.times import Mixed as Mixed
from gendiff.training.times import Mode as Mode
from gendiff.training.times import TimeDistribution as TimeDistribution
from gendiff.training.times import Uniform as Uniform
from gendiff.training.times import stratified as stratified
