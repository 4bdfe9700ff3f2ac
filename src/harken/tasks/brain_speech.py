"""Find the speech that was heard among candidates: pairs of brain and audio files in, retrieval curves out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from harken.data.brain_speech import SpeechTrials, cut_segments, joined_speech, split_by_sound
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.models.brain.segment_retrieval import clip_scores, rank_of, segment_codes
from harken.signal.speech_features import frames_at, log_mel
from harken.signal.temporal_response import fit_temporal_response

if TYPE_CHECKING:
    from harken.models.brain.speech_decoder import BrainSpeechDecoder

Progress = Callable[[float, str], None]
RATE = 16000  # of audio, Hz
_HOP = 160
_COLOURS = ("#30506a", "#d07a2c", "#7a9a5b", "#9b6a9c", "#a9b8c4")
RIDGE, REGRESSION = "ridge", "regression"


@dataclass(frozen=True)
class Retrieval:
    """What one decoder found.

    Attributes:
        name: of the decoder.
        ranks: of the right candidate in each test trial, 0 is best, ``(seeds, trials)``.
        candidates: how many there were to choose from.
    """

    name: str
    ranks: Int[np.ndarray, "seeds trials"]
    candidates: int

    def top(self, k: int) -> Float[np.ndarray, " seeds"]:
        """Share of trials whose own speech is among the k best."""
        return (self.ranks < k).mean(1)

    def as_json(self, subject: Int[np.ndarray, " trials"]) -> dict[str, Any]:
        """Means and spreads over seeds, the curve, and each subject by itself."""
        curve = _shown(self.candidates)
        return {
            "decoder": self.name,
            **{
                f"top{k}{part}": float(value)
                for k in (1, 10)
                if k < self.candidates
                for part, value in (("", self.top(k).mean()), ("_std_over_seeds", self.top(k).std()))
            },
            "median_rank": float(np.median(self.ranks) + 1),
            "curve": {str(k): float(self.top(k).mean()) for k in curve},
            "top10_by_subject": {
                str(one): float((self.ranks[:, subject == one] < 10).mean()) for one in np.unique(subject).tolist()
            },
        }


@dataclass(frozen=True)
class SpeechEvaluation:
    """Decoders on the same unseen speech.

    Attributes:
        found: one retrieval a decoder.
        subject: of the test trials.
        sizes: how many trials there were to train on, stop by and judge.
        seconds: length of a segment.
        notes: what a reader should know.
        decoder: the last one trained.
    """

    found: tuple[Retrieval, ...]
    subject: Int[np.ndarray, " trials"]
    sizes: tuple[int, int, int]
    seconds: float
    notes: tuple[str, ...] = field(default=())
    decoder: BrainSpeechDecoder | None = None

    @property
    def candidates(self) -> int:
        """How many distinct stretches of speech there were to choose from."""
        return self.found[0].candidates

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "candidates": self.candidates,
            "segment_seconds": self.seconds,
            "trials": dict(zip(("train", "validation", "test"), self.sizes, strict=True)),
            "subjects": len(np.unique(self.subject)),
            "chance": {f"top{k}": min(1.0, k / self.candidates) for k in (1, 10)},
            "decoders": [one.as_json(self.subject) for one in self.found],
            "notes": list(self.notes),
        }


def mel_frames(audio: str | os.PathLike[str], sfreq: float, bands: int = 40) -> Float[np.ndarray, "bands frames"]:
    """Log-mel bands of a whole audio file, ``sfreq`` times a second.

    Raises:
        InputError: it cannot be read.
    """
    from harken.data.audio import read

    heard = read(audio).mono().resample(RATE).samples[:, 0]
    return mel_of(heard, sfreq, bands)


def pair_files(
    signals: Sequence[str | os.PathLike[str]],
    audio: Sequence[str | os.PathLike[str]],
    *,
    subjects: Sequence[int] | None = None,
    sfreq: float = 120.0,
    bands: int = 40,
    seconds: float = 3.0,
    step: float | None = None,
    lead: float = 0.0,
    channels: Sequence[str] | None = None,
    unit: str = "uV",
) -> SpeechTrials:
    """Segments of recordings and of the audio files that were heard in them, one audio file for each or one for all.

    Raises:
        InputError: numbers of files that do not fit, or a file that cannot be read.
    """
    from harken.data.brain_files import read_recording

    if len(audio) not in (1, len(signals)):
        raise InputError(f"{len(signals)} recordings but {len(audio)} audio files: give one each, or one for all")
    if subjects is not None and len(subjects) != len(signals):
        raise InputError(f"{len(signals)} recordings but {len(subjects)} subjects: say whose each one is")
    features = {str(path): mel_frames(path, sfreq, bands) for path in dict.fromkeys(map(str, audio))}
    # the same sound under two names is one source: what is in a file counts, not where it lies
    source = {name: int(code) for name, code in zip(features, _codes(list(features.values())), strict=True)}
    parts = []
    for number, path in enumerate(signals):
        heard = str(audio[number if len(audio) > 1 else 0])
        recording = read_recording(path, channels=channels, unit=unit).resampled(sfreq)
        parts.append(
            cut_segments(
                recording,
                features[heard],
                seconds=seconds,
                step=step,
                lead=lead,
                subject=number if subjects is None else subjects[number],
                source=source[heard],
            )
        )
    return joined_speech(parts)


def evaluate_speech(
    trials: SpeechTrials,
    make: Callable[[int], BrainSpeechDecoder],
    *,
    seeds: Sequence[int] = (0,),
    baselines: Sequence[str] = (RIDGE,),
    block: float = 12.0,
    test: SpeechTrials | None = None,
    progress: Progress | None = None,
) -> SpeechEvaluation:
    """Train on some speech, find other speech: nothing that is judged was heard in training, by anybody.

    Args:
        trials: of all listeners; split by blocks of sound, 80 to 20, where ``test`` is None.
        make: a fresh decoder from a seed; its own validation share stops it.
        seeds: one training each.
        baselines: ``"ridge"`` (a linear backward model a listener) and ``"regression"`` (the same network, trained to
            predict the features).
        block: seconds of sound that stay together.
        test: other speech of the same listeners.
        progress: called as ``progress(share done, note)``.

    Raises:
        InputError: too little speech to split, too few candidates, or an unknown baseline.
    """
    if unknown := set(baselines) - {RIDGE, REGRESSION}:
        raise InputError(f"no baseline named '{sorted(unknown)[0]}': ridge or regression")
    if test is None:
        train_index, _, test_index = split_by_sound(trials, block=block, shares=(0.8, 0.0, 0.2))
        train, test = trials.select(train_index), trials.select(test_index)
    else:
        train = trials
    shared = np.intersect1d(segment_codes(train.speech), segment_codes(test.speech))
    if len(shared):
        raise InputError(f"{len(shared)} stretches of speech are in training and test alike: part them by file")
    rows: dict[str, list[np.ndarray]] = {}
    total, done = len(seeds) * (1 + (REGRESSION in baselines)) + 0.1, 0.0
    decoder, candidates = None, 0

    def keep(name: str, scores: np.ndarray, own: np.ndarray) -> None:
        rows.setdefault(name, []).append(rank_of(scores, own))

    for seed in seeds:
        for loss in ("clip", *((REGRESSION,) if REGRESSION in baselines else ())):
            made = make(seed).set_params(loss=loss)

            def told(share: float, note: str, done: float = done, loss: str = loss, seed: int = seed) -> None:
                if progress is not None:
                    progress((done + share) / total, f"{loss}, seed {seed}: {note}")

            made.set_params(progress=told).fit(train.x, train.speech, train.subject, _places(train))
            made.set_params(progress=None)
            scores, own = made.retrieve(test.x, test.speech, test.subject)
            candidates = scores.shape[1]
            if candidates < 2:
                raise InputError("there is one stretch of speech to choose from: give more speech, or a smaller block")
            keep("BrainSpeechDecoder" if loss == "clip" else REGRESSION, scores, own)
            decoder = made if loss == "clip" else decoder
            done += 1
    if RIDGE in baselines:
        keep(RIDGE, *ridge_scores(train, test))
    found = tuple(Retrieval(name, np.stack(ranks), candidates) for name, ranks in rows.items())
    held = round(len(np.unique(segment_codes(train.speech))) * (decoder.validation if decoder else 0))
    notes = (trials.note,) if trials.note else ()
    return SpeechEvaluation(found, test.subject, (len(train), held, len(test)), test.seconds, notes, decoder)


def judge_saved(decoder: BrainSpeechDecoder, trials: SpeechTrials) -> SpeechEvaluation:
    """A trained decoder on speech that it was not fitted on; segments that it knows are left out.

    Raises:
        InputError: it knows them all.
    """
    fresh = ~np.isin(segment_codes(trials.speech), decoder.heard_)
    if not fresh.any():
        raise InputError("the decoder was fitted on every segment of this speech: give other speech")
    test = trials.select(fresh)
    scores, own = decoder.retrieve(test.x, test.speech, test.subject)
    notes = [trials.note] if trials.note else []
    if not fresh.all():
        notes.append(f"{int((~fresh).sum())} segments were left out: the decoder was fitted on their speech")
    found = Retrieval("BrainSpeechDecoder", rank_of(scores, own)[None], scores.shape[1])
    return SpeechEvaluation((found,), test.subject, (0, 0, len(test)), test.seconds, tuple(notes), decoder)


def ridge_scores(
    train: SpeechTrials, test: SpeechTrials, regularization: Sequence[float] = (1e-2, 1e0, 1e2, 1e4)
) -> tuple[Float[np.ndarray, "trials candidates"], Int[np.ndarray, " trials"]]:
    """The linear baseline: each listener's lagged channels to all features, candidates ranked by CLIP score.

    The regularization is chosen on a fifth of the training trials.
    """
    codes = segment_codes(test.speech)
    _, first, own = np.unique(codes, return_index=True, return_inverse=True)
    mean, scale = train.speech.mean((0, 2), keepdims=True), train.speech.std((0, 2), keepdims=True) + 1e-12
    candidates = torch.from_numpy((test.speech[first] - mean) / scale)
    scores = np.zeros((len(test), len(first)), np.float32)
    for who in np.unique(test.subject):
        mine = np.flatnonzero(train.subject == who)
        if not len(mine):
            raise InputError(f"subject {who} is not in the training trials")
        x, y = (torch.from_numpy(np.ascontiguousarray(a.swapaxes(1, 2))) for a in _scaled(train, mine, mean, scale))
        kept = max(1, len(x) * 4 // 5)
        responses = fit_temporal_response(
            x[:kept], y[:kept], train.sfreq, 0.0, 0.35, regularization=list(regularization), direction="backward"
        )
        assert isinstance(responses, list)
        errors = [float((r.predict(x[kept:]) - y[kept:]).square().mean()) if kept < len(x) else 0.0 for r in responses]
        best = responses[int(np.argmin(errors))]
        his = np.flatnonzero(test.subject == who)
        made = best.predict(
            torch.from_numpy(np.ascontiguousarray(_scaled(test, his, mean, scale, of=(train, mine))[0].swapaxes(1, 2)))
        )
        scores[his] = clip_scores(made.mT.contiguous(), candidates).numpy()
    return scores, own


def draw_retrieval(evaluation: SpeechEvaluation, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Share of trials whose speech is among the k best, for every k, beside chance; and each subject.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(9.5, 4)
    curve, people = figure.subplots(1, 2, width_ratios=[1.4, 1])
    ks = np.array(_shown(evaluation.candidates))
    subjects = np.unique(evaluation.subject)
    width = 0.8 / len(evaluation.found)
    for number, one in enumerate(evaluation.found):
        colour = _COLOURS[number % len(_COLOURS)]
        rows = np.stack([one.top(k) for k in ks])
        curve.plot(ks, rows.mean(1), color=colour, label=one.name)
        if rows.shape[1] > 1:
            curve.fill_between(ks, rows.min(1), rows.max(1), color=colour, alpha=0.2, linewidth=0)
        shares = [float((one.ranks[:, evaluation.subject == who] < 10).mean()) for who in subjects]
        people.bar(
            np.arange(len(subjects)) + (number - (len(evaluation.found) - 1) / 2) * width, shares, width, color=colour
        )
    curve.plot(ks, ks / evaluation.candidates, color="#888888", linestyle="--", linewidth=1, label="chance")
    curve.set(xscale="log", ylim=(0, 1.02), xlabel="k", ylabel="own speech among the k best")
    curve.set_title(f"{evaluation.candidates} candidates of {evaluation.seconds:g} s", fontsize=10)
    curve.legend(frameon=False, fontsize=8)
    people.axhline(min(1.0, 10 / evaluation.candidates), color="#888888", linestyle="--", linewidth=1)
    people.set_xticks(range(len(subjects)), [str(who) for who in subjects.tolist()], fontsize=8)
    people.set(ylim=(0, 1.02), xlabel="subject", ylabel="top 10")
    figure.suptitle(title or "; ".join(evaluation.notes), fontsize=8)
    save_figure(figure, path)


def mel_of(samples: Float[np.ndarray, " samples"], sfreq: float, bands: int = 40) -> Float[np.ndarray, "bands frames"]:
    """Log-mel bands of mono speech at 16 kHz, ``sfreq`` times a second."""
    fine = log_mel(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), RATE, bands=bands, hop_length=_HOP)
    return frames_at(fine, RATE / _HOP, sfreq, int(len(samples) * sfreq / RATE)).numpy()


def _scaled(
    trials: SpeechTrials, which: np.ndarray, mean: np.ndarray, scale: np.ndarray, of: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Channels and features, standardised by what is learned from (by default the same) training trials."""
    base, own = of or (trials, which)
    centre, spread = base.x[own].mean((0, 2), keepdims=True), base.x[own].std((0, 2), keepdims=True) + 1e-30
    x = ((trials.x[which] - centre) / spread).clip(-20, 20).astype(np.float32)
    return x, ((trials.speech[which] - mean) / scale).astype(np.float32)


def _places(trials: SpeechTrials) -> np.ndarray | None:
    from harken.models.brain.sensor_layout import sensor_layout

    return sensor_layout(trials.x.shape[1], trials.positions, trials.ch_names or None)


def _codes(features: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([segment_codes(one[None]) for one in features])


def _shown(candidates: int) -> list[int]:
    """The k of a retrieval curve, evenly spaced on a logarithmic axis."""
    return sorted({int(k) for k in np.unique(np.round(np.geomspace(1, candidates, 25)))} | {min(10, candidates)})
