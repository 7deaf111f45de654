"""How good a model is, by numbers that need no domain.

`measures` are numbers of samples beside real data, with intervals; `scores` are tables of them, beside what real data
in the samples' place would give and what shuffled requests give.
`likelihood` integrates the probability flow (nats, up to the solver's tolerance), `bounds` are variational bounds,
`distances` compare two sets of features. A domain's own measures are `Domain.metrics` of its package.
To add a measure: `mean`, `share`, `pooled`, `between` of `measures`, by its name in `Domain.metrics`.
The law that proves it: `gendiff.testing.check_measure`.
To add a distance: a function of two arrays [N, D] that returns a float.
The law that proves it: zero between a set and itself, and the closed form between Gaussians (test_metrics_cite.py).
"""

from gendiff.evaluation.bounds import Bound as Bound
from gendiff.evaluation.bounds import Bounded as Bounded
from gendiff.evaluation.bounds import elbo as elbo
from gendiff.evaluation.bounds import first_time as first_time
from gendiff.evaluation.bounds import strata as strata
from gendiff.evaluation.bounds import vlb as vlb
from gendiff.evaluation.distances import energy as energy
from gendiff.evaluation.distances import frechet as frechet
from gendiff.evaluation.distances import kid as kid
from gendiff.evaluation.distances import nearest_distances as nearest_distances
from gendiff.evaluation.distances import pairwise as pairwise
from gendiff.evaluation.distances import wasserstein1 as wasserstein1
from gendiff.evaluation.likelihood import Divergence as Divergence
from gendiff.evaluation.likelihood import Exact as Exact
from gendiff.evaluation.likelihood import Hutchinson as Hutchinson
from gendiff.evaluation.likelihood import LogLikelihood as LogLikelihood
from gendiff.evaluation.likelihood import log_likelihood as log_likelihood
from gendiff.evaluation.measures import Estimate as Estimate
from gendiff.evaluation.measures import Measure as Measure
from gendiff.evaluation.measures import measure_of as measure_of
from gendiff.evaluation.measures import wilson as wilson
from gendiff.evaluation.scores import Judge as Judge
from gendiff.evaluation.scores import MeasureScore as MeasureScore
from gendiff.evaluation.scores import Observer as Observer
from gendiff.evaluation.scores import Scores as Scores
from gendiff.evaluation.scores import obeyed as obeyed
from gendiff.evaluation.scores import score as score
