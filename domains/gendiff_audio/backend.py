"""Where torchaudio comes from. It refuses to load beside a torch of another build (OSError), so nothing here depends
on it alone.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def torchaudio() -> ModuleType | None:
    """The package torchaudio, or None where it is absent or does not load; gendiff's own torch code then takes its
    place.
    """
    try:
        import torchaudio.functional
        import torchaudio.transforms
    except (ImportError, OSError):
        return None
    return torchaudio
