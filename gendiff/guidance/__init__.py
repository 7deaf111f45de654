"""Guidance is mixing: rules that join two predictions, and denoisers that follow them."""

from gendiff.guidance.rules import APG as APG
from gendiff.guidance.rules import PlusPlus as PlusPlus
from gendiff.guidance.rules import Rescaled as Rescaled
from gendiff.guidance.rules import Rule as Rule
from gendiff.guidance.rules import Scale as Scale
from gendiff.guidance.rules import Within as Within
from gendiff.guidance.rules import ZeroStar as ZeroStar
from gendiff.guidance.rules import as_rule as as_rule
from gendiff.guidance.wrappers import Autoguided as Autoguided
from gendiff.guidance.wrappers import Classified as Classified
from gendiff.guidance.wrappers import Corrected as Corrected
from gendiff.guidance.wrappers import Guided as Guided
