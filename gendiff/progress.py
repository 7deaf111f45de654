"""A progress bar on the terminal, for whatever takes long."""

from __future__ import annotations

from typing import Any


class progress_bar:
    """A progress bar: `with progress_bar("sampling") as progress: progress(0.5, "half of it")`."""

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %")
        times = TimeElapsedColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, *times, TextColumn("{task.fields[note]}"))
        self.task = self.progress.add_task(title, total=1.0, note="")

    def __enter__(self) -> Any:
        self.progress.start()

        def tick(share: float, note: str = "") -> None:
            self.progress.update(self.task, completed=share, note=note)

        return tick

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
