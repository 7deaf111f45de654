"""What may be asked of a model, by name: a class, a number, a text, a class or numbers for every site.

Read `base.py` first. A condition of your own is a frozen dataclass with `encode`, `drop` and `embedder`; what it gives
a network is one of three things that every network of ours knows. `gendiff.testing.check_condition` proves it: batches,
padding, dropping, the way through a model file.
"""

from __future__ import annotations

from gendiff.conditions.aligned import Aligned as Aligned
from gendiff.conditions.base import Batched as Batched
from gendiff.conditions.base import Condition as Condition
from gendiff.conditions.base import Encoded as Encoded
from gendiff.conditions.base import batch_of as batch_of
from gendiff.conditions.base import told_of as told_of
from gendiff.conditions.base import without as without
from gendiff.conditions.columns import Said as Said
from gendiff.conditions.columns import said_of as said_of
from gendiff.conditions.label import Label as Label
from gendiff.conditions.number import Number as Number
from gendiff.conditions.plans import Expects as Expects
from gendiff.conditions.plans import Plan as Plan
from gendiff.conditions.plans import completed as completed
from gendiff.conditions.plans import listed as listed
from gendiff.conditions.plans import sites_of as sites_of
from gendiff.conditions.plans import with_plan as with_plan
from gendiff.conditions.pretrained import PretrainedText as PretrainedText
from gendiff.conditions.reference import Reference as Reference
from gendiff.conditions.sites import Field as Field
from gendiff.conditions.sites import Sites as Sites
from gendiff.conditions.text import Text as Text
