"""`python -m gendiff` is the command `gendiff`."""

import sys

from gendiff.cli import main

sys.exit(main())
