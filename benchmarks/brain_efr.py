"""How fast are envelopes and spectra here? Transforms over everything at once against SciPy's filters and loops.

    OMP_NUM_THREADS=1 python benchmarks/brain_efr.py [--save FILE.json]

Made-up sound at 22,050 Hz and EEG of four channels at 200 Hz, two minutes as in the published set. In one process, CPU
time of one thread, median of interleaved runs, after a check that the numbers agree:

- The band-pass of the envelope, 7,277 taps forwards and backwards: two fast convolutions against SciPy's ``filtfilt``
  (timed on two seconds) and against its ``oaconvolve`` twice.
- Spectra of 200 trials of 5 channels: one transform against ``scipy.signal.stft`` trial by trial and channel by
  channel, and against one call of it.
- 200 surrogates of the coherence: all at once against ``scipy.signal.coherence`` channel by channel, surrogate by
  surrogate (timed on 4 of them).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import signal

from harken.models.brain.envelope_following import EnvelopeFollowing
from harken.signal.cross_spectra import short_time_spectra
from harken.signal.zero_phase import kaiser_taps, zero_phase


def median_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """CPU time of each, interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def by_oaconvolve(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Both ends held, overlap-add twice."""
    for _ in range(2):
        held = np.concatenate((np.full(len(taps) - 1, x[0]), x))
        x = signal.oaconvolve(held, taps, mode="valid")[::-1]
    return x


def coherence_loop(eeg: np.ndarray, envelope: np.ndarray, surrogates: int) -> np.ndarray:
    """A shift of the whole recording each."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(surrogates):
        moved = np.roll(eeg, int(rng.integers(1000, eeg.shape[-1] - 1000)), axis=-1)
        found.append([signal.coherence(row, envelope, fs=200, nperseg=200, noverlap=100)[1] for row in moved])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = []

    sound = rng.standard_normal(round(22050 * args.seconds))
    taps = kaiser_taps(22050.0, 10.0, low=1.0, high=1000.0)
    ours = zero_phase(torch.from_numpy(sound), taps, padding=0).numpy()
    assert np.abs(by_oaconvolve(sound, taps.numpy()) - ours).max() < 1e-9
    part = sound[: 22050 * 2]
    held = signal.filtfilt(taps.numpy(), 1, part, padlen=0)
    assert np.abs(held - zero_phase(torch.from_numpy(part), taps, padding=0).numpy()).max() < 1e-9
    seconds = median_seconds(
        {
            "harken": lambda: zero_phase(torch.from_numpy(sound), taps, padding=0),
            "oaconvolve": lambda: by_oaconvolve(sound, taps.numpy()),
            "filtfilt": lambda: signal.filtfilt(taps.numpy(), 1, part, padlen=0),
        },
        args.repeats,
    )
    seconds["filtfilt"] *= len(sound) / len(part)  # linear in the length: timed on two seconds
    rows.append({"what": f"zero-phase filter, {len(taps)} taps, {args.seconds:g} s of sound", "seconds": seconds})

    trials = rng.standard_normal((200, 5, 768))
    options = {"nperseg": 256, "noverlap": 128}
    of_all = torch.from_numpy(trials)
    whole = signal.stft(trials, **options)[2]
    assert np.abs(short_time_spectra(of_all, 256, 128).numpy() - whole).max() < 1e-12
    seconds = median_seconds(
        {
            "harken": lambda: short_time_spectra(of_all, 256, 128),
            "stft, one call": lambda: signal.stft(trials, **options),
            "stft, loop": lambda: [[signal.stft(row, **options)[2] for row in trial] for trial in trials],
        },
        args.repeats,
    )
    rows.append({"what": "spectra of 200 trials x 5 channels x 768 samples", "seconds": seconds})

    eeg, envelope = rng.standard_normal((4, 24000)), rng.standard_normal(24000)
    model = EnvelopeFollowing(200.0, surrogates=200)
    seconds = median_seconds(
        {
            "harken": lambda: model.fit(envelope, eeg),
            "coherence, loop": lambda: coherence_loop(eeg, envelope, 4),
        },
        args.repeats,
    )
    seconds["coherence, loop"] *= 200 / 4
    rows.append(
        {
            "what": "200 surrogates of two minutes x 4 channels; harken: all six statistics, the loop: one",
            "seconds": seconds,
        }
    )

    for row in rows:
        timed: Any = row["seconds"]
        row["ratio"] = {name: value / timed["harken"] for name, value in timed.items()}
        print(json.dumps(row), flush=True)
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "numpy": np.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
