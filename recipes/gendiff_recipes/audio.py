"""Recipes for sound: a 1-D U-Net over log-mel frames with EDM's preconditioning, lengths by mask, labels dropped."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

from gendiff.conditions import Label
from gendiff.errors import DataError
from gendiff.latents import KL, Reconstruction
from gendiff.sampling.grids import Karras
from gendiff.sampling.solvers import DPMpp2M
from gendiff.training import LogNormal, MeanFlow
from gendiff_audio import FSDD, Audio, LogMel, Prepare, Sounds, Speech, Tones

from .fewstep import student
from .recipe import CodecRecipe, Optimizer, Recipe, Trainer, home_of, table_of


def tones() -> Recipe:
    """Plucked strings and vowels, made on the fly: two minutes on a laptop's processor."""
    return Recipe(
        "audio.tones",
        Audio(source=Tones()),
        network={"channels": (64, 96, 128)},
        times=LogNormal(0.2, 1.2),
        ema=0.998,
        optimizer=Optimizer(lr=4e-3, warmup=50),
        trainer=Trainer(steps=2500, minutes=2, batch=16, show=500, samples=12),
        guidance=1.5,
    )


def fsdd() -> Recipe:
    """Spoken digits by six speakers: twelve minutes on two cores. Measured in benchmarks/results/quality_fsdd.json."""
    return Recipe(
        "audio.fsdd",
        Audio(source=FSDD()),
        network={"channels": (128, 160, 192), "blocks": 1},
        times=LogNormal(0.2, 1.2),
        ema=0.998,
        optimizer=Optimizer(lr=1.5e-3, warmup=100),
        trainer=Trainer(steps=4000, minutes=12, batch=32, show=500, samples=20),
        guidance=1.5,
    )


def fsdd_meanflow() -> Recipe:
    """Spoken digits in 1 to 4 evaluations: gendiff train audio.fsdd_meanflow --from runs/audio.fsdd.

    Twelve minutes on one core, as long as its teacher. Measured in benchmarks/results/fewstep_fsdd.json.
    """
    method = MeanFlow(same=0.25, zero=0.3, guidance=1.5)
    return student(fsdd(), method, 4, name="audio.fsdd_meanflow", optimizer=Optimizer(lr=3e-4, warmup=100))


def _voice() -> Audio:
    """Frames of a voice."""
    frames = LogMel(sample_rate=22050, n_fft=1024, win=1024, hop=256, mels=80, high=8000.0, floor=1e-3)
    return Audio(source=Speech(), spectrogram=frames)


def speech() -> Recipe:
    """A voice that says phonemes: 45 minutes on one core. Measured in benchmarks/results/asked_speech.json."""
    return Recipe(
        "audio.speech",
        _voice(),
        network={"channels": (160, 192, 224), "blocks": 1, "attention": True, "dropout": 0.05},
        times=LogNormal(0.0, 1.3),
        drop=0.1,
        ema=0.998,
        optimizer=Optimizer(lr=1.5e-3, warmup=100),
        trainer=Trainer(steps=20_000, minutes=45, batch=16, show=0),
        # Below 0.2 a network of some minutes adds noise of its own: frames changed 1.19 times as much as real ones.
        sampler=DPMpp2M(12, times=Karras(sigma_min=0.2, sigma_max=40.0)),
        guidance=1.5,
    )


def codec() -> CodecRecipe:
    """A codec of a voice's frames, 4 x 80 to 40 numbers: a quarter of an hour on one core. Measured in
    benchmarks/results/asked_speech.json.
    """
    return CodecRecipe(
        "audio.codec",
        _voice(),
        network={"latent": 40, "stride": 4, "widths": (160, 224), "blocks": 1, "deep": 2},
        loss=Reconstruction(l1=0.5, l2=1.0),
        bottleneck=KL(1e-4, std=0.1),
        ema=0.995,
        optimizer=Optimizer(lr=1e-3, warmup=50, decay=0.5),
        trainer=Trainer(steps=100000, minutes=15, batch=16, show=0, precision="float32"),
    )


SPECTROGRAMS = (
    LogMel(),
    LogMel(sample_rate=16000, n_fft=1024, win=800, hop=256, mels=80),
    LogMel(sample_rate=22050, n_fft=1024, win=1024, hop=256, mels=80),
    LogMel(sample_rate=44100, n_fft=2048, win=2048, hop=512, mels=128),
)
LONGEST = 600  # frames of a clip


def folder(
    path: str,
    *,
    labels: str = "",
    columns: str = "",
    rate: int | None = None,
    conditions: str = "",
    ask: str = "",
) -> Recipe:
    """Recordings of your own: gendiff train audio.folder PATH; sub-folders are classes. Twelve minutes on two cores.

    Args:
        path: A folder of sounds, or a tar archive of one.
        labels: A CSV table with the columns path and label, instead of sub-folders.
        columns: Of the table, the classes, "digit,speaker"; without it label.
        rate: 8000, 16000, 22050 or 44100 Hz; without it the highest that most recordings have.
        conditions: A CSV or JSONL table with the column path: every other column may be asked (numbers, classes,
            texts); "txt" for a text NAME.txt beside each recording.
        ask: Columns of it, "pitch,kind:label"; all by default. A kind that is not said follows from the values.
    """
    chosen = tuple(name.strip() for name in columns.split(",") if name.strip()) or ("label",)
    home = home_of(path)
    rates = [spectrogram.sample_rate for spectrogram in SPECTROGRAMS]
    if rate is None:
        rate = max([r for r in rates if r <= _usual_rate(home)], default=rates[0])
    if rate not in rates:
        raise DataError(f"audio.folder got rate={rate}", f"one of {', '.join(map(str, rates))} Hz")
    spectrogram = SPECTROGRAMS[rates.index(rate)]
    prepare = Prepare(sample_rate=rate, longest=LONGEST * spectrogram.hop / rate)
    table: dict[str, Any] = {"manifest": str(Path(labels).resolve()), "columns": chosen} if labels else {}
    table |= table_of(conditions, ask)
    domain = Audio(source=Sounds(str(home), prepare=prepare, **table), spectrogram=spectrogram)
    asked = any(not isinstance(own, Label) or len(own.classes) > 1 for own in domain.conditions.values())
    return Recipe(
        "audio.folder",
        domain,
        network={"channels": (128, 160, 192), "blocks": 1},
        times=LogNormal(0.2, 1.2),
        drop=0.1 if asked else 0.0,
        ema=0.995,
        optimizer=Optimizer(lr=1.5e-3, warmup=50),
        trainer=Trainer(steps=100_000, minutes=12, batch=16, show=500, samples=12),
        guidance=1.5 if asked else 1.0,
    )


def _usual_rate(home: Path, most: int = 200) -> int:
    """The sample rate that most recordings of a folder or archive have, from some of them.

    Raises:
        DataError: If none can be read.
    """
    import soundfile

    from gendiff_audio.io import Members

    found = list(Members(home))
    rates: Counter[int] = Counter()
    for _, item in found[:: max(1, len(found) // most)]:
        try:
            rates[soundfile.info(io.BytesIO(item) if isinstance(item, bytes) else item).samplerate] += 1
        except (soundfile.SoundFileError, RuntimeError):
            continue  # the source counts it among the rejected, with the reason
    if not rates:
        raise DataError(f"There are no recordings in {home}", "WAV, FLAC, OGG or MP3 files")
    return rates.most_common(1)[0][0]
