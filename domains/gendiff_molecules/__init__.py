"""Molecules for gendiff: atoms and bonds of whole orders in space, drawn, read and written without losing any."""

from .baselines import MoleculeEGNN as MoleculeEGNN
from .baselines import MoleculeTransformer as MoleculeTransformer
from .complexes import Complex as Complex
from .complexes import PocketLigands as PocketLigands
from .complexes import load_complexes as load_complexes
from .complexes import read_complex as read_complex
from .domain import Molecules as Molecules
from .fragments import Fragment as Fragment
from .fragments import KnownAtoms as KnownAtoms
from .fragments import fragment as fragment
from .molecule import VALENCES as VALENCES
from .molecule import Labels as Labels
from .molecule import Molecule as Molecule
from .molecule import MoleculeError as MoleculeError
from .networks import MoleculeNetwork as MoleculeNetwork
from .pocket import Pocket as Pocket
from .pocket import Settling as Settling
from .pocket_files import read_pocket as read_pocket
from .reading import Report as Report
from .reading import load as load
from .reading import read as read
from .sources import QM7 as QM7
from .sources import QM9 as QM9
from .sources import MoleculeFiles as MoleculeFiles
from .surroundings import Surroundings as Surroundings
from .writing import write as write
