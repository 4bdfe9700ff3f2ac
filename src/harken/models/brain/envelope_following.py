"""Which frequencies of an EEG follow the envelope of a sound, every statistic beside what chance makes of it.

The statistics of arXiv 2507.05635 (:mod:`harken.models.brain.efr`), and those that do not divide by nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from harken.data.brain import as_array, check_trials
from harken.errors import InputError
from harken.models.brain._estimator import Progress, SavedEstimator
from harken.models.brain.efr import channel_pairs, circular_mean
from harken.models.brain.envelope_response import STATISTICS, EnvelopeResponse, Statistic
from harken.signal.cross_spectra import (
    circularly_shifted,
    coherence,
    independent_segments,
    phase_shuffled,
    segment_spectra,
    short_time_spectra,
)

Null = Literal["shift", "phases"]
_AT_ONCE = 1 << 21  # numbers of surrogate spectra in memory
_FEWEST = 8  # trials from which each may keep one random phase


class EnvelopeFollowing(SavedEstimator):
    """From the envelope of a sound to the EEG: transfer function and coherence, with a null distribution for each.

    ``H1(f) = sum X E* / sum |E|^2`` over segments of all trials, coherence, and the published statistics of the ratio
    ``X / E``. Each is computed again on surrogates, in which every trial of the EEG is shifted by a random time of its
    own or has random phases, and comes with the limit that chance exceeds anywhere with probability ``alpha``. A steady
    modulation looks alike when shifted as a whole: give trials, or a ``piece`` to cut long recordings into.

    An encoding model as scikit-learn and MNE have it: stimuli are ``X``, EEG is ``y``; ``predict`` filters an envelope
    by H1, ``score`` correlates that with an EEG.

    Args:
        sfreq: samples a second of both; epochs bring their own.
        window: seconds of a segment; its inverse is the resolution in Hz.
        overlap: share of a segment that the next one has too.
        tapers: Slepian tapers for H1 and coherence instead of Hann's window; 0 for none.
        regularisation: share of the envelope's mean power that the ratio's denominator is lifted by; 0 as published.
        null, surrogates, alpha: ``"shift"`` or ``"phases"``, how many, and the probability of a false find anywhere.
        piece: seconds that a trial is cut into; None leaves trials whole.
        seed, progress: of the surrogates; called with the share done.

    Attributes:
        response_: an :class:`EnvelopeResponse`.

    >>> rng = np.random.default_rng(0)
    >>> envelope = rng.standard_normal((20, 400))
    >>> eeg = rng.standard_normal((20, 2, 400))
    >>> eeg[:, 0] += np.roll(envelope, 10, axis=1)
    >>> model = EnvelopeFollowing(sfreq=200.0, surrogates=40).fit(envelope, eeg)
    >>> [len(found) > 50 for found in model.response_.found("coherence").values()]
    [True, False]
    """

    def __init__(
        self,
        sfreq: float = 200.0,
        *,
        window: float = 1.0,
        overlap: float = 0.5,
        tapers: int = 0,
        regularisation: float = 0.0,
        null: Null = "shift",
        surrogates: int = 200,
        alpha: float = 0.05,
        piece: float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ):
        self.sfreq = sfreq
        self.window = window
        self.overlap = overlap
        self.tapers = tapers
        self.regularisation = regularisation
        self.null = null
        self.surrogates = surrogates
        self.alpha = alpha
        self.piece = piece
        self.seed = seed
        self.progress = progress

    def fit(self, X: Any, y: Any) -> Self:
        """Measure the response.

        Args:
            X: envelopes, ``(trials, samples)``, or ``(samples,)`` for all trials alike.
            y: EEG, ``(trials, channels, samples)``, ``(channels, samples)`` of one recording, or ``mne.Epochs``.

        Raises:
            InputError: shapes that do not fit, trials shorter than a window, NaN, or an envelope that never changes.
        """
        envelope, eeg, sfreq, names = self._checked(X, y)
        length = round(self.window * sfreq)
        hop = max(1, round(length * (1 - self.overlap)))
        if not 0 <= self.overlap < 1 or not 0 < self.alpha < 1 or self.surrogates < 1:
            raise InputError("expected an overlap in [0, 1), an alpha in (0, 1) and at least one surrogate")
        if length < 8 or length > eeg.shape[-1]:
            have = f"trials of {eeg.shape[-1] / sfreq:.3g} s"
            raise InputError(f"cannot cut windows of {self.window:g} s from {have}: choose another window")
        if self.null not in ("shift", "phases"):
            raise InputError(f"expected a null of 'shift' or 'phases', got {self.null!r}")
        self.length_, self.hop_, self.sfreq_, self.n_features_in_ = length, hop, float(sfreq), envelope.shape[-1]
        x, e = torch.from_numpy(eeg), torch.from_numpy(envelope)
        measured = self._statistics(x[None], e)
        chance = self._by_chance(x, e)
        welch = self._welch(x.transpose(0, 1))
        of_pairs = self._eeg_coherence(welch, len(x))
        in_trial = (x.shape[-1] - length) // hop + 1
        independent = len(x) * max(1, self.tapers) * independent_segments(in_trial, length, hop)
        transfer, phase = self._transfer(x, e)
        statistics = {
            name: self._judged(measured[name][0], chance[name], is_coherence=name == "coherence") for name in measured
        }
        statistics["eeg_coherence"] = self._judged(*of_pairs, is_coherence=True)
        pairs = tuple(f"{names[a]}-{names[b]}" for a, b in channel_pairs(len(names)))
        frequencies = np.fft.rfftfreq(length, 1 / sfreq)
        self.response_ = EnvelopeResponse(
            frequencies, names, pairs, statistics, transfer.numpy(), phase.numpy(), float(independent), self.alpha
        )
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        """The part of an EEG that follows these envelopes, by H1 as a filter of one window."""
        self._check_fitted()
        envelope = np.atleast_2d(np.asarray(X, np.float64))
        impulse = np.fft.irfft(self.response_.transfer, self.length_)
        # half of a window may come before the sound: where it is not noise, time is misaligned
        impulse = np.roll(impulse, self.length_ // 2, axis=-1)
        samples = envelope.shape[-1]
        size = samples + self.length_
        product = np.fft.rfft(envelope - envelope.mean(-1, keepdims=True), size)[:, None] * np.fft.rfft(impulse, size)
        return np.fft.irfft(product, size)[..., self.length_ // 2 : self.length_ // 2 + samples]

    def score(self, X: Any, y: Any) -> float:
        """Mean correlation over trials and channels of what follows the envelopes with an EEG."""
        envelope, eeg, _, _ = self._checked(X, y, piece=False)
        found = self.predict(envelope)
        found, eeg = found - found.mean(-1, keepdims=True), eeg - eeg.mean(-1, keepdims=True)
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(eeg, axis=-1)
        return float(((found * eeg).sum(-1) / np.maximum(norms, 1e-300)).mean())

    def _checked(self, X: Any, y: Any, *, piece: bool = True) -> tuple[np.ndarray, np.ndarray, float, tuple[str, ...]]:
        """Envelopes ``(trials, samples)`` and EEG ``(trials, channels, samples)`` in double precision."""
        if isinstance(y, np.ndarray) and y.ndim == 2:
            y = y[None]
        eeg, sfreq, names = as_array(y)
        check_trials(eeg)
        sfreq = float(sfreq or self.sfreq)
        try:
            envelope = np.asarray(X, np.float64)
        except (TypeError, ValueError):
            raise InputError("expected an envelope of numbers, (trials, samples) or (samples,)") from None
        if envelope.ndim == 1:
            envelope = np.broadcast_to(envelope, (len(eeg), len(envelope)))
        if envelope.shape != (len(eeg), eeg.shape[-1]):
            raise InputError(f"an envelope of shape {envelope.shape} does not go with an EEG of shape {eeg.shape}: "
                             "expected a row for each trial, as long as it")  # fmt: skip
        if not np.isfinite(envelope).all() or not np.ptp(envelope, axis=-1).all():
            raise InputError("expected envelopes that change, without NaN or infinite values")
        if piece and self.piece is not None:
            length = round(self.piece * sfreq)
            count = eeg.shape[-1] // max(1, length)
            if count < 1:
                raise InputError(
                    f"trials of {eeg.shape[-1] / sfreq:.3g} s are shorter than a piece of {self.piece:g} s"
                )
            eeg = eeg[..., : count * length].reshape(*eeg.shape[:2], count, length).swapaxes(1, 2)
            eeg = eeg.reshape(-1, eeg.shape[2], length)
            envelope = envelope[:, : count * length].reshape(-1, length)
        names = names or tuple(str(number + 1) for number in range(eeg.shape[1]))
        return np.array(envelope, np.float64), np.array(eeg, np.float64), sfreq, names

    def _short(self, x: Float[Tensor, "rows trials samples"]) -> Complex[Tensor, "rows frequencies all"]:
        """The published transform, the frames of all trials in a row."""
        return short_time_spectra(x, self.length_, self.hop_).transpose(1, 2).flatten(2)

    def _welch(self, x: Float[Tensor, "rows trials samples"]) -> Complex[Tensor, "rows frequencies all"]:
        """Welch's, or tapered, segments of all trials in a row."""
        return segment_spectra(x, self.length_, self.hop_, tapers=self.tapers).transpose(1, 2).flatten(2)

    def _statistics(
        self, eeg: Float[Tensor, "many trials channels samples"], envelope: Float[Tensor, "trials samples"]
    ) -> dict[str, Tensor]:
        """All statistics of envelope and EEG, for many versions of the EEG: ``(many, rows, frequencies)``."""
        many, channels = eeg.shape[0], eeg.shape[2]
        tiny = torch.finfo(eeg.dtype).tiny
        rows = eeg.transpose(1, 2).flatten(0, 1)
        magnitude = self._short(envelope[None])[0].abs()
        power = magnitude.square()
        lifted = power + self.regularisation * power.mean(-1, keepdim=True)
        # |H| = |X| |E| / |E|^2, which is |X| / |E| but for the regularisation
        ratio = (self._short(rows) * (magnitude / lifted.clamp(min=tiny))).unflatten(0, (many, channels))
        by_frequency = ratio.transpose(1, 2)
        gram = by_frequency @ by_frequency.mH
        first, second = channel_pairs(channels).T
        density = gram[..., first, second].abs().mT
        own = gram.diagonal(dim1=-2, dim2=-1).real.mT
        follows = self._welch(envelope[None])[0]
        welch = self._welch(rows).unflatten(0, (many, channels))
        cross = (welch * follows.conj()).sum(-1).abs()
        of_envelope = follows.abs().square().sum(-1).clamp(min=tiny)
        return {
            "coherence": cross.square() / (welch.abs().square().sum(-1) * of_envelope).clamp(min=tiny),
            "gain": cross / of_envelope,
            "ratio": ratio.abs().mean(-1),
            "pair_density": density,
            "pair_coefficient": density / (own[:, first] * own[:, second]).sqrt().clamp(min=tiny),
        }

    def _by_chance(
        self, eeg: Float[Tensor, "trials channels samples"], envelope: Float[Tensor, "trials samples"]
    ) -> dict[str, Tensor]:
        """The statistics of surrogates, some at a time.

        The EEG is moved and the envelope stays: moving a steady envelope would leave a seam in it, and what divides by
        its spectrum would tell the seam from the sound.
        """
        generator = torch.Generator().manual_seed(self.seed)
        step = max(1, _AT_ONCE // (eeg.numel() * max(1, self.tapers) * self.length_ // (2 * self.hop_)))
        parts: list[dict[str, Tensor]] = []
        for start in range(0, self.surrogates, step):
            count = min(step, self.surrogates - start)
            if self.null == "shift":
                moved = circularly_shifted(eeg, count, generator, least=max(1, eeg.shape[-1] // 20))
            else:
                moved = phase_shuffled(eeg, count, generator)
            parts.append(self._statistics(moved, envelope))
            if self.progress is not None:
                self.progress((start + count) / self.surrogates, "what chance makes")
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _eeg_coherence(self, welch: Tensor, trials: int) -> tuple[Tensor, Tensor]:
        """Coherence of channel and channel, and what is left when one of them has random phases in every trial."""
        first, second = channel_pairs(len(welch)).T
        generator = torch.Generator().manual_seed(self.seed)
        count = trials if trials >= _FEWEST else welch.shape[-1]
        chance = []
        for _ in range(self.surrogates):
            angle = torch.rand(1, welch.shape[1], count, generator=generator, dtype=torch.float64) * (2 * math.pi)
            turned = torch.polar(torch.ones_like(angle), angle).repeat_interleave(welch.shape[-1] // count, -1)
            chance.append(coherence(welch[first], welch[second] * turned))
        return coherence(welch[first], welch[second]), torch.stack(chance)

    def _transfer(self, eeg: Tensor, envelope: Tensor) -> tuple[Tensor, Tensor]:
        """H1, and the circular mean of the phase of the ratio."""
        follows, rows = self._welch(envelope[None]), eeg.transpose(0, 1)
        power = follows.abs().square().sum(-1)
        transfer = (self._welch(rows) * follows.conj()).sum(-1) / power.clamp(min=torch.finfo(power.dtype).tiny)
        return transfer, circular_mean(self._short(rows).angle() - self._short(envelope[None]).angle())

    def _judged(self, value: Tensor, chance: Tensor, *, is_coherence: bool = False) -> Statistic:
        """A statistic beside surrogates of it, studentised so that all frequencies may be looked at.

        Every surrogate is studentised as the measurement is, by all the others: judged by a mean and a deviation that
        it is part of, it would look tamer than it is. Coherence is judged on Fisher's scale, where it has no long tail.
        """
        count, expected = len(chance), chance.mean(0)
        measured = value
        if is_coherence:
            value, chance = ((part.sqrt().clamp(max=1 - 1e-12)).atanh() for part in (value, chance))
        mean = chance.mean(0)
        spread = chance.std(0) if count > 1 else torch.full_like(value, torch.inf)
        tiny = torch.finfo(value.dtype).tiny
        scale = chance.abs().amax(0).clamp(min=tiny)
        pool = torch.cat((value[None], chance)) / scale
        others = (pool.sum(0) - pool) / count
        square = (pool.square().sum(0) - pool.square()) / count
        # what never varies is no find: rounding is kept from looking like a deviation
        deviation = ((square - others.square()) * count / max(1, count - 1)).clamp(min=1e-18).sqrt()
        studentised = (pool - others) / deviation
        largest = studentised[1:].flatten(1).amax(1) if value.numel() else chance.new_zeros(count)
        exceeded = (largest[:, None, None] >= studentised[0]).sum(0)
        p = (1 + exceeded) / (1 + count)
        allowed = int(self.alpha * (count + 1))
        above = float(largest.sort(descending=True).values[allowed - 1]) if allowed else math.inf
        limit = mean + above * torch.maximum(spread, 1e-9 * scale)
        if is_coherence:
            limit = limit.tanh().square()
        return Statistic(*(part.numpy().astype(np.float64) for part in (measured, expected, limit, p)))

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        found = self.response_
        arrays = {
            "frequencies": found.frequencies,
            "transfer.real": found.transfer.real,
            "transfer.imag": found.transfer.imag,
            "phase": found.phase,
        }
        for name, one in found.statistics.items():
            arrays |= {f"{name}.{part}": getattr(one, part) for part in ("value", "expected", "limit", "p")}
        kept = {"segments": found.segments, "alpha": found.alpha, "channels": list(found.channels)}
        return arrays, kept | {
            "pairs": list(found.pairs),
            "length": self.length_,
            "hop": self.hop_,
            "sfreq": self.sfreq_,
        }

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.length_, self.hop_, self.sfreq_ = int(values["length"]), int(values["hop"]), float(values["sfreq"])
        channels, pairs = tuple(values["channels"]), tuple(values["pairs"])
        frequencies = arrays["frequencies"]
        if frequencies.shape != (self.length_ // 2 + 1,) or not 1 <= self.hop_ <= self.length_:
            raise ValueError("its sizes do not fit each other")
        statistics = {}
        for name in STATISTICS:
            parts = [arrays[f"{name}.{part}"] for part in ("value", "expected", "limit", "p")]
            rows = len(pairs) if "pair" in name or name == "eeg_coherence" else len(channels)
            if any(part.shape != (rows, len(frequencies)) for part in parts):
                raise ValueError(f"its {name} has another size")
            statistics[name] = Statistic(*parts)
        transfer = arrays["transfer.real"] + 1j * arrays["transfer.imag"]
        if not transfer.shape == arrays["phase"].shape == (len(channels), len(frequencies)):
            raise ValueError("its transfer function has another size")
        self.response_ = EnvelopeResponse(
            frequencies, channels, pairs, statistics, transfer, arrays["phase"], float(values["segments"]),
            float(values["alpha"]),
        )  # fmt: skip

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "response_")


def aligned(
    envelope: Float[np.ndarray, " samples"], guide: Float[np.ndarray, "trials samples"], sfreq: float, period: float
) -> Float[np.ndarray, "trials samples"]:
    """A steady envelope moved in every trial to where it best fits a guide, for markers that jitter against the sound.

    Within one period the shift with the largest cross-correlation is taken. Judge by *other* channels than the guide,
    and remember that whatever the guide shares with them at that frequency, sound or not, will be found.

    Args:
        envelope: of the sound, the same in every trial.
        guide: one channel.
        sfreq: samples a second of both.
        period: of the modulation, seconds.
    """
    size = 2 * envelope.shape[-1]
    spectrum = (
        np.fft.rfft(guide - guide.mean(-1, keepdims=True), size) * np.fft.rfft(envelope - envelope.mean(), size).conj()
    )
    lags = np.arange(max(1, round(period * sfreq)))
    fits = np.fft.irfft(spectrum, size)[:, lags]
    return np.stack([np.roll(envelope, lag) for lag in fits.argmax(-1)])
