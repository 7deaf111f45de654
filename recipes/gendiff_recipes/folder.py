"""A run's folder is a transaction: one process at a time, nothing of an earlier run lost or mixed in.

    recipe.json          what is trained, complete
    checkpoints/         the last two, each whole: see `checkpoints`
    metrics.csv          a row for every tenth step, of all columns, appended on resume
    pace.f64             the training time after each step, float64: what a budget in minutes counts
    samples/             step_000500/ and so on, each with its manifest
    model.safetensors, training.json      once the budget is used up
    adapter.safetensors, start.json       of an adapter, instead of model.safetensors, and where its base is
    base.safetensors                      that base, where it was in no file

Rows, times and samples beyond the newest checkpoint are of steps that a resumed run takes again: they go when it begins
(rows), are repeated (times) or replaced (samples).
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import socket
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gendiff.config import read_json
from gendiff.errors import GendiffError
from gendiff.modelfile import write_whole

from .checkpoints import forget, newest, path_of, write_checkpoint

try:
    import fcntl
except ImportError:  # Windows has no flock; folders are not locked there
    fcntl = None

FILES = ("recipe.json", "checkpoints", "metrics.csv", "pace.f64", "samples", "tensorboard", "wandb")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STEP = re.compile("[0-9]{1,18}")
RESULTS = ("model.safetensors", "adapter.safetensors", "training.json", "start.json", "base.safetensors", "last.ckpt")


def rank() -> int:
    """Which of the processes that train together this one is; 0 leads."""
    ranks = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ]
    return int(ranks[0]) if ranks else 0


class RunError(GendiffError):
    """A run's folder that is in use, damaged, full or of another run; a training that cannot go on."""


@contextmanager
def written(what: Path | str, then: str, choose: str = "--out FOLDER") -> Iterator[None]:
    """Turns an OSError while writing into a RunError that says what stands."""
    try:
        yield
    except OSError as error:
        fix = "Make room and resume" if error.errno in FULL else f"Choose a folder that can be written: {choose}"
        raise RunError(f"{what} cannot be written ({error.strerror or error})", then, fix) from error


class Lock:
    """One process at a time: flock on a file, released by the system when the process ends, however it ends."""

    held: set[Lock] = set()  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO | None = None

    def take(self) -> None:
        """Takes the lock.

        Raises:
            RunError: If another process has it, naming that process.
        """
        if fcntl is None:
            return
        file = self.path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            who = file.read().decode(errors="replace").strip() or "another process"
            file.close()
            raise RunError(
                f"{self.path.parent} is in use by {who}",
                "one process at a time in a folder",
                "Wait for it, or stop it",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        self.file = file
        Lock.held.add(self)

    def __enter__(self) -> Lock:
        self.take()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets go of it."""
        if self.file is not None:
            self.file.truncate(0)
            self.file.close()
            self.file = None
            Lock.held.discard(self)


def let_go() -> None:
    """A forked child (a worker that loads data) must not hold its parent's locks."""
    for lock in Lock.held:
        if lock.file is not None:
            lock.file.close()
    Lock.held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=let_go)


class Folder:
    """A run's folder, held by this process.

        with Folder("runs/fashion", leader=True) as folder:
            state = folder.begin(resume=True, overwrite=False)

    Args:
        path: The folder; made if it is not there.
        leader: Whether this process writes: of several that train together, one does. Others only read.
    """

    def __init__(self, path: str | Path, *, leader: bool = True) -> None:
        self.path, self.leader = Path(path), leader
        self.checkpoints = self.path / "checkpoints"
        self.lock = Lock(self.path / ".lock")
        self.found: tuple[Path, dict[str, Any]] | None = None

    def __enter__(self) -> Folder:
        if self.leader:
            with written(self.path, "a folder that can be written"):
                self.path.mkdir(parents=True, exist_ok=True)
                self.lock.take()
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def used(self) -> list[str]:
        """The files of a run that the folder holds."""
        return [name for name in (*FILES, *RESULTS) if (self.path / name).exists()]

    def begin(self, *, resume: bool, overwrite: bool) -> list[str]:
        """Looks for what there is to resume, and refuses a folder with a run in it unless told what to do.

        Returns:
            What is worth saying: checkpoints passed over. The newest complete one is `found`, or None at the beginning.

        Raises:
            RunError: For a folder in use; one with nothing to resume; one in which all checkpoints are damaged.
        """
        said: list[str] = []
        if not resume:
            used = self.used() if self.leader else []
            if used and not overwrite:
                raise RunError(
                    f"{self.path} holds a run already ({', '.join(used)})",
                    "a folder of its own for every run",
                    "Go on with that run: --resume (resume=True); begin anew in its place: --overwrite "
                    "(overwrite=True); or name another folder",
                )
            return said
        for path, state in newest(self.checkpoints):
            if isinstance(state, dict):
                self.found = path, state
                return said
            said.append(f"{state.got}; going on from an older one.")
        if said:
            raise RunError(f"All checkpoints in {self.checkpoints} are damaged", "one that is whole", "Begin anew")
        if not (self.path / "recipe.json").exists():
            raise RunError(f"There is nothing to resume in {self.path}", "a run's folder", "Train without resuming")
        return said

    @property
    def state(self) -> dict[str, Any] | None:
        return None if self.found is None else self.found[1]

    def config(self) -> dict[str, Any]:
        """The recipe of the run that is here, as JSON-able dict: the checkpoint's, or else recipe.json's."""
        if self.state is not None:
            return self.state["recipe"]
        return read_json(self.path / "recipe.json")

    def clear(self, step: int | None = None) -> None:
        """Deletes the run that is here, or the samples it drew after a step, and nothing that is not the run's."""
        if not self.leader:
            return
        for drawn in self.path.glob("samples/step_*"):
            own = re.fullmatch(r"step_([0-9]+)", drawn.name)
            if own is not None and (step is None or int(own[1]) > step):
                shutil.rmtree(drawn)
        if step is not None:
            return
        for name in (*RESULTS, *FILES):
            path = self.path / name
            if name == "samples":
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, and then forgets all but the last two.

        Raises:
            RunError: If it cannot be written; older ones stand.
        """
        path = path_of(self.checkpoints, step)
        with written(path, "room for a checkpoint; the older ones are whole"):
            write_checkpoint(path, state)
            forget(self.checkpoints, step)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file whole."""
        with written(self.path / name, "room for a small file"):
            write_whole(self.path / name, f"{json.dumps(content, indent=2)}\n".encode())


class Table:
    """A CSV file with one row a step, appended as steps are taken; a new column rewrites it.

    Args:
        path: The file.
        step: Rows of later steps, of an interrupted run, and what is left of a cut line, go; None only looks.
    """

    def __init__(self, path: Path, step: int | None) -> None:
        self.path = path
        self.columns: list[str] = ["step"]
        if step is not None and path.exists():
            with written(path, "a table that can be read and written"):
                rows = [row for row in read_rows(path) if int(row["step"]) <= step]
                self.columns = list(dict.fromkeys(["step", *(key for row in rows for key in row)]))
                self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_whole(self.path, text.getvalue().encode())

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Appends a row."""
        line = {"step": str(step), **{key: repr(float(value)) for key, value in row.items()}}
        new = [key for key in line if key not in self.columns]
        with written(self.path, "room for a row"):
            if new or not self.path.exists():
                rows = read_rows(self.path) if self.path.exists() else []
                self.columns += new
                self._rewrite([*rows, line])
                return
            with self.path.open("a", encoding="utf8", newline="") as file:
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(line)

    def sync(self) -> None:
        """Brings the rows to the disk."""
        sync_file(self.path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a table, of which the last line may be cut."""
    text = path.read_text(encoding="utf8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole))
    width = len(reader.fieldnames or ())
    rows = [
        row
        for row in reader
        if None not in row and len(row) == width and re.fullmatch("[0-9]{1,18}", row.get("step") or "")
    ]
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def sync_file(path: Path) -> None:
    """Brings a file to the disk, if it is there."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())


class Pace:
    """The training time after each step, in seconds: measured once, written down, and from then on given.

    A learning rate planned by time, and the end of a run by time, are functions of these numbers. A resumed run repeats
    the numbers of the steps it takes again, and so their bits; only then does it measure again. A step counts no more
    than ten times the median of the last ones, or `FIRST` seconds at the start: a process that was halted for an hour
    has not trained for an hour.

    Args:
        path: Where the numbers are kept; None keeps none (processes that do not lead).
        step: Steps taken so far.
        spent: Their time, if the file does not have it.
    """

    FIRST = 10.0

    def __init__(self, path: Path | None, step: int = 0, spent: float = 0.0) -> None:
        self.path = path
        self.times = array("d")
        if path is not None and path.exists():
            data = path.read_bytes()
            self.times.frombytes(data[: len(data) // 8 * 8])
        while len(self.times) < step:
            self.times.append(spent)
        self.recent: list[float] = []
        if path is not None:
            with path.open("ab") as file:
                there = file.tell() // 8
                file.truncate(8 * there)
                file.write(self.times[there:].tobytes())

    def spent(self, step: int) -> float:
        """The training time of the first steps, in seconds."""
        return self.times[step - 1] if step else 0.0

    def known(self, step: int) -> bool:
        """Whether a step's time was written down by a run that was interrupted after it."""
        return step <= len(self.times)

    def counted(self, seconds: float) -> float:
        """How much of a step's time counts."""
        usual = sorted(self.recent)[len(self.recent) // 2] if self.recent else None
        counted = min(seconds, self.FIRST if usual is None else 10 * usual + 0.05)
        self.recent = [*self.recent[-20:], counted]
        return counted

    def add(self, spent: float) -> None:
        """Writes down the next step's time."""
        self.times.append(spent)
        if self.path is not None:
            with written(self.path, "room for 8 bytes"), self.path.open("ab", buffering=0) as file:
                file.write(array("d", [spent]).tobytes())

    def sync(self) -> None:
        """Brings the times to the disk."""
        if self.path is not None:
            sync_file(self.path)
