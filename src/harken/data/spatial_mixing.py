"""Binaural mixtures made on the fly: talkers and noise placed around a listener by measured responses of heads."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from harken.data.hrtf import HRIRs, find_listeners, read_hrirs, unit
from harken.data.mixing import Recordings, active_rms, audio_files, noise_gain, rms
from harken.data.noises import shaped_noise
from harken.errors import InputError, MissingExtraError

Binaural = Float[np.ndarray, "2 samples"]

_LIBRISPEECH = re.compile(r"^(.*?\d+)-\d+-\d+$")
_LONGEST = 0.4  # seconds of a response that are kept
_PIECE = 4.0  # seconds of a long utterance that count as one, about


@dataclass(frozen=True)
class SpatialConfig:
    """How binaural mixtures are made. Probabilities are per item, levels in dB.

    Attributes:
        sample_rate, seconds: of every item.
        talkers: how many, the wanted one included.
        level: range of each talker's level against that of the wanted one.
        snr: range of the wanted talker's level against that of the noise.
        loudness: range of the mixture's level, dB; at 0 its RMS is one, as the network hears recordings.
        late: share of an item after which the last talker has begun.
        speeds: rates of playing, one drawn for each talker: other voices than were recorded.
        synthetic: probability of computed noise instead of recorded.
        headless: probability that there is no head: both ears hear the same, as from one microphone.
    """

    sample_rate: int = 16000
    seconds: float = 2.0
    talkers: tuple[int, int] = (2, 2)
    level: tuple[float, float] = (-5.0, 5.0)
    snr: tuple[float, float] = (-5.0, 15.0)
    loudness: tuple[float, float] = (-6.0, 6.0)
    late: float = 0.2
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    synthetic: float = 0.1
    headless: float = 0.15

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or not 0 < self.seconds < 3600 or not 1 <= self.talkers[0] <= self.talkers[1] <= 16:
            raise InputError("expected a positive rate, less than an hour, and 1 to 16 talkers")
        for name in ("level", "snr", "loudness"):
            low, high = getattr(self, name)
            if not -200 < low <= high < 200:
                raise InputError(f"{name} is a range in dB, low before high, got {low:g} to {high:g}")
        for name in ("late", "synthetic", "headless"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} lies between 0 and 1, got {getattr(self, name)}")
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise InputError(f"speeds lie between 0.5 and 2, got {self.speeds}")


@dataclass(frozen=True)
class Heads:
    """Heads and ears of several listeners (or rooms with a listener in them), at one rate.

    >>> clicks = np.zeros((2, 2, 8), np.float32)
    >>> clicks[..., 0] = 1
    >>> heads = Heads.of([HRIRs(clicks, np.array([[0.0, 0.0], [90.0, 0.0]]), 16000)], 16000)
    >>> heads.front(0), len(heads)
    (0, 1)
    """

    responses: tuple[Float[np.ndarray, "directions 2 taps"], ...]
    directions: tuple[Float[np.ndarray, "directions 2"], ...]

    @classmethod
    def of(cls, listeners: Sequence[HRIRs], sample_rate: int) -> Heads:
        """Listeners at another rate, each at the level that leaves sound from the front as loud as it was."""
        responses = []
        for hrirs in listeners:
            made = _at_rate(hrirs, sample_rate)
            front = made[_nearest(hrirs.directions, 0.0, 0.0)]
            responses.append(made / np.float32(max(math.sqrt(float(np.square(front).sum()) / 2), 1e-8)))
        return cls(tuple(responses), tuple(hrirs.directions for hrirs in listeners))

    @classmethod
    def read(cls, sources: Sequence[Path | str], sample_rate: int) -> Heads:
        """Every listener below some folders: SOFA files, and CIPIC's ``hrir_final.mat``.

        Raises:
            InputError: a folder without listeners, or a file that cannot be read.
            MissingExtraError: the package for a file is not installed.
        """
        listeners = [read_hrirs(path) for source in sources for path in find_listeners(source)]
        return cls.of(listeners, sample_rate)

    def __len__(self) -> int:
        return len(self.responses)

    def front(self, head: int) -> int:
        """Which direction of a head is straight ahead."""
        return _nearest(self.directions[head], 0.0, 0.0)


def place(dry: Float[np.ndarray, " samples"], response: Float[np.ndarray, "2 taps"]) -> Binaural:
    """Sound as the two ears hear it, as long as it was.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.signal import oaconvolve
    except ImportError:
        raise MissingExtraError("scipy", extra="rooms") from None
    return oaconvolve(dry[None], response, axes=-1)[:, : len(dry)].astype(np.float32)


class Talkers:
    """Utterances in memory, by who speaks: pieces of 3 to 8 s, so that a talker of one long clip has two.

    Who speaks is told by LibriSpeech's names (``speaker-chapter-number``), else by the folder of a file.

    Raises:
        InputError: a folder does not exist or holds no audio, or fewer than two talkers speak.
    """

    def __init__(self, folders: Sequence[Path | str], sample_rate: int):
        self.sample_rate = sample_rate
        paths: dict[str, list[Path]] = {}
        for folder in folders:
            for path in [Path(folder)] if Path(folder).is_file() else audio_files(folder):
                named = _LIBRISPEECH.match(path.stem)
                paths.setdefault(named.group(1) if named else str(path.parent), []).append(path)
        self.names = sorted(paths)
        self._utterances: list[list[np.ndarray]] = []
        for name in self.names:
            whole = [clip for path in paths[name] for clip in _sound(path, sample_rate)]
            pieces = [np.array_split(clip, max(1, round(len(clip) / (_PIECE * sample_rate)))) for clip in whole]
            self._utterances.append([piece for some in pieces for piece in some])
        kept = [i for i, spoken in enumerate(self._utterances) if len(spoken) > 1]
        self.names, self._utterances = [self.names[i] for i in kept], [self._utterances[i] for i in kept]
        if len(self.names) < 2:
            raise InputError(
                f"one talker or none in {', '.join(map(str, folders)) or 'no folder'}: name files as LibriSpeech does, "
                "speaker-chapter-number, or keep a folder for each talker"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def seconds(self) -> float:
        """Length of all utterances together."""
        return sum(len(clip) for spoken in self._utterances for clip in spoken) / self.sample_rate

    def pieces(self, talker: int) -> int:
        """How many utterances of a talker there are."""
        return len(self._utterances[talker])

    def two_of(self, talker: int, rng: np.random.Generator) -> tuple[int, int]:
        """Two different utterances of a talker."""
        first, second = rng.choice(len(self._utterances[talker]), 2, replace=False)
        return int(first), int(second)

    def clip(self, talker: int, utterance: int, speed: float = 1.0) -> Float[np.ndarray, " samples"]:
        """An utterance, at another speed (and pitch)."""
        samples = self._utterances[talker][utterance].astype(np.float32) / np.float32(32768)
        if speed == 1.0:
            return samples
        at = np.arange(int((len(samples) - 1) / speed)) * speed
        return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """One binaural mixture and what is in it.

    Attributes:
        mixture, target: at both ears, ``(2, samples)``.
        talker, speed: who is wanted, and at which speed they speak.
        utterance: what they say here; ``example``: another utterance of theirs, to enrol them with.
        others: who else speaks.
    """

    mixture: Binaural
    target: Binaural
    talker: int
    speed: float
    utterance: int
    example: int
    others: tuple[int, ...] = ()


class SceneMaker:
    """Binaural mixtures by number: the same number gives the same mixture, in every process and run.

    Args:
        talkers: who may speak.
        noise: recordings; None for computed noise alone.
        heads: None for no head at all: both ears hear the same.
        config: how mixtures are made.
        seed: of all of them.
    """

    def __init__(
        self, talkers: Talkers, noise: Recordings | None, heads: Heads | None, config: SpatialConfig, *, seed: int = 0
    ):
        self.talkers, self.noise, self.heads, self.config, self.seed = talkers, noise, heads, config, seed

    def scene(self, number: int, *, in_front: bool = False, talker: int | None = None) -> Scene:
        """A mixture.

        Args:
            number: which.
            in_front: the wanted talker is straight ahead, as one who is looked at.
            talker: who is wanted; anyone when None.
        """
        c, rng = self.config, np.random.default_rng((self.seed, number, int(in_front)))
        length = round(c.seconds * c.sample_rate)
        count = min(int(rng.integers(c.talkers[0], c.talkers[1] + 1)), len(self.talkers))
        speakers = rng.choice(len(self.talkers), count, replace=False)
        if talker is not None:
            speakers = np.array([talker, *(s for s in speakers if s != talker)])[:count]
        speeds = rng.choice(c.speeds, count)
        head = None
        if self.heads is not None and rng.random() >= c.headless:
            head = int(rng.integers(len(self.heads)))
        placed: list[np.ndarray] = []
        said, example, loudness = 0, 0, 1.0
        for i, (speaker, speed) in enumerate(zip(speakers, speeds, strict=True)):
            utterance, other = self.talkers.two_of(int(speaker), rng)
            dry = _fit(self.talkers.clip(int(speaker), utterance, float(speed)), length, c.late, rng)
            level = max(active_rms(dry, c.sample_rate), 1e-5)
            if i == 0:
                said, example, loudness = utterance, other, level
            else:
                dry = dry * np.float32(loudness / level * 10 ** (rng.uniform(*c.level) / 20))
            placed.append(self._placed(dry, head, rng, in_front=in_front and i == 0))
        noise = self._noise(length, head, rng)
        gain = noise_gain(placed[0].mean(0), noise.mean(0), rng.uniform(*c.snr), c.sample_rate)
        mixture = np.sum(placed, 0) + noise * np.float32(gain)
        scale = np.float32(10 ** (rng.uniform(*c.loudness) / 20) / max(rms(mixture), 1e-6))
        mixture, target = (mixture * scale).astype(np.float32), (placed[0] * scale).astype(np.float32)
        others = tuple(int(other) for other in speakers[1:])
        return Scene(mixture, target, int(speakers[0]), float(speeds[0]), said, example, others)

    def quiet(self) -> SceneMaker:
        """The same with one talker and hardly any noise: what a clean enrolment is."""
        plain = replace(self.config, talkers=(1, 1), snr=(40.0, 60.0))
        return SceneMaker(self.talkers, self.noise, self.heads, plain, seed=self.seed)

    def _placed(self, dry: np.ndarray, head: int | None, rng: np.random.Generator, *, in_front: bool) -> Binaural:
        if head is None or self.heads is None:
            return np.stack((dry, dry))
        responses = self.heads.responses[head]
        which = self.heads.front(head) if in_front else int(rng.integers(len(responses)))
        return place(dry, responses[which])

    def _noise(self, length: int, head: int | None, rng: np.random.Generator) -> Binaural:
        """Noise from two places."""
        c, made = self.config, np.zeros((2, length), np.float32)
        for _ in range(2):
            if self.noise is None or rng.random() < c.synthetic:
                dry = shaped_noise(length, c.sample_rate, rng)
            else:
                dry = self.noise.crop(length, rng)
            dry = dry / np.float32(max(rms(dry), 1e-4))
            made += self._placed(dry.astype(np.float32), head, rng, in_front=False)
        return made


def _fit(samples: np.ndarray, length: int, late: float, rng: np.random.Generator) -> np.ndarray:
    """So many samples of an utterance: a random part of a long one, a short one after a random silence."""
    begin = int(rng.integers(int(late * length) + 1))
    room = length - begin
    if len(samples) > room:
        best = np.zeros(0, np.float32)
        for _ in range(4):  # a part in which somebody speaks
            start = int(rng.integers(len(samples) - room + 1))
            part = samples[start : start + room]
            best = part if not len(best) or rms(part) > rms(best) else best
            if rms(best) > 0.02:
                break
        samples = best
    else:
        begin = int(rng.integers(length - len(samples) + 1))
    made = np.zeros(length, np.float32)
    made[begin : begin + len(samples)] = samples
    return made


def _sound(path: Path, sample_rate: int) -> list[np.ndarray]:
    """The one recording of a path, as 16-bit integers at full scale; none where it is silent."""
    from harken.data.audio import read

    samples = read(path).mono().resample(sample_rate).samples[:, 0]
    peak = float(np.abs(samples).max(initial=0.0))
    return [np.round(samples * (32000 / peak)).astype(np.int16)] if peak > 1e-4 else []


def _at_rate(hrirs: HRIRs, sample_rate: int) -> np.ndarray:
    rate = round(hrirs.rate)
    if rate == sample_rate:
        made = hrirs.responses
    else:
        try:
            from scipy.signal import resample_poly
        except ImportError:
            raise MissingExtraError("scipy", extra="rooms") from None
        common = math.gcd(rate, sample_rate)
        # thousands of short rows at once: much quicker than a recording's resampler, row by row
        made = resample_poly(hrirs.responses, sample_rate // common, rate // common, axis=-1)
    return made[..., : round(_LONGEST * sample_rate)].astype(np.float32)


def _nearest(directions: np.ndarray, azimuth: float, elevation: float) -> int:
    return int(np.argmax(unit(directions) @ unit(np.array([[azimuth, elevation]]))[0]))
