"""The semi-simulated experiments on attention: real voices, real EEG as noise, simulated responses in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from harken.papers._record import Progress

RATE, SFREQ = 16000, 64.0
WINDOWS = (1.0, 2.0, 4.0, 8.0)
SNR = -10.0  # of all frequencies of the EEG, drifts too, averaged over channels
CLEARER = 0.0  # decibels: nearer to what electrodes inside the skull record
IGNORED = 0.3
CLUSTERS = 4
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTION = "word?"
NOISE = "eeglab_sample_32ch_128hz.npz"
DIGIT_SECONDS, BANDS, FRAMES = 0.8, 24, 40


def root(quick: bool) -> Path | None:
    """Where the recordings are; None for a quick run, which makes everything up."""
    if quick:
        return None
    from harken.papers._brain import brain_file

    return brain_file(NOISE).parents[1]


def embed(voices: Sequence[np.ndarray], quick: bool) -> torch.Tensor:
    """Speaker embeddings by harken's own encoder, of the first three seconds of each; of a quick run, their spectra."""
    import numpy as np
    import torch

    from harken.signal.speech_features import log_mel

    clips = [torch.from_numpy(np.ascontiguousarray(voice[: 3 * RATE])) for voice in voices]
    if quick:
        return torch.stack([log_mel(clip, RATE, bands=8).mean(1) for clip in clips])
    from harken import models

    encoder = models.load("speaker-encoder")
    with torch.inference_mode():
        return torch.cat([encoder(clip[None, None]) for clip in clips])


@dataclass(frozen=True)
class Listening:
    """One simulated listener, and the noise around them, parted into training and test.

    Attributes:
        person: the listener.
        noise: a recording for each part; None for pink noise.
        seed: of the listener, and of the noise of each trial.
    """

    person: Any
    noise: tuple[Any, Any]
    seed: int

    @classmethod
    def draw(cls, seed: int, folder: Path | None) -> Listening:
        """A listener to 40 mel bands with sixteen sources."""
        from dataclasses import replace

        from harken.data.brain_files import read_recording
        from harken.tasks.simulate_listening import simulated_people

        noise = None
        if folder is not None:
            noise = read_recording(folder / "brain" / NOISE).filtered(0.5, None).resampled(SFREQ)
        person = simulated_people(noise, 1, bands=40, sfreq=SFREQ, seed=seed)[0]
        if noise is None:
            return cls(person, (None, None), seed)
        middle = round(0.6 * noise.data.shape[1])
        return cls(
            person, (replace(noise, data=noise.data[:, :middle]), replace(noise, data=noise.data[:, middle:])), seed
        )

    def to(
        self, streams: Sequence[np.ndarray], attended: int, number: int, *, test: bool, snr: float = SNR
    ) -> np.ndarray:
        """The signals of one trial, ``(channels, samples)``."""
        from harken.tasks.simulate_listening import simulate_attention

        made = simulate_attention(
            streams, attended, noise=self.noise[int(test)], person=self.person, ignored=IGNORED, snr=snr, sfreq=SFREQ,
            seed=self.seed, draw=2 * number + test,
        )  # fmt: skip
        return made.data


def decode_talkers(
    seed: int, quick: bool, progress: Progress, done: float, share: float
) -> dict[str, dict[float, float]]:
    """Right decisions by window: by envelopes, by clusters where the two differ, by both, by envelopes where not."""
    import numpy as np

    from harken.models.brain.attention_decoder import AttentionDecoder
    from harken.models.brain.envelope_decoder import EnvelopeDecoder
    from harken.models.brain.speaker_clusters import SpeakerClusters

    folder = root(quick)
    train_voices, test_voices, talker = _talkers(folder, seed)
    clusters = SpeakerClusters.fit(embed(train_voices, quick), clusters=2 if quick else CLUSTERS, seed=seed)
    kind, test_kind = clusters.predict(embed(train_voices, quick)), clusters.predict(embed(test_voices, quick))
    progress(done + 0.2 * share, "voices clustered")
    listening, rng = Listening.draw(seed, folder), np.random.default_rng((seed, 5))
    seconds, count = (2.0, 12) if quick else (6.0, 180)
    x, envelope, label = [], [], []
    for number in range(count):
        pair = rng.choice(len(train_voices), 2, replace=False)
        streams = [train_voices[i][: round(seconds * RATE)] for i in pair]
        x.append(listening.to(streams, 0, number, test=False))
        envelope.append(_envelope(streams[0]))
        label.append(int(kind[pair[0]]))
    trf = EnvelopeDecoder(sfreq=SFREQ).fit(np.stack(x), np.stack(envelope))
    progress(done + 0.4 * share, "envelope decoder fitted")
    half = round(seconds * SFREQ) // 2
    cut = [part for trial in x for part in (trial[:, :half], trial[:, half : 2 * half])]
    bilstm = AttentionDecoder(
        epochs=1 if quick else 40,
        seed=seed,
        progress=lambda part, note: progress(done + share * (0.4 + 0.5 * part), note),
    ).fit(np.stack(cut), np.repeat(label, 2))
    windows = WINDOWS[:2] if quick else WINDOWS
    found: dict[str, dict[float, list[bool]]] = {
        n: {w: [] for w in windows} for n in ("envelope", "clusters", "both", "same")
    }
    for number in range(4 if quick else 80):
        while True:
            a, b = rng.choice(len(test_voices), 2, replace=False)
            if talker[a] != talker[b]:
                break
        streams = [test_voices[i][: round(max(windows) * RATE)] for i in (a, b)]
        trial = listening.to(streams, 0, number, test=True)
        heard = np.stack([_envelope(stream) for stream in streams])
        for window in windows:
            length = round(window * SFREQ)
            parts = range(0, trial.shape[1] - length + 1, length)
            signals = np.stack([trial[:, p : p + length] for p in parts])
            by_envelope = trf.attend(signals, np.stack([heard[:, p : p + length] for p in parts]))
            kinds = np.tile([int(test_kind[a]), int(test_kind[b])], (len(signals), 1))
            by_cluster = bilstm.choose(signals, kinds)
            found["envelope"][window] += (by_envelope == 0).tolist()
            found["both"][window] += (np.where(by_cluster < 0, by_envelope, by_cluster) == 0).tolist()
            if test_kind[a] != test_kind[b]:
                found["clusters"][window] += (by_cluster == 0).tolist()
            else:
                found["same"][window] += (by_envelope == 0).tolist()
    return {name: {w: float(np.mean(r)) if r else 0.5 for w, r in rows.items()} for name, rows in found.items()}


def answer_about_talkers(seed: int, quick: bool, progress: Progress, done: float, share: float) -> dict[str, float]:
    """How often the word of the attended talker is named, by what the language model is told of the intention."""
    import numpy as np
    import torch

    from harken.models.brain.aad_llm import SceneLM, SceneLMConfig, encode, thought_of
    from harken.models.brain.attention_decoder import AttentionDecoder
    from harken.models.brain.speaker_clusters import SpeakerClusters

    folder = root(quick)
    train, test = _digits(folder)  # speaker -> digit -> clips
    speakers, rng = sorted(train), np.random.default_rng((seed, 6))
    passages = [[_passage(train[who], rng) for _ in range(2 if quick else 4)] for who in speakers]
    embeddings = embed([clip for one in passages for clip in one], quick)
    clusters = SpeakerClusters.fit(embeddings, clusters=len(speakers), seed=seed)
    votes = clusters.predict(embeddings).reshape(len(speakers), -1)
    kind = {who: int(row.mode().values) for who, row in zip(speakers, votes, strict=True)}
    if quick:  # made-up voices are all of one kind
        kind = {who: number for number, who in enumerate(speakers)}
    listening = Listening.draw(seed, folder)
    pairs_of = [tuple(str(who) for who in rng.choice(speakers, 2, replace=False)) for _ in range(10 if quick else 120)]
    said = [[_passage(train[who], rng) for who in pair] for pair in pairs_of]
    label = np.array([kind[pair[0]] for pair in pairs_of])
    decoders = {}
    for snr in (CLEARER, SNR):
        trials = [listening.to(streams, 0, number, test=False, snr=snr) for number, streams in enumerate(said)]
        decoders[snr] = AttentionDecoder(epochs=1 if quick else 40, seed=seed).fit(np.stack(trials), label)
    progress(done + 0.2 * share, "attention decoder fitted")

    def scenes(part: dict[str, dict[int, list[np.ndarray]]], count: int) -> tuple[Any, list[Any], list[Any]]:
        pairs, words, mels = [], [], []
        for _ in range(count):
            pair = tuple(str(who) for who in rng.choice(speakers, 2, replace=False))
            said = tuple(int(word) for word in rng.integers(0, 10, 2))
            clips = [
                part[who][word][int(rng.integers(len(part[who][word])))] for who, word in zip(pair, said, strict=True)
            ]
            pairs.append(pair)
            words.append(said)
            mels.append(np.stack([clip * rng.uniform(0.5, 1.5) for clip in clips]))
        return _mel(np.stack(mels)), pairs, words

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = SceneLMConfig(dim=16, layers=1, heads=2, bands=BANDS, intention=embeddings.shape[1])
        config = (
            size if quick else SceneLMConfig(dim=64, layers=3, bands=BANDS, intention=embeddings.shape[1], dropout=0.1)
        )
        model = SceneLM(config)
        steps, batch = (3, 4) if quick else (900, 32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
        pool, pairs, words = scenes(train, 8 if quick else 3000)
        asked = encode([QUESTION]).expand(batch, -1)
        model.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, (step + 1) / 50, (steps - step) / (0.6 * steps))
            rows = rng.integers(0, len(pairs), batch)
            attended = rng.integers(0, 2, batch)
            texts = [
                thought_of([kind[who] for who in pairs[row]], int(one), DIGITS[words[row][one]])
                for row, one in zip(rows, attended, strict=True)
            ]
            intended = torch.tensor([kind[pairs[row][one]] for row, one in zip(rows, attended, strict=True)])
            present = torch.from_numpy(rng.random(batch) > 0.15)
            scene = (
                pool[torch.from_numpy(rows)]
                + 0.1 * torch.from_numpy(rng.standard_normal((batch, 2, BANDS, FRAMES))).float()
            )
            loss = model.loss(asked, scene, encode(texts, answers=True), clusters.intention(intended), present)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 20 == 0:
                progress(done + share * (0.2 + 0.7 * step / steps), f"step {step}, loss {float(loss.detach()):.3f}")
    model.eval()
    scene, pairs, words = scenes(test, 6 if quick else 200)
    heard = [[_passage(test[who], rng) for who in pair] for pair in pairs]
    pair_kinds = np.array([[kind[who] for who in pair] for pair in pairs])
    found: dict[str, float] = {}
    streams_of = {
        "oracle": np.zeros(len(pairs), int),
        "random": rng.integers(0, 2, len(pairs)),
        "swapped": np.ones(len(pairs), int),
    }
    for snr, decoder in decoders.items():
        name = "decoded" if snr == CLEARER else f"decoded_at_{snr:g}_db"
        signals = [listening.to(streams, 0, number, test=True, snr=snr) for number, streams in enumerate(heard)]
        chosen = decoder.choose(np.stack(signals), pair_kinds)
        apart = chosen >= 0  # where both are of one cluster, either intention is the same, and nothing was decoded
        found[f"attention_{name}"] = float((chosen[apart] == 0).mean()) if apart.any() else 0.5
        streams_of[name] = np.where(apart, chosen, 0)
    for name, stream in streams_of.items():
        intention = clusters.intention(torch.from_numpy(pair_kinds[np.arange(len(pairs)), stream]))
        found[name] = _named(model.answers(QUESTION, scene, intention, longest=24), words, 0)
    found["none"] = _named(model.answers(QUESTION, scene, longest=24), words, 0)
    progress(done + share, "answered")
    return found


def _named(answers: Sequence[Any], words: Sequence[tuple[int, int]], talker: int) -> float:
    return sum(answer.text == DIGITS[said[talker]] for answer, said in zip(answers, words, strict=True)) / len(answers)


def _talkers(folder: Path | None, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Voices to train on, voices of others to test on, and whose each of those is."""
    from harken.tasks.simulate_listening import speech_files, synthetic_speech

    if folder is None:
        made = synthetic_speech(6, 3.0, seed)
        return made[:4], made[4:] + made[:1], ["a", "b", "c"]
    from harken.data.mixing import audio_files

    train = [v for v in speech_files([_existing(folder / "speech/librispeech_many_speakers")]) if len(v) >= 6 * RATE]
    paths = audio_files(_existing(folder / "speech/librispeech_test_other"))
    voices = speech_files(paths)
    kept = [i for i, voice in enumerate(voices) if len(voice) >= max(WINDOWS) * RATE]
    return train, [voices[i] for i in kept], [paths[i].name.split("-")[0] for i in kept]


def _digits(
    folder: Path | None,
) -> tuple[dict[str, dict[int, list[np.ndarray]]], dict[str, dict[int, list[np.ndarray]]]]:
    """Spoken digits by speaker and digit: takes to train on, and others to test on; 16 kHz, 0.8 s."""
    import csv

    import numpy as np

    from harken.tasks.simulate_listening import speech_files, synthetic_speech

    parts: tuple[dict[str, dict[int, list[np.ndarray]]], ...] = ({}, {})
    length = round(DIGIT_SECONDS * RATE)
    if folder is None:
        for number, clip in enumerate(synthetic_speech(40, DIGIT_SECONDS)):
            for part in parts:
                part.setdefault("ab"[number % 2], {}).setdefault(number // 2 % 10, []).append(clip)
        return parts[0], parts[1]
    place = _existing(folder / "speech/digits_8k")
    with (place / "index.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    sound = {name: speech_files([place / name])[0] for name in sorted({row["file"] for row in rows})}
    for row in rows:
        start = 2 * int(row["start"])
        clip = sound[row["file"]][start : start + min(length, 2 * int(row["length"]))]
        clip = np.pad(clip / (np.sqrt(np.mean(np.square(clip))) + 1e-9) * 0.05, (0, length - len(clip)))
        part = parts[int(row["take"]) >= 20]
        part.setdefault(row["speaker"], {}).setdefault(int(row["digit"]), []).append(clip.astype(np.float32))
    return parts[0], parts[1]


def _passage(clips: dict[int, list[np.ndarray]], rng: np.random.Generator, count: int = 5) -> np.ndarray:
    """Some digits of one speaker in a row."""
    import numpy as np

    said = rng.integers(0, 10, count)
    return np.concatenate([clips[int(word)][int(rng.integers(len(clips[int(word)])))] for word in said])


def _mel(clips: np.ndarray) -> torch.Tensor:
    """Log-mel of pairs of clips, ``(scenes, 2, bands, frames)``, scaled to about unit variance."""
    import torch

    from harken.signal.speech_features import log_mel

    mel = log_mel(torch.from_numpy(clips).float(), RATE, bands=BANDS, hop_length=round(DIGIT_SECONDS * RATE / FRAMES))
    return (mel[..., :FRAMES] + 4) / 3.5


def _envelope(samples: np.ndarray) -> np.ndarray:
    import numpy as np
    import torch

    from harken.signal.speech_features import speech_envelope

    return speech_envelope(torch.from_numpy(np.ascontiguousarray(samples)), RATE, SFREQ).numpy()


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"this claim needs '{folder.name}': set HARKEN_DATA to a folder with speech/{folder.name}")
    return folder
