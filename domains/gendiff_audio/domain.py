"""Sound as a domain: a clip is its log-mel frames, standardised per bin with the mean and deviation of the training
clips,

    encode  x[k, m] = (L[k, m] - mean_m) / std_m,       decode  x -> L -> Griffin-Lim -> clip.

Frames are sites: clips of any length share a batch under a mask. A `canvas` fills every clip up with silence instead,
so that the model decides how long a sound lasts; without one, who asks for a sound also says how many seconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.conditions import Condition
from gendiff.denoisers import EDMHead
from gendiff.domain import Domain, Examples, Request
from gendiff.errors import DataError, RequestError
from gendiff.evaluation import Judge, Measure, Observer
from gendiff.evaluation.measures import each
from gendiff.guidance import Given, Measurement
from gendiff.processes import Gaussian
from gendiff.processes.schedules import EDM
from gendiff.sampling.grids import Karras
from gendiff.sampling.solvers import DPMpp2M, Solver
from gendiff_audio import io
from gendiff_audio.clip import AudioError, Clip, Gap, mono
from gendiff_audio.judge import trained_judge
from gendiff_audio.measures import measures_of, pitch
from gendiff_audio.networks import MelUNet
from gendiff_audio.phase import GriffinLim, Phase, Vocoder, waveform
from gendiff_audio.sources import ClipSource, Tones
from gendiff_audio.spectrogram import LogMel

GOLDEN = (math.sqrt(5) - 1) / 2
LOUDEST = 0.99  # of full scale: the peak of the training clips
SAID: set[str] = set()  # what has been said in this process: the texts up to their first number


@dataclass(frozen=True)
class Audio(Domain):
    """Clips of one sample rate, as standardised log-mel frames `[frames, mels]`.

    Args:
        source: where clips come from, and the names of their labels.
        spectrogram: how a waveform becomes frames.
        canvas: frames of every state: shorter clips are followed by silence, longer ones lose their end. None keeps
            each clip's length.
        mean, std: per bin, or one number for all; `fit` finds them.
        lengths: typical numbers of frames, in order; `fit` finds them. Who asks for no length gets one of these.
        asked: more that may be asked than the source says of its clips, by name.
        phase: the way back to a waveform: `GriffinLim`, or one of your own (`Vocoder` or `Phase`).

    Raises:
        AudioError: a source of another sample rate than the spectrogram's.
    """

    name: ClassVar[str] = "audio"
    ragged: ClassVar[bool] = True

    source: ClipSource = field(default_factory=Tones)
    spectrogram: LogMel = field(default_factory=LogMel)
    canvas: int | None = None
    mean: tuple[float, ...] = (-5.0,)
    std: tuple[float, ...] = (3.0,)
    lengths: tuple[int, ...] = (48,)
    phase: Vocoder | Phase = field(default_factory=GriffinLim)
    asked: Mapping[str, Condition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_dataclass(self.phase) or not (isinstance(self.phase, Vocoder) or callable(self.phase)):
            raise RequestError(
                f"Audio(phase={self.phase!r})",
                "a frozen dataclass, so that it is saved with the model: a gendiff_audio.Vocoder or Phase",
                "@dataclass(frozen=True) above class Mine(Vocoder)",
            )
        if self.source.prepare.sample_rate != self.spectrogram.sample_rate:
            got = f"clips at {self.source.prepare.sample_rate} Hz, a spectrogram at {self.spectrogram.sample_rate} Hz"
            fix = f"prepare=Prepare(sample_rate={self.spectrogram.sample_rate})"
            raise AudioError("two sample rates", got, "the same rate", fix)
        if len(self.mean) not in (1, self.spectrogram.mels) or len(self.std) != len(self.mean):
            got = f"{len(self.mean)} means and {len(self.std)} deviations"
            raise AudioError(
                "statistics of another spectrogram",
                got,
                f"1 or {self.spectrogram.mels} of each",
                "Fit the domain again.",
            )

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**self.source.conditions, **self.asked}

    @property
    def process(self) -> Gaussian:
        return Gaussian(EDM(sigma_max=40.0))

    @property
    def head(self) -> EDMHead:
        return EDMHead(sigma_data=1.0)

    def sampler(self) -> Solver:
        return DPMpp2M(12, times=Karras(sigma_min=0.01, sigma_max=40.0))

    def network(  # type: ignore[override]
        self,
        *,
        channels: Sequence[int] = (128, 160, 192),
        blocks: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
        previous: bool = False,
        jumps: bool = False,
        guided: bool = False,
    ) -> nn.Module:
        """A `MelUNet`.

        Args:
            channels: of each level; every level halves the frames.
            blocks: residual blocks of each level, on each way.
            attention: whether the coarsest level also attends over all frames.
            dropout: inside the residual blocks.
            previous: whether it is told the prediction before (self-conditioning).
            jumps: whether it is told the time to jump to (few steps).
            guided: whether it is told a guidance scale.
        """
        return MelUNet(
            self.spectrogram.mels,
            self.conditions,
            channels=channels,
            blocks=blocks,
            attention=attention,
            dropout=dropout,
            previous=previous,
            jumps=jumps,
            guided=guided,
        )

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return self.source.load(split, root)

    def encode(self, artifact: Clip) -> Tensor:
        """A clip to `[frames, mels]`, frames = ceil(n / hop), or the canvas.

        Raises:
            AudioError: another sample rate.
            RequestError: something that is no clip.
        """
        if require_clip(artifact).sample_rate != self.spectrogram.sample_rate:
            fix = f"resample(clip, {self.spectrogram.sample_rate})"
            raise AudioError("another sample rate", str(artifact), f"{self.spectrogram.sample_rate} Hz", fix)
        samples = torch.from_numpy(mono(artifact).samples[0])
        if self.canvas is not None:
            n = self.canvas * self.spectrogram.hop
            samples = torch.nn.functional.pad(samples[:n], (0, max(0, n - len(samples))))
        return (self.spectrogram.analyse(samples) - torch.tensor(self.mean)) / torch.tensor(self.std)

    def decode(self, x: Tensor) -> Clip:
        """Frames `[frames, mels]` to a clip of frames * hop samples.

        The level is the one that the frames have: no clip is turned up, and none below full scale is changed. A clip
        that would go beyond, as strong guidance makes them, is turned down to a peak of 0.99, the limit of the training
        clips, by its own gain; the first time that happens it is said (logger "gendiff_audio"), with the gain.

        Raises:
            RequestError: a vocoder that gives another number of samples.
        """
        L = x.float() * torch.tensor(self.std) + torch.tensor(self.mean)
        wave = waveform(self.phase, L.clamp_max(math.log(self.spectrogram.win)), self.spectrogram)
        if wave.shape != (len(x) * self.spectrogram.hop,):
            raise RequestError(
                f"{self.phase!r} made samples of shape {tuple(wave.shape)} of {len(x)} frames",
                f"({len(x) * self.spectrogram.hop},), a hop of {self.spectrogram.hop} for each frame",
            )
        peak = float(wave.abs().max())
        if peak > LOUDEST:
            over = 20 * math.log10(peak / LOUDEST)
            say_once(
                f"A sampled clip lies {over:.1f} dB above the peak of the training clips and is turned down by as "
                "much, as is every other that does. Less guidance keeps the level."
            )
            wave = wave * (LOUDEST / peak)
        return Clip(wave.numpy(), self.spectrogram.sample_rate)

    def cut(self, x: Tensor) -> float:
        """The share of bands more than 1 dB above the loudest sound at full scale."""
        bands = x.float() * torch.tensor(self.std) + torch.tensor(self.mean) - math.log(self.spectrogram.win)
        return float((bands > math.log(10) / 20).float().mean())

    def with_statistics(self, other: Domain) -> Audio:
        """The same with mean and std of another.

        Raises:
            RequestError: another spectrogram.
        """
        assert isinstance(other, Audio)
        if other.spectrogram != self.spectrogram:
            raise RequestError(f"frames of {other.spectrogram!r}", f"those of {self.spectrogram!r}")
        return replace(self, mean=other.mean, std=other.std)

    def fit(self, artifacts: Sequence[Clip]) -> Audio:
        """The same domain with mean, std and lengths of these clips, in two passes over them, of which nothing is held.
        Sums are exact, so their order does not matter.

        Raises:
            DataError: no clips.
        """
        if not len(artifacts):
            raise DataError("no clips to fit", "the training clips")
        raw, sizes = replace(self, mean=(0.0,), std=(1.0,)), []

        def sums(take: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
            sizes.clear()
            for clip in artifacts:
                x = raw.encode(clip).double()
                sizes.append(len(x))
                yield take(x).sum(0)

        mean = torch.tensor(_exact(sums(lambda x: x)), dtype=torch.float64) / sum(sizes)
        variance = torch.tensor(_exact(sums(lambda x: (x - mean).square())), dtype=torch.float64) / sum(sizes)
        std = variance.sqrt().clamp_min(1e-3)
        frames = np.sort(sizes)
        lengths = tuple(int(frames[int(q * len(frames))]) for q in (np.arange(32) + 0.5) / 32)
        rounded = [tuple(round(float(value), 5) for value in values) for values in (mean, std)]
        return replace(self, mean=rounded[0], std=rounded[1], lengths=lengths)

    def request(self, n: int, *, seconds: float | Sequence[float | None] | None = None, **what: Any) -> Request:
        """n clips of so many seconds (a number, or one each; None: lengths as in training), with what else
        may be asked (`conditions`).

        Raises:
            RequestError: an unknown label or class, or seconds that are not positive, or given beside a canvas.
        """
        sizes = self._frames(n, seconds)
        cond, frames = self.encode_conditions(n, sites=(max(sizes),), lengths=sizes, **what), torch.tensor(sizes)
        cond["mask"] = torch.arange(int(frames.max()))[None] < frames[:, None]
        return Request(torch.zeros(n, int(frames.max()), self.spectrogram.mels), cond)

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """A recording with a gap (`Clip.without`), as well as the core's own words; the samples are as long as it is.

        Raises:
            RequestError: a whole recording, no frame outside of the gap or none inside, or other `seconds`.
            AudioError: a recording of another sample rate.
        """
        if isinstance(given, Clip):
            fix = "given=clip.without(0.10, 0.20), or start=clip"
            raise RequestError("given=, a whole recording", "one of which a part is missing", fix)
        if not isinstance(given, Gap):
            return super().known(given, what)
        x0 = self.encode(given.clip)
        keep = self.spectrogram.outside(given, len(x0))
        if not keep.any() or keep.all():
            where = "all frames" if not keep.any() else f"none of the {len(x0)} frames of the canvas"
            raise RequestError(
                f"the gap from {given.start} to {given.stop} s touches {where} of {given.clip}",
                "a gap with sound beside it" if not keep.any() else "a gap within the canvas",
            )
        asked = dict(what)
        if self.canvas is None:
            seconds = asked.get("seconds")
            count = len(seconds) if isinstance(seconds, Sequence) else 1
            if seconds is not None and set(self._frames(count, seconds)) != {len(x0)}:
                raise RequestError(
                    f"seconds={seconds} beside a recording of {given.clip.seconds:.3f} s", "no seconds beside a gap"
                )
            asked["seconds"] = given.clip.seconds
        return Given(x0[None], keep[None, :, None]), asked

    def size_of(self, artifact: Clip) -> dict[str, Any]:
        return {} if self.canvas is not None else {"seconds": require_clip(artifact).seconds}

    def size_for(self, sites: int) -> dict[str, Any]:
        return {} if self.canvas is not None else {"seconds": sites / self.spectrogram.rate}

    def _frames(self, n: int, seconds: float | Sequence[float | None] | None) -> list[int]:
        if n < 1:
            raise RequestError(f"{n} clips", "at least one")
        if self.canvas is not None:
            if seconds is not None:
                fixed = self.canvas / self.spectrogram.rate
                raise RequestError(
                    f"seconds={seconds}",
                    f"none: this model has a canvas of {fixed:.3f} s and decides itself how much it fills",
                )
            return [self.canvas] * n
        # The i-th clip's usual length depends on i alone; together they are spread as in training.
        usual = [self.lengths[int((i + 1) * GOLDEN % 1 * len(self.lengths))] for i in range(n)]
        asked = [seconds] * n if isinstance(seconds, int | float | None) else list(seconds)
        if len(asked) != n or not all(value is None or 0 < value <= 60 for value in asked):
            raise RequestError(
                f"seconds={seconds} for {n} clips",
                "a number of seconds from 0 to 60, or one for each clip",
                "seconds=0.8",
            )
        sizes = [None if value is None else round(value * self.spectrogram.sample_rate) for value in asked]
        return [
            u if size is None else max(1, self.spectrogram.frames(size)) for u, size in zip(usual, sizes, strict=True)
        ]

    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Seconds of the shortest and longest typical clip in training; none with a canvas, which takes no seconds."""
        spans = [frames / self.spectrogram.rate for frames in self.lengths]
        return {} if self.canvas is not None else {"seconds": (min(spans), max(spans))}

    def metrics(self) -> dict[str, Measure]:
        """What needs no trained model (see `gendiff_audio.measures`); the judge "classifier" says more."""
        return {measure.name: measure for measure in measures_of(self.spectrogram)}

    def judges(self) -> Mapping[str, Callable[[Examples, Examples], Judge]]:
        """A classifier of all labels trained on real clips, of domains with labels."""
        return {"classifier": partial(trained_judge, self.labels)} if self.labels else {}

    def observed(self) -> Mapping[str, Observer]:
        """The pitch that is heard, where one may be asked for: by autocorrelation."""
        return {"pitch": partial(each, pitch)} if "pitch" in self.conditions else {}

    def read(self, path: str | Path) -> Clip:
        return io.read(path)

    def write(self, artifact: Clip, path: str | Path) -> None:
        io.write(artifact, path)

    def plot(self, artifacts: Sequence[Clip], path: str | Path, *, labels: Sequence[str] | None = None) -> None:
        """A sheet of spectrograms (PNG), on one scale of decibels, seconds to the right and hertz upwards."""
        from .plots import sheet

        sheet(artifacts, self.spectrogram, path, titles=labels or ())

    @property
    def suffix(self) -> str:
        return ".wav"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return (".wav", ".flac")


def require_clip(artifact: Any) -> Clip:
    """The artifact itself, or a RequestError that says how to read one."""
    if not isinstance(artifact, Clip):
        raise RequestError(f"a recording of type {type(artifact).__name__}", "a Clip", 'read("a.wav")')
    return artifact


def say_once(text: str) -> None:
    """Logs a warning, the first time that one of its kind comes in this process."""
    kind = text.partition(" lies ")[0]
    if kind not in SAID:
        SAID.add(kind)
        logging.getLogger("gendiff_audio").warning(text)


def _exact(rows: Iterable[Tensor]) -> list[float]:
    """Sums over rows, correctly rounded (Shewchuk 1997) and hence independent of their order."""
    return [math.fsum(column) for column in torch.stack(list(rows)).T.tolist()]
