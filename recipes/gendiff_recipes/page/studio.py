"""Draws what the page asks for, one request at a time.

All that touches the model happens in one thread, that of `work`: requests come through a queue, progress is read by
others. So the samples are those of the shell bit for bit, and Ctrl-C in that thread ends a sampling as it ends any.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import shutil
import threading
import time
import traceback
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gendiff.cli.commands import draw_into
from gendiff.errors import GendiffError, RequestWarning
from gendiff.model import Model
from gendiff.samples import SampleFolder, captions
from gendiff_recipes.report import templates
from gendiff_recipes.showing import shown

from .asking import FORM, Asked, Refused, Uploads, read_form
from .fields import fields
from .lines import python_lines

KEPT = 8  # results that can still be looked at
WAKE = 0.25  # seconds between looks at whether Ctrl-C came: waiting for a queue may not be interrupted
ENDED = ("done", "failed", "cancelled", "refused")


class Busy(Exception):
    """Another request is being answered."""


class Cancelled(Exception):
    """The person does not want it any more."""


class Job:
    """A request, and what became of it.

    Attributes:
        state: "waiting", "drawing", or one of `ENDED`.
        share: Of the drawing that is done.
        message: Why it failed.
        errors: What is wrong with it, by field.
        checked: Set when it is known whether it will be drawn.
        stop: Set when it shall not go on.
        result: What the page shows of it.
        files: Those of the download, by their names in it.
    """

    def __init__(self, form: Mapping[str, Any], folder: Path) -> None:
        self.form, self.folder = form, folder
        self.key, self.state, self.share, self.message = folder.name, "waiting", 0.0, ""
        self.errors: dict[str, str] = {}
        self.checked, self.stop = threading.Event(), threading.Event()
        self.since, self.seconds = time.monotonic(), 0.0
        self.result: dict[str, Any] = {}
        self.files: dict[str, Path] = {}

    def tick(self, share: float) -> None:
        """Notes the share done, and ends the drawing where that is wanted."""
        self.share, self.seconds = min(1.0, share), time.monotonic() - self.since
        if self.stop.is_set():
            raise Cancelled

    def end(self, state: str, message: str = "") -> None:
        """Notes how it ended."""
        self.seconds = time.monotonic() - self.since
        self.message, self.state = message, state
        self.checked.set()

    def status(self) -> dict[str, Any]:
        """How far it is."""
        return {
            "job": self.key, "state": self.state, "share": self.share, "seconds": round(self.seconds, 1),
            "message": self.message,
        }  # fmt: skip


class Studio:
    """A model that draws what it is asked for.

    Args:
        model: Which draws.
        path: Its file, as it shall stand in the lines that repeat a sample.
        device: As `gendiff ui` was told.
        home: A folder of its own.
    """

    def __init__(self, model: Model, path: Path, device: str, home: Path) -> None:
        self.model, self.path, self.device, self.home = model, path, device, home
        self.fields = fields(model)
        self.uploads = Uploads(home / "uploads")
        self.jobs: dict[str, Job] = {}
        self.queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.lock = threading.Lock()

    @property
    def last(self) -> Job | None:
        """The newest request."""
        return next(reversed(self.jobs.values()), None)

    def ask(self, form: Mapping[str, Any]) -> Job:
        """Hands in a request.

        Raises:
            Busy: While another is being answered.
        """
        with self.lock:
            last = self.last
            if last is not None and last.state not in ENDED:
                raise Busy(f"A sampling is under way ({last.share:.0%} done). Wait for it, or cancel it.")
            if last is not None and last.state == "refused":
                self.jobs.pop(last.key)
            job = Job(form, self.home / secrets.token_hex(8))
            self.jobs[job.key] = job
            while len(self.jobs) > KEPT:
                shutil.rmtree(self.jobs.pop(next(iter(self.jobs))).folder, ignore_errors=True)
        self.queue.put(job)
        return job

    def work(self) -> None:
        """Answers requests until `stop`, in this thread."""
        while True:
            try:
                job = self.queue.get(timeout=WAKE)
            except queue.Empty:
                continue
            if job is None:
                return
            self.answer(job)

    def stop(self) -> None:
        """Ends `work` when the request in work is answered."""
        self.queue.put(None)

    def answer(self, job: Job) -> None:
        """Checks a request and draws it; whatever goes wrong is told to the page."""
        try:
            self.draw(job)
            state, message = "done", ""
        except Refused as refused:
            job.errors = refused.errors
            state, message = "refused", job.errors.get(FORM, "")
        except Cancelled:
            state, message = "cancelled", ""
        except GendiffError as error:
            state, message = "failed", self.without_paths(str(error))
        except Exception as error:  # noqa: BLE001  a domain of a stranger's may raise anything; the page stays
            traceback.print_exc()
            state, message = "failed", self.without_paths(f"{type(error).__name__}: {error}")
        if state != "done":
            shutil.rmtree(job.folder, ignore_errors=True)
        job.end(state, message)

    def draw(self, job: Job) -> None:
        """Checks a request, draws it, and prepares what the page shows of it."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            asked = read_form(self.model, self.path, self.device, self.fields, job.form, dict(self.uploads.kept))
            job.state = "drawing"
            job.checked.set()
            progress = contextlib.nullcontext(job.tick)
            folder = draw_into(self.model, asked.args, asked.options, job.folder / "samples", progress)
        texts = {str(one.message): None for one in said if issubclass(one.category, RequestWarning)}
        job.files = {f"samples/{name}": folder.folder / name for name in ("manifest.json", *folder.manifest["files"])}
        job.files |= {upload.name: self.kept_upload(job, upload.path) for upload in asked.uploads.values()}
        job.result = self.result(job, asked, folder, list(texts))

    def kept_upload(self, job: Job, path: Path) -> Path:
        """A copy of an upload beside the samples that were drawn with it."""
        return Path(shutil.copy(path, job.folder / path.name))

    def without_paths(self, text: str) -> str:
        """A text without the folder in which all this happens."""
        return text.replace(str(self.home), "...")

    def result(self, job: Job, asked: Asked, folder: SampleFolder, said: list[str]) -> dict[str, Any]:
        """What the page shows."""
        words = captions(self.model.domain, asked.options["plan"], asked.args.n)
        block = shown("Samples", self.model.domain, folder.artifacts, words).view()
        html = templates().get_template("result.html.j2").render(
            rows=[[block]], said=said, shell=asked.args.command, python=python_lines(self.model, asked),
            key=job.key, files=[upload.name for upload in asked.uploads.values()],
            n=asked.args.n, seconds=round(time.monotonic() - job.since, 1),
        )  # fmt: skip
        return {"html": html, "solid": block["kind"] == "structures"}

    def download(self, job: Job) -> Path:
        """The files of a result as one zip."""
        path = job.folder / "samples.zip"
        with self.lock:
            if not path.exists():
                part = path.with_suffix(".part")
                with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name, file in job.files.items():
                        archive.write(file, name)
                part.replace(path)
        return path
