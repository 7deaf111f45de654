"""gendiff: one diffusion core, many domains.

Every model predicts the clean state. A sampler mixes predictions into a target; a process moves exactly towards it.

Notation, in the whole package: t in [0, 1] is the time now (0 data, 1 noise), s the next one, x0 a clean state, x or
x_t a noisy one, z standard noise, alpha and sigma the schedule, c the clock, B the batch.
"""

from gendiff.bounds import elbo as elbo
from gendiff.bounds import vlb as vlb
from gendiff.brownian import BrownianSO3 as BrownianSO3
from gendiff.categories import Absorbing as Absorbing
from gendiff.categories import Categorical as Categorical
from gendiff.categories import RateMatching as RateMatching
from gendiff.categories import UniformCategories as UniformCategories
from gendiff.cite import cite as cite
from gendiff.denoisers import X0 as X0
from gendiff.denoisers import Denoiser as Denoiser
from gendiff.denoisers import EDMHead as EDMHead
from gendiff.denoisers import Eps as Eps
from gendiff.denoisers import Heads as Heads
from gendiff.denoisers import Logits as Logits
from gendiff.denoisers import Tangent as Tangent
from gendiff.denoisers import V as V
from gendiff.denoisers import Velocity as Velocity
from gendiff.domain import Domain as Domain
from gendiff.domain import Example as Example
from gendiff.domain import Examples as Examples
from gendiff.domain import Rejected as Rejected
from gendiff.domain import Request as Request
from gendiff.domain import Source as Source
from gendiff.errors import GendiffError as GendiffError
from gendiff.given import Given as Given
from gendiff.guidance import Autoguided as Autoguided
from gendiff.guidance import Guided as Guided
from gendiff.likelihood import Hutchinson as Hutchinson
from gendiff.likelihood import log_likelihood as log_likelihood
from gendiff.losses import Objective as Objective
from gendiff.losses import denoising_loss as denoising_loss
from gendiff.model import Model as Model
from gendiff.model import load as load
from gendiff.processes import Gaussian as Gaussian
from gendiff.processes import Geodesic as Geodesic
from gendiff.processes import Joint as Joint
from gendiff.random import Noise as Noise
from gendiff.samplers import sample as sample
from gendiff.schedules import EDM as EDM
from gendiff.schedules import VE as VE
from gendiff.schedules import VP as VP
from gendiff.schedules import Cosine as Cosine
from gendiff.schedules import Discrete as Discrete
from gendiff.schedules import Exponential as Exponential
from gendiff.schedules import Linear as Linear
from gendiff.schedules import Polynomial as Polynomial
from gendiff.schedules import Shifted as Shifted
from gendiff.solvers import DDIM as DDIM
from gendiff.solvers import DDPM as DDPM
from gendiff.solvers import DPMpp2M as DPMpp2M
from gendiff.solvers import Euler as Euler
from gendiff.solvers import Heun as Heun
from gendiff.spaces import SO3 as SO3
from gendiff.spaces import Centered as Centered
from gendiff.spaces import Euclidean as Euclidean
from gendiff.spaces import Product as Product
from gendiff.spaces import Sphere as Sphere
from gendiff.spaces import Torus as Torus
from gendiff.times import Karras as Karras
from gendiff.times import LinearGrid as LinearGrid
from gendiff.times import LogitNormal as LogitNormal
from gendiff.times import LogNormal as LogNormal
from gendiff.times import LogSNRGrid as LogSNRGrid
from gendiff.times import Uniform as Uniform
from gendiff.times import UpAndDown as UpAndDown

__version__ = "0.1.0"
