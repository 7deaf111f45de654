"""gendiff: one diffusion core, many domains.

Every model predicts the clean state. A sampler mixes predictions into a target; a process moves exactly towards it.

Notation, in the whole package: t in [0, 1] is the time now (0 data, 1 noise), s the next one, x0 a clean state, x or
x_t a noisy one, z standard noise, alpha and sigma the schedule, c the clock, B the batch.
"""

import lazy_loader

# The names stand in __init__.pyi; each module is loaded when the first of its names is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
