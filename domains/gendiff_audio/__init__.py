"""Audio for gendiff: clips, log-mel spectrograms there and back, synthesised and recorded sounds, and a judge of
samples.

read, write, Clip, resample      sound files and sounds
LogMel, GriffinLim, Vocoder      frames from waveforms, waveforms from frames
Tones, FSDD, Speech, Sounds, Prepare  where clips come from, and what is done to them
Audio                            the domain
Judge                            is a sample what it was asked to be?
"""

from __future__ import annotations

from gendiff_audio.clip import AudioError, Clip, Gap, mono
from gendiff_audio.domain import Audio
from gendiff_audio.io import read, write
from gendiff_audio.judge import Judge
from gendiff_audio.networks import MelUNet
from gendiff_audio.phase import GriffinLim, Vocoder
from gendiff_audio.plots import sheet
from gendiff_audio.prepare import Prepare
from gendiff_audio.resample import resample
from gendiff_audio.sources import FSDD, ClipSource, Sounds, Tones
from gendiff_audio.spectrogram import LogMel
from gendiff_audio.speech import Speech
from gendiff_audio.synthesis import string, vowel

__all__ = [
    "FSDD",
    "Audio",
    "AudioError",
    "Clip",
    "ClipSource",
    "Gap",
    "GriffinLim",
    "Judge",
    "LogMel",
    "MelUNet",
    "Prepare",
    "Sounds",
    "Speech",
    "Tones",
    "Vocoder",
    "mono",
    "read",
    "resample",
    "sheet",
    "string",
    "vowel",
    "write",
]
