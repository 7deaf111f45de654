"""Who predicts the clean state: a network, a head and a process.

Read `heads` first (what a network emits, and how that becomes x0), then `denoiser`; `predictions` holds predictions of
two halves (CFG++), `conversions` changes the head or the schedule of a trained model, `oracles` are exact denoisers.
To add a head: subclass `Head` (on flat spaces `Flat`, two coefficients) as a frozen dataclass.
The law that proves it: `gendiff.testing.check_head(head, process, like)`: clean inverts raw.
"""

from gendiff.denoisers.conversions import PathVelocity as PathVelocity
from gendiff.denoisers.conversions import Rescheduled as Rescheduled
from gendiff.denoisers.conversions import Score as Score
from gendiff.denoisers.conversions import convert as convert
from gendiff.denoisers.denoiser import Denoise as Denoise
from gendiff.denoisers.denoiser import Denoiser as Denoiser
from gendiff.denoisers.heads import X0 as X0
from gendiff.denoisers.heads import EDMHead as EDMHead
from gendiff.denoisers.heads import Eps as Eps
from gendiff.denoisers.heads import Flat as Flat
from gendiff.denoisers.heads import Head as Head
from gendiff.denoisers.heads import Heads as Heads
from gendiff.denoisers.heads import Logits as Logits
from gendiff.denoisers.heads import Tangent as Tangent
from gendiff.denoisers.heads import V as V
from gendiff.denoisers.heads import Velocity as Velocity
from gendiff.denoisers.heads import default_head as default_head
from gendiff.denoisers.oracles import Mixture as Mixture
from gendiff.denoisers.oracles import Normal as Normal
from gendiff.denoisers.oracles import RotationMixture as RotationMixture
from gendiff.denoisers.predictions import TOLD as TOLD
from gendiff.denoisers.predictions import Prediction as Prediction
from gendiff.denoisers.predictions import Sided as Sided
from gendiff.denoisers.predictions import asides as asides
from gendiff.denoisers.predictions import carried as carried
from gendiff.denoisers.predictions import clean as clean
from gendiff.denoisers.predictions import differentiates as differentiates
from gendiff.denoisers.predictions import for_samples as for_samples
from gendiff.denoisers.predictions import map_prediction as map_prediction
from gendiff.denoisers.predictions import moved as moved
from gendiff.denoisers.predictions import ordinary as ordinary
from gendiff.denoisers.predictions import predict as predict
from gendiff.denoisers.predictions import refuse_guided_jumps as refuse_guided_jumps
from gendiff.denoisers.predictions import refuse_jumps as refuse_jumps
from gendiff.denoisers.predictions import refuse_previous as refuse_previous
from gendiff.denoisers.predictions import rows_of as rows_of
from gendiff.denoisers.predictions import shared_rows as shared_rows
from gendiff.denoisers.predictions import shift as shift
from gendiff.denoisers.predictions import takes as takes
from gendiff.denoisers.predictions import takes_previous as takes_previous
from gendiff.denoisers.predictions import takes_to as takes_to
