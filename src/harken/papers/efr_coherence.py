"""EEG envelope following responses: averaged spectra and coherence between electrodes (arXiv 2507.05635)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from harken.data.brain import Trials

ELECTRODES = ("Cz", "P4", "F8", "T7")  # of the published set, in the order of its pairs
MODULATIONS = (45.0, 40.018)  # Hz, by event code
GUIDE, JUDGE = "TP9", "TP10"  # behind the left and the right ear
SURROGATES = 100


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The published chain: envelope, filtered EEG, ratio, its means over time, pairs of channels, and peaks."""
    import numpy as np
    import torch

    from harken.models.brain.efr import (
        channel_pairs,
        clean_eeg,
        pair_spectra,
        published_peaks,
        resample_envelope,
        spectral_ratio,
        speech_envelope,
    )
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    sizes = case.config
    sfreq, sample_rate = float(sizes["fs_eeg"]), float(sizes["fs_audio"])
    length, hop = sizes["nperseg"], sizes["nperseg"] - sizes["noverlap"]
    envelope = speech_envelope(case.io["audio"].double().numpy(), sample_rate)
    raw = case.io["eeg_raw"].double().numpy()
    followed = resample_envelope(envelope, sample_rate, sfreq, raw.shape[-1])
    eeg = clean_eeg(raw, sfreq)
    transfer, phase = spectral_ratio(torch.from_numpy(eeg), torch.from_numpy(followed), length, hop)
    pairs = pair_spectra(transfer)
    averaged = transfer.abs().mean(-1)
    made = {
        "envelope": torch.from_numpy(envelope),
        "envelope_eeg": torch.from_numpy(followed),
        "eeg_filtered": torch.from_numpy(eeg),
        "freqs": torch.fft.rfftfreq(length, 1 / sfreq),
        "H_re": transfer.real,
        "H_im": transfer.imag,
        "tafr": averaged,
        "mean_phase": phase.mean(-1),
        "csd": pairs.density,
        "coefficient": pairs.coefficient,
    }
    hertz = np.fft.rfftfreq(length, 1 / sfreq)
    names = [f"{ELECTRODES[a]}_{ELECTRODES[b]}" for a, b in channel_pairs(len(eeg))]
    for kind, labels, rows in (("tafr", ELECTRODES, averaged), ("csd", names, pairs.density)):
        for name, row in zip(labels, rows, strict=True):
            found = hertz[published_peaks(row.numpy())]
            made[f"peaks_{kind}_{name}"] = torch.from_numpy(found if len(found) else np.array([-1.0]))
    return made


def finds_a_known_modulation(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Amplitude-modulated tones of 45 and 40 Hz: which statistic finds these frequencies behind the right ear?

    Markers jitter against the sound, so the envelope is moved, trial by trial, to where it fits the electrode behind
    the *left* ear best; the one behind the right ear judges. As a control the envelope of the other tone is put there.
    """
    import numpy as np

    from harken.models.brain.efr import clean_eeg
    from harken.models.brain.envelope_following import EnvelopeFollowing, aligned

    trials = _synthetic(seed) if quick else _recorded()
    eeg = replace(trials, x=clean_eeg(1e6 * trials.x, trials.sfreq, mains=None))
    judged = trials.ch_names.index(JUDGE)
    numbers: dict[str, float] = {}
    baseline: dict[str, float] = {}
    found: dict[str, list[bool]] = {name: [] for name in ("ratio", "coherence", "control")}
    total, done = 3 * len(MODULATIONS), 0
    for label, hertz in enumerate(MODULATIONS):
        own = eeg.select(eeg.y == label)
        guide = own.x[:, trials.ch_names.index(GUIDE)].astype(np.float64)
        other = MODULATIONS[1 - label]
        for kind, rate in (("marker", hertz), ("aligned", hertz), ("control", other)):
            envelope = pulses(rate, own.x.shape[-1], own.sfreq)
            stimulus = envelope if kind == "marker" else aligned(envelope, guide, own.sfreq, 1 / rate)
            model = EnvelopeFollowing(own.sfreq, surrogates=19 if quick else SURROGATES, seed=seed)
            response = model.fit(stimulus, own).response_
            near = int(np.abs(response.frequencies - rate).argmin())
            name = f"{kind}_{round(hertz)}hz"
            coherence, ratio = response.statistics["coherence"], response.statistics["ratio"]
            baseline[f"coherence_{name}"] = float(coherence.value[judged, near])
            baseline[f"coherence_limit_{name}"] = float(coherence.limit[judged, near])
            numbers[f"ratio_over_chance_{name}"] = float(ratio.value[judged, near] / ratio.expected[judged, near])
            peaks = response.peaks("ratio")[JUDGE]
            numbers[f"ratio_peaks_{name}"] = float(len(peaks))
            numbers[f"nearest_ratio_peak_{name}_hz"] = min(peaks, key=lambda peak: abs(peak - rate), default=0.0)
            if kind == "aligned":
                found["ratio"].append(any(abs(peak - rate) <= 1 for peak in peaks))
                found["coherence"].append(bool(coherence.is_found[judged, near]))
            elif kind == "control":
                found["control"].append(bool(coherence.is_found[judged, near]))
            done += 1
            progress(done / total, f"{hertz:g} Hz, {kind}")
    return Evidence(
        measured=numbers,
        baseline=baseline,
        verdict=_judge(found),
        summary=(
            f"Tones modulated at 45 and 40 Hz, {len(trials)} trials of 3 s: the published ratio, with the true "
            f"envelope, has a peak within 1 Hz of the modulation in {sum(found['ratio'])} of 2 sets; coherence with it "
            f"is beyond what surrogates reach anywhere in {sum(found['coherence'])} of 2 "
            f"({baseline['coherence_aligned_45hz']:.2f} and {baseline['coherence_aligned_40hz']:.2f}), and with the "
            f"envelope of the other tone in {sum(found['control'])} of 2. A response this strong near the ears may "
            "hold pick-up of the earphones, which this set cannot rule out."
        ),
        settings={
            "data": "synthetic" if quick else "muse_assr_45_40hz.npz (eeg-notebooks, BSD-3), notch 60 Hz",
            "guide": GUIDE,
            "judge": JUDGE,
            "surrogates": 19 if quick else SURROGATES,
            "null": "circular shift of each trial",
            "window_s": 1.0,
            "seed": seed,
            "rule": "a peak of the ratio within 1 Hz of the known modulation in both sets: holds; in neither, while "
            "coherence finds both and the control none: fails here; anything else: not shown here",
        },
    )


def pulses(hertz: float, samples: int, sfreq: float) -> NDArray[np.float64]:
    """The envelope of the tones: Gaussian pulses whose deviation is an eighth of their period."""
    import numpy as np

    phase = (np.arange(samples) * hertz / sfreq) % 1 - 0.5
    return np.exp(-32 * phase**2)


def _judge(found: dict[str, list[bool]]) -> Verdict:
    """By the rule of the settings, fixed before the run."""
    if all(found["ratio"]):
        return "holds"
    there_is_something = all(found["coherence"]) and not any(found["control"])
    return "fails here" if there_is_something and not any(found["ratio"]) else "not shown here"


def _recorded() -> Trials:
    from harken.data.brain_files import read_trials
    from harken.papers._brain import brain_file

    return read_trials(brain_file("muse_assr_45_40hz.npz"), tmin=0.0, tmax=3.0, notch=60.0)


def _synthetic(seed: int) -> Trials:
    """Both tones in noise behind both ears, with a jitter from trial to trial."""
    import numpy as np

    from harken.data.brain import Trials

    rng = np.random.default_rng(seed)
    count, samples, sfreq = 24, 512, 256.0
    labels = np.arange(count) % 2
    x = 1e-6 * np.cumsum(rng.standard_normal((count, 2, samples)), -1) / 5
    for trial, label in enumerate(labels):
        shift = rng.integers(samples)
        x[trial] += 1e-6 * np.roll(pulses(MODULATIONS[label], samples, sfreq), shift)
    return Trials(x, labels, ("1", "2"), sfreq, (GUIDE, JUDGE))


CLAIMS = (
    Claim(
        name="known-modulation",
        statement="Peaks of the time-averaged ratio of spectra tell the frequencies at which EEG follows a sound.",
        source="arXiv 2507.05635, abstract (whose sounds are songs, with no frequency known beforehand)",
        paper_value="peaks at 8-11, 53-56 and 78-81 Hz over subjects; no null distribution",
        run=finds_a_known_modulation,
    ),
)

PAPER = Paper(
    slug="efr-coherence",
    title="Frequency-Specific Neural Response and Cross-Correlation Analysis of Envelope Following Responses",
    arxiv="2507.05635",
    repository="hasan-rakibul/speech-efr-eeg",
    licence="Apache-2.0",
    kind=("score",),
    rooms=(
        "models/brain/efr.py",
        "models/brain/envelope_following.py",
        "models/brain/envelope_response.py",
        "signal/zero_phase.py",
        "signal/cross_spectra.py",
        "tasks/envelope_following.py",
    ),
    reached_by=("harken brain efr",),
    model="harken.models.brain.envelope_following:EnvelopeFollowing",
    status="works",
    claims=CLAIMS,
    replay=replay,
    relative=("H_re", "H_im", "tafr", "csd"),
)
