"""A classifier that never saw a generated sound, to ask whether samples are what they were asked to be.

It hears waveforms, by a log-mel analysis of its own, and answers every label of the data at once; the activations
before its answers are the features in which sets of sounds are compared. Trained on real clips only, each time
shifted, stretched, scaled, noisy and with a band missing, so that it listens to the sound and not to the recording.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gendiff import evaluation
from gendiff.conditions import Label
from gendiff.domain import Example, Examples
from gendiff.errors import CheckpointError, DataError
from gendiff.evaluation import frechet
from gendiff.evaluation.measures import between
from gendiff.files import cache_folder
from gendiff_audio.clip import Clip, mono
from gendiff_audio.resample import resample
from gendiff_audio.spectrogram import LogMel


class JudgeNetwork(nn.Module):
    """Log-mel `[B, frames, mels]` to features `[B, width]` and, per label, logits `[B, classes]`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, mels: int, classes: Mapping[str, int], *, channels: Sequence[int] = (16, 32, 64, 96), width: int = 96
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip((1, *channels[:-1]), channels, strict=True)):
            shrink = nn.Identity() if i == 0 else nn.MaxPool2d(2)
            convolution = nn.Conv2d(
                a, b, 5 if i == 0 else 3, stride=2 if i == 0 else 1, padding=2 if i == 0 else 1, bias=False
            )
            layers += [convolution, nn.BatchNorm2d(b), nn.ReLU(), shrink]
        self.body = nn.Sequential(*layers)
        self.project = nn.LazyLinear(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})
        self.register_buffer("mean", torch.zeros(mels))
        self.register_buffer("std", torch.ones(mels))
        self.features(torch.zeros(2, 32, mels))  # lets the projection learn how many bands are left

    def features(self, L: Tensor) -> Tensor:
        h = self.body(((L - self.mean) / self.std)[:, None])
        return F.relu(self.project(h.mean(2).flatten(1)))  # averaged over time, not over frequency

    def forward(self, L: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.features(L)
        return h, {name: head(F.dropout(h, 0.2, self.training)) for name, head in self.heads.items()}


@dataclass(frozen=True, eq=False)
class Judge:
    """A trained `JudgeNetwork`, the names of what it tells apart, and how it listens."""

    network: JudgeNetwork
    labels: Mapping[str, tuple[str, ...]]
    spectrogram: LogMel = field(default_factory=LogMel)
    frames: int = 64

    @staticmethod
    def fit(
        examples: Sequence[Example],
        labels: Mapping[str, tuple[str, ...]],
        *,
        spectrogram: LogMel | None = None,
        frames: int = 64,
        epochs: int = 12,
        batch: int = 64,
        rate: float = 4e-3,
        seed: int = 0,
    ) -> Judge:
        """A judge of real clips and their labels; the same seed gives the same judge.

        Raises:
            DataError: fewer clips than one batch needs.
        """
        if len(examples) < 2:
            raise DataError(f"{len(examples)} clips to train a judge on", "at least two")
        mel = spectrogram or LogMel()
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = JudgeNetwork(mel.mels, {name: len(values) for name, values in labels.items()})
            judge = Judge(network, dict(labels), mel, frames)
            L = judge.hear([example.artifact for example in examples])
            network.mean.copy_(L.mean((0, 1)))
            network.std.copy_(L.std((0, 1)).clamp_min(1e-3))
            truth = {name: torch.tensor([int(example.cond[name]) for example in examples]) for name in labels}
            batch = min(batch, len(examples))
            steps = epochs * (len(examples) // batch)
            optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
            network.train()
            for _ in range(epochs):
                for rows in torch.randperm(len(L), generator=generator).split(batch):
                    if len(rows) == batch:
                        _, logits = network(augment(L[rows], float(np.log(mel.floor)), generator))
                        loss = sum(
                            F.cross_entropy(logits[name], truth[name][rows], label_smoothing=0.05) for name in labels
                        )
                        optimizer.zero_grad()
                        torch.as_tensor(loss).backward()
                        optimizer.step()
                        schedule.step()
        network.eval().requires_grad_(False)
        return judge

    def hear(self, clips: Sequence[Clip]) -> Tensor:
        """Clips to log-mel `[n, frames, mels]`: cut to `frames`, or filled up with silence."""
        n = self.frames * self.spectrogram.hop
        x = torch.zeros(len(clips), n)
        for row, clip in zip(x, clips, strict=True):
            samples = resample(mono(clip), self.spectrogram.sample_rate).samples[0, :n]
            row[: len(samples)] = torch.from_numpy(samples)
        return torch.cat([self.spectrogram.analyse(part) for part in x.split(64)])

    @torch.no_grad()
    def _listen(self, clips: Sequence[Clip]) -> tuple[Tensor, dict[str, Tensor]]:
        parts = [self.network(part) for part in self.hear(clips).split(64)]
        return torch.cat([h for h, _ in parts]), {
            name: torch.cat([p[name] for _, p in parts]).softmax(-1) for name in self.labels
        }

    def probabilities(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Per label, `[n, classes]`."""
        return self._listen(clips)[1]

    def accuracy(self, clips: Sequence[Clip], labels: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Per label, the share of clips heard as what they should be."""
        heard = self.probabilities(clips)
        return {
            name: float((heard[name].argmax(-1) == torch.as_tensor(want)).double().mean())
            for name, want in labels.items()
        }

    def features(self, clips: Sequence[Clip]) -> np.ndarray:
        """Activations before the answers, `[n, width]`."""
        return self._listen(clips)[0].double().numpy()

    def distance(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> float:
        """Frechet distance between two sets of clips in the judge's features."""
        return frechet(self.features(clips), self.features(reference))

    def inception(self, clips: Sequence[Clip], label: str) -> float:
        """exp E KL(p(y | x) || p(y)): the number of classes for clips that are all clear and evenly spread, 1 at
        worst.
        """
        p = self.probabilities(clips)[label].double().clamp_min(1e-12)
        return float((p * (p / p.mean(0)).log()).sum(-1).mean().exp())

    def save(self, path: str | Path) -> None:
        """Weights as safetensors, with the labels and the analysis in the header."""
        config = {
            "labels": {k: list(v) for k, v in self.labels.items()},
            "spectrogram": asdict(self.spectrogram),
            "frames": self.frames,
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous() for k, v in self.network.state_dict().items()}, path, {"judge": json.dumps(config)}
        )

    @staticmethod
    def load(path: str | Path) -> Judge:
        """The judge that `save` wrote.

        Raises:
            CheckpointError: not a judge.
        """
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("judge")
            if header is None:
                raise CheckpointError(
                    f"{path}", "a judge, as Judge.save writes it", "Train one with Judge.fit and save it."
                )
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no mapping
        config = json.loads(header)
        mel, labels = LogMel(**config["spectrogram"]), {k: tuple(v) for k, v in config["labels"].items()}
        network = JudgeNetwork(mel.mels, {name: len(values) for name, values in labels.items()})
        network.load_state_dict(weights)
        return Judge(network.eval().requires_grad_(False), labels, mel, config["frames"])


def augment(L: Tensor, silence: float, generator: torch.Generator) -> Tensor:
    """Other versions of log-mel `[B, frames, mels]`: stretched by up to 15 %, shifted by 6 frames, scaled by 6 dB,
    noisy, one band gone.
    """
    B, T, M = L.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(B, *shape, generator=generator)

    at = (torch.arange(T) - uniform(-6, 6, 1)) * uniform(0.85, 1.15, 1)
    low = at.floor().clamp(0, T - 2).long()
    below, above = (L.gather(1, i[..., None].expand(-1, -1, M)) for i in (low, low + 1))
    y = torch.lerp(below, above, (at - low)[..., None].clamp(0, 1))
    y = torch.where(((at >= 0) & (at <= T - 1))[..., None], y, silence)
    y = y + uniform(-0.7, 0.7, 1, 1)
    y = torch.logaddexp(y, uniform(silence, -4.0, 1, 1) + (0.05 + uniform(0, 1, T, M)).log())
    start, width = uniform(0, M, 1), uniform(0, 8, 1) * (uniform(0, 1, 1) < 0.5)
    band = (torch.arange(M) >= start) & (torch.arange(M) < start + width)
    return torch.where(band[:, None], silence, y).clamp_min(silence)


def trained_judge(labels: Mapping[str, tuple[str, ...]], train: Examples, test: Examples) -> evaluation.Judge:
    """A classifier of all labels trained on real clips, and how well it knows others; kept on disk between uses.

    Args:
        labels: The names of their values, by condition.
        train: What it learns from.
        test: What it is tried on.
    """

    def known(examples: Examples) -> list[Example]:
        numbers = {name: Label(values) for name, values in labels.items()}
        said = [{name: own.number(cond.get(name)) for name, own in numbers.items()} for cond in examples.conds]
        whole = [i for i, own in enumerate(said) if all(own[name] < len(labels[name]) for name in labels)]
        return [Example(examples[i].artifact, said[i]) for i in whole]

    taught = known(train)
    found = hashlib.sha256(repr(sorted(labels.items())).encode())
    for example in taught:
        found.update(example.artifact.samples.tobytes() + repr((example.artifact.sample_rate, example.cond)).encode())
    path = cache_folder() / "judges" / f"{found.hexdigest()[:24]}.safetensors"
    if path.exists():
        judge = Judge.load(path)
    else:
        judge = Judge.fit(taught, labels)
        judge.save(path)
    tried = known(test)
    right = judge.accuracy([e.artifact for e in tried], {name: [int(e.cond[name]) for e in tried] for name in labels})
    width = judge.network.project.out_features
    return evaluation.Judge(
        "classifier",
        (between("frechet", partial(vectors, judge), frechet, least=width + 1),),
        {name: partial(heard, judge, name) for name in labels},
        {"accuracy on real test clips": right, "n": len(tried), "trained on": len(taught)},
    )


def vectors(judge: Judge, clips: Sequence[Clip]) -> list[np.ndarray]:
    """The features of each clip."""
    return list(judge.features(clips))


def heard(judge: Judge, label: str, clips: Sequence[Clip]) -> list[str]:
    """What each clip is heard as."""
    return [judge.labels[label][k] for k in judge.probabilities(clips)[label].argmax(-1).tolist()]
