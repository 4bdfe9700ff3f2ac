"""A corpus of noisy and clean utterances at hard levels, in the manner of VB-DemandEx (arXiv 2507.00966).

The paper says that it extends VoiceBank+DEMAND by lower signal-to-noise ratios and by harder noise, not how. This is a
reconstruction: a grid from -10 to 20 dB on the active level of speech; recorded noise, babble of six voices or more,
and noise of the spectrum of speech; no voice and no stretch of noise in two splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from harken.data.audio import Audio, read, write
from harken.data.mixing import Recordings, Waveform, audio_files, noise_gain, rms
from harken.data.noises import average_power, noise_with_power
from harken.errors import InputError
from harken.whole_files import write_text

Kind = Literal["recorded", "babble", "speech-shaped"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_HEARD_SECONDS = 60.0  # of speech from which the average spectrum is taken


@dataclass(frozen=True)
class CorpusConfig:
    """How utterances are made noisy.

    Attributes:
        sample_rate: of all files.
        snrs: the grid, in dB on the active level of the speech; each utterance takes one at random.
        kinds: of noise, each as often as the others.
        talkers: fewest and most voices of a babble.
        shares: of the voices, and of the length of every noise recording, for each split.
        peak: the loudest sample of a pair; louder pairs are turned down, both sides alike.
        seed: of all choices.
    """

    sample_rate: int = 16000
    snrs: tuple[float, ...] = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
    kinds: tuple[Kind, ...] = KINDS
    talkers: tuple[int, int] = (6, 10)
    shares: tuple[tuple[str, float], ...] = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
    peak: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.snrs or not all(-100 <= snr <= 100 for snr in self.snrs):
            raise InputError(f"expected ratios from -100 to 100 dB, got {self.snrs}")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise InputError(f"expected kinds of noise among {', '.join(KINDS)}, got {', '.join(self.kinds)}")
        if not 1 <= self.talkers[0] <= self.talkers[1]:
            raise InputError(f"talkers is a range, low before high, got {self.talkers}")
        if not self.shares or min(share for _, share in self.shares) <= 0:
            raise InputError(f"expected a positive share for each split, got {dict(self.shares)}")
        if self.sample_rate < 1 or not 0 < self.peak <= 1:
            raise InputError(f"expected a positive rate and a peak up to 1, got {self.sample_rate} Hz and {self.peak}")


def voice_of(path: Path) -> str:
    """Who speaks, by the file's name up to the first ``_`` or ``-``: ``p232`` of ``p232_001.wav``.

    >>> voice_of(Path("voices/p232_001.wav")), voice_of(Path("5694-64038-0001.flac"))
    ('p232', '5694')
    """
    return re.split(r"[_-]", path.stem, maxsplit=1)[0]


def split_voices(
    paths: Sequence[Path], config: CorpusConfig, voice: Callable[[Path], str] = voice_of
) -> dict[str, Any]:
    """The recordings of each split, by voice: ``{"train": {"p225": [...]}}``; every voice is in one split.

    Raises:
        InputError: fewer voices than splits.
    """
    voices: dict[str, list[Path]] = {}
    for path in paths:
        voices.setdefault(voice(path), []).append(path)
    names = sorted(voices)
    if len(names) < len(config.shares):
        raise InputError(
            f"{len(names)} voices cannot fill {len(config.shares)} splits: give more, with the voice's name first in "
            "the name of each file"
        )
    np.random.default_rng(config.seed).shuffle(names)
    split: dict[str, Any] = {}
    for name, (first, last) in _edges(config, len(names)).items():
        split[name] = {voice: sorted(voices[voice]) for voice in sorted(names[first:last])}
    return split


def _edges(config: CorpusConfig, count: int) -> dict[str, tuple[int, int]]:
    """Where each split begins and ends among ``count`` voices, at least one each."""
    shares = np.array([share for _, share in config.shares])
    ends = np.round(np.cumsum(shares) / shares.sum() * count).astype(int)
    for place in range(len(ends)):
        ends[place] = min(max(ends[place], place + 1), count - (len(ends) - 1 - place))
        if place:
            ends[place] = max(ends[place], ends[place - 1] + 1)
    starts = [0, *ends[:-1]]
    return {name: (int(a), int(b)) for (name, _), a, b in zip(config.shares, starts, ends, strict=True)}


def make_corpus(
    clean: Path | str,
    noise: Path | str | None,
    out: Path | str,
    config: CorpusConfig | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> dict[str, int]:
    """Write ``out/<split>/{noisy,clean}/<name>.flac`` and ``out/<split>/manifest.jsonl``; how many of each split.

    A manifest has a line of JSON for each pair: its files, the voice, the source, the kind and the source of the noise,
    and the ratio in dB. The same recordings and seed give the same corpus.

    Args:
        clean: a folder of utterances, the voice first in each file's name (:func:`voice_of`).
        noise: a folder of noise recordings; each is cut in time between the splits. None without ``"recorded"`` noise.
        out: where the corpus goes.
        config: how it is made.
        progress: called with the share done.

    Raises:
        InputError: a folder without recordings, too few voices for the splits or for a babble, two utterances of one
            name.
        OutputError: a file cannot be written.
    """
    config, out = config or CorpusConfig(), Path(out)
    paths = audio_files(clean)
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two utterances in '{clean}' are named '{twice}': the corpus needs names of their own")
    splits = split_voices(paths, config)
    made = 0
    written: dict[str, int] = {}
    for number, (split, voices) in enumerate(splits.items()):
        noises = _Noises(voices, _recorded(noise, config, number), config)
        lines: list[dict[str, Any]] = []
        for voice, utterances in voices.items():
            for path in utterances:
                rng = np.random.default_rng([config.seed, number, len(lines)])
                lines.append({"name": path.stem, "voice": voice, "source": str(path.relative_to(clean))})
                lines[-1] |= _write_pair(path, voice, noises, config, out / split, rng)
                made += 1
                if progress:
                    progress(made / len(paths))
        write_text(out / split / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        written[split] = len(lines)
    return written


def _recorded(noise: Path | str | None, config: CorpusConfig, number: int) -> Recordings | None:
    if "recorded" not in config.kinds:
        return None
    if noise is None:
        raise InputError("recorded noise needs a folder of recordings: give one, or leave 'recorded' out")
    shares = np.array([share for _, share in config.shares])
    edges = np.concatenate(([0.0], np.cumsum(shares) / shares.sum()))
    return Recordings([noise], config.sample_rate, (float(edges[number]), float(edges[number + 1])))


def _write_pair(
    path: Path, voice: str, noises: _Noises, config: CorpusConfig, folder: Path, rng: np.random.Generator
) -> dict[str, Any]:
    clean = read(path).mono().resample(config.sample_rate).samples[:, 0].astype(np.float32)
    if not rms(clean):
        raise InputError(f"'{path}' is silent: take it out")
    kind = config.kinds[int(rng.integers(len(config.kinds)))]
    snr = config.snrs[int(rng.integers(len(config.snrs)))]
    noise = noises.make(kind, voice, len(clean), rng)
    noisy = clean + noise * np.float32(noise_gain(clean, noise, snr, config.sample_rate))
    loudest = max(float(np.abs(side).max()) for side in (noisy, clean))
    scale = np.float32(min(1.0, config.peak / loudest))
    for role, side in (("noisy", noisy), ("clean", clean)):
        (folder / role).mkdir(parents=True, exist_ok=True)
        write(folder / role / f"{path.stem}.flac", Audio((side * scale)[:, None], config.sample_rate))
    return {"noise": kind, "snr": snr, "scale": float(scale), "samples": len(clean)}


class _Noises:
    """The noises of one split, from its own voices and its own stretches of the recordings."""

    def __init__(self, voices: Mapping[str, Sequence[Path]], recorded: Recordings | None, config: CorpusConfig):
        self.recorded, self.config = recorded, config
        self.voices: dict[str, Recordings] = {}
        if "babble" in config.kinds and len(voices) <= config.talkers[0]:
            raise InputError(
                f"a babble of {config.talkers[0]} needs {config.talkers[0] + 1} voices in every split, one has "
                f"{len(voices)}: give more voices, larger shares, or leave 'babble' out"
            )
        if set(config.kinds) & {"babble", "speech-shaped"}:
            self.voices = {voice: Recordings(paths, config.sample_rate) for voice, paths in voices.items()}
        if "speech-shaped" in config.kinds:
            rng = np.random.default_rng(config.seed)
            each = round(_HEARD_SECONDS / len(self.voices) * config.sample_rate)
            self.power = np.mean([average_power(one.crop(each, rng)) for one in self.voices.values()], axis=0)

    def make(self, kind: Kind, voice: str, samples: int, rng: np.random.Generator) -> Waveform:
        """Noise to lay under an utterance of a voice, which has no part in the babble."""
        if kind == "recorded":
            assert self.recorded is not None
            return self.recorded.crop(samples, rng)
        if kind == "speech-shaped":
            return noise_with_power(samples, self.power, rng)
        others = sorted(set(self.voices) - {voice})
        low, high = self.config.talkers
        chosen = rng.choice(len(others), min(int(rng.integers(low, high + 1)), len(others)), replace=False)
        crops = [self.voices[others[i]].sounding_crop(samples, rng) for i in chosen]
        return np.sum([crop / max(rms(crop), 1e-3) for crop in crops], axis=0).astype(np.float32)
