"""Where a state lives: points, tangents, geodesics, reference noise.

Read `base` first (the interface and the moves every space derives from exp and log), `sites` (elements, and pairs of
them), then `flat`, `torus`, `sphere`,
`so3` (with `rotations`, the functions on 3 x 3 matrices), `categories`, and `product` for bundles of named parts.
To add a space: subclass `Space` as a frozen dataclass with exp, log, random, project, tangent, dim and log_random.
The law that proves it: `gendiff.testing.check_space(space, like)`.
"""

from gendiff.spaces.base import Space as Space
from gendiff.spaces.base import State as State
from gendiff.spaces.base import Weight as Weight
from gendiff.spaces.base import broadcast_mask as broadcast_mask
from gendiff.spaces.base import count as count
from gendiff.spaces.base import inner as inner
from gendiff.spaces.base import leaves as leaves
from gendiff.spaces.base import map_state as map_state
from gendiff.spaces.base import per_sample as per_sample
from gendiff.spaces.base import require_shape as require_shape
from gendiff.spaces.base import tensors as tensors
from gendiff.spaces.base import widened as widened
from gendiff.spaces.categories import FLOOR as FLOOR
from gendiff.spaces.categories import Categorical as Categorical
from gendiff.spaces.flat import Centered as Centered
from gendiff.spaces.flat import Euclidean as Euclidean
from gendiff.spaces.product import Product as Product
from gendiff.spaces.product import kinds_of as kinds_of
from gendiff.spaces.rotations import IGSO3 as IGSO3
from gendiff.spaces.rotations import exp_so3 as exp_so3
from gendiff.spaces.rotations import from_quaternion as from_quaternion
from gendiff.spaces.rotations import hat as hat
from gendiff.spaces.rotations import log_so3 as log_so3
from gendiff.spaces.rotations import orthonormal as orthonormal
from gendiff.spaces.rotations import quaternion as quaternion
from gendiff.spaces.rotations import uniform as uniform
from gendiff.spaces.sites import ELEMENTS as ELEMENTS
from gendiff.spaces.sites import Elements as Elements
from gendiff.spaces.sites import Pairs as Pairs
from gendiff.spaces.sites import SiteKind as SiteKind
from gendiff.spaces.sites import pair_index as pair_index
from gendiff.spaces.sites import to_pairs as to_pairs
from gendiff.spaces.sites import to_square as to_square
from gendiff.spaces.so3 import SO3 as SO3
from gendiff.spaces.sphere import Sphere as Sphere
from gendiff.spaces.torus import Torus as Torus
