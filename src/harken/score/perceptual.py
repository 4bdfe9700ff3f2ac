"""Quality and intelligibility as listeners would judge them: PESQ and STOI, through the packages all report with."""

from __future__ import annotations

import warnings
from functools import partial

from harken.data.audio import resample
from harken.errors import MissingExtraError
from harken.score.waveform import Samples, Waveform, matched, mean_over_parts

# The ITU's program keeps tables for 50 utterances and writes past them: half a minute of short words crashes the
# process. 20 s hold no more than 50 of the shortest utterances and pauses that it tells apart.
_PESQ_LONGEST = 20.0
_STOI_LONGEST = 60.0


def pesq_wb(reference: Waveform, estimate: Waveform, rate: int) -> float:
    """Wide-band PESQ, ITU-T P.862.2: mean opinion score from 1.0 (bad) to 4.64 (transparent).

    Other rates than 16 kHz are resampled to it. Signals longer than 20 s are scored in equal parts of at most 20 s and
    the parts averaged, since the standard is made for sentences and its program fails on long input.

    Returns:
        the score, or nan where PESQ has none: no speech found in the reference, a silent estimate, less than 0.25 s.

    Raises:
        MissingExtraError: the package ``pesq`` is not installed.
        InputError: see :func:`harken.score.waveform.matched`.
    """
    ours, theirs = (resample(signal, rate, 16000) for signal in matched(reference, estimate))
    return _pesq(ours, theirs, 16000, "wb")


def pesq_nb(reference: Waveform, estimate: Waveform, rate: int) -> float:
    """Narrow-band PESQ, ITU-T P.862 with the P.862.1 mapping: 1.0 to 4.55, telephone band.

    Computed at 8 kHz when ``rate`` is 8000, else at 16 kHz; parts, nan and errors as :func:`pesq_wb`.
    """
    at = rate if rate == 8000 else 16000
    ours, theirs = (resample(signal, rate, at) for signal in matched(reference, estimate))
    return _pesq(ours, theirs, at, "nb")


def _pesq(reference: Samples, estimate: Samples, rate: int, mode: str) -> float:
    try:
        from pesq import BufferTooShortError, NoUtterancesError, pesq
    except ImportError:
        raise MissingExtraError("pesq", extra="score") from None

    def measure(ours: Samples, theirs: Samples) -> float:
        # below 1/4 s the program has no frame; silence leaves it without a level to align to
        if len(ours) < rate // 4 or not ours.any() or not theirs.any():
            return float("nan")
        try:
            return float(pesq(rate, ours, theirs, mode))
        except (NoUtterancesError, BufferTooShortError):
            return float("nan")

    return mean_over_parts(measure, reference, estimate, longest=int(_PESQ_LONGEST * rate))


def stoi(reference: Waveform, estimate: Waveform, rate: int) -> float:
    """Short-time objective intelligibility (Taal et al., 2011): about 0 (none) to 1 (all words).

    Resampled to 10 kHz inside. Signals longer than 60 s are scored in equal parts and averaged, which bounds memory.

    Returns:
        the score, or nan where fewer than 30 frames (0.4 s) of the reference are active.

    Raises:
        MissingExtraError: the package ``pystoi`` is not installed.
        InputError: see :func:`harken.score.waveform.matched`.
    """
    return _stoi(reference, estimate, rate, extended=False)


def estoi(reference: Waveform, estimate: Waveform, rate: int) -> float:
    """Extended STOI (Jensen and Taal, 2016), for noise that fluctuates: 0 to 1; nan and errors as :func:`stoi`."""
    return _stoi(reference, estimate, rate, extended=True)


def _stoi(reference: Waveform, estimate: Waveform, rate: int, *, extended: bool) -> float:
    try:
        from pystoi import stoi as pystoi
    except ImportError:
        raise MissingExtraError("pystoi", extra="score") from None
    measure = partial(_stoi_of_part, pystoi, rate, extended)
    return mean_over_parts(measure, *matched(reference, estimate), longest=int(_STOI_LONGEST * rate))


def _stoi_of_part(pystoi, rate: int, extended: bool, ours: Samples, theirs: Samples) -> float:  # type: ignore[no-untyped-def]
    if not ours.any() or len(ours) < 0.4 * rate:
        return float("nan")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(pystoi(ours, theirs, rate, extended=extended))
        except RuntimeWarning:
            return float("nan")
