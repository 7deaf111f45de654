"""Protein backbones for gendiff: structures in angstrom, frames inside, handedness always reported."""

from .contigs import Contig as Contig
from .contigs import ContigError as ContigError
from .domain import Proteins as Proteins
from .motif import Motif as Motif
from .motif import scaffold as scaffold
from .motif import scaffolds as scaffolds
from .networks import FrameNetwork as FrameNetwork
from .pairs import PairFrameNetwork as PairFrameNetwork
from .planned import PlannedProteins as PlannedProteins
from .ranking import rank as rank
from .ranking import write_ranking as write_ranking
from .reading import Report as Report
from .reading import load as load
from .reading import read as read
from .relaxation import Relaxation as Relaxation
from .sources import Backbones as Backbones
from .sources import Ideal as Ideal
from .sources import Structures as Structures
from .structure import Structure as Structure
from .structure import StructureError as StructureError
from .symmetry import Symmetric as Symmetric
from .topology import Topology as Topology
from .writing import write as write
