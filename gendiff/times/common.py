"""What training times and grids share."""

from __future__ import annotations

from gendiff.errors import SamplerError
from gendiff.processes import Process
from gendiff.schedules import Schedule


def schedule_of(process: Process, part: str | None = None) -> Schedule:
    """The schedule of a leaf process, or of a bundle's named (else first) part."""
    schedules = process.per_part(lambda leaf: leaf.schedule)
    while isinstance(schedules, dict):
        if part is not None and part not in schedules:
            raise SamplerError(f"The process has no part {part!r}", f"one of {', '.join(schedules)}")
        schedules = schedules[part] if part is not None else next(iter(schedules.values()))
        part = None
    return schedules
