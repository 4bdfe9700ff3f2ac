"""Make docs/listen.md: what the bundled weights do to the samples, to be heard, seen and compared.

    python samples/make_listening_page.py

Runs every verb that has weights on the recordings beside this file, writes clips (Ogg Vorbis) and spectrograms into
docs/listen/ and the page that shows them. The page is generated: change this script, not the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import harken
from harken.data.audio import Audio, read, write
from harken.figures import new_figure, save_figure
from harken.models import weights_folder
from harken.score.distortion import si_sdr
from harken.score.enhancement import score_enhancement
from harken.score.extension import score_extension
from harken.tasks.pictures import Sketch

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "listen.md"
CLIPS = PAGE.with_suffix("")

INTRODUCTION = """# Listen

What the weights that ship do to the recordings that ship, so that you can judge with your own ears. Every clip was made
as the command above it says. The scores in the tables are of these clips alone; what the same weights reach on
recordings of other people stands under each heading. The voices are telephone prompts read by Allison Smith (English)
and June Wallack (French), licensed under CC BY-SA 3.0, and so are all clips on this page; `samples/README.md` tells
where they come from. None of the weights was trained on these voices.
"""


@dataclass
class Clip:
    """Something to hear, with what it is and how it scores."""

    label: str
    audio: Audio
    scores: dict[str, str] = field(default_factory=dict)


@dataclass
class Case:
    """One comparison: a command and its clips."""

    name: str
    title: str
    text: str
    command: str
    clips: list[Clip]


def sample(name: str) -> Audio:
    """A recording that lies beside this file or in the package."""
    folders = (HERE, HERE.parent / "src/harken/data/samples")
    return next(read(folder / f"{name}.flac") for folder in folders if (folder / f"{name}.flac").exists())


def enhanced() -> Iterator[Case]:
    """Voices in noise, through every enhancer that ships."""
    models = {"mp-senet": "MP-SENet", "mambattention": "MambAttention"}
    models = {slug: title for slug, title in models.items() if weights_folder(slug)}
    texts = {
        "voice-in-babble": "An English voice in twelve rows of French prompts, 10 dB",
        "voice-in-kitchen": "A French voice by an extractor and crockery (synthetic), 5 dB",
        "voice-by-fan": "An English voice by a fan (synthetic), 0 dB",
    }
    for name, text in texts.items():
        noisy, clean = sample(f"{name}-noisy"), sample(f"{name}-clean")
        clips = [Clip("as recorded", noisy, _speech_scores(clean, noisy))]
        for slug, title in models.items():
            made = harken.task("enhance")(noisy, model=slug)
            clips.append(Clip(title, made, _speech_scores(clean, made)))
        clips.append(Clip("the voice alone", clean))
        yield Case(name, text, "", f"harken enhance samples/{name}-noisy.flac", clips)


def extended() -> Iterator[Case]:
    """A voice of the telephone's band, given the band above."""
    if not weights_folder("ap-bwe"):
        return
    wide = sample("voice-by-fan-clean")
    narrow = wide.resample(8000)
    clips = [Clip("8 kHz, as a telephone sends it", narrow)]
    for label, model in (("copies of the band", "copy-up"), ("AP-BWE", "ap-bwe")):
        made = harken.task("extend")(narrow, to=16000, model=model)
        clips.append(Clip(label, made, _extension_scores(wide, made)))
    clips.append(Clip("the original at 16 kHz", wide))
    text = "The lower score is better: the distance of log spectra above 4 kHz."
    yield Case("telephone", "A telephone's band, widened", text, "harken extend telephone.wav --to 16000", clips)


def extracted() -> Iterator[Case]:
    """One of two voices, known from another recording of hers."""
    if not (weights_folder("look-once-to-hear") and weights_folder("speaker-encoder")):
        return
    wanted, other = sample("voice-by-fan-clean"), sample("voice-in-kitchen-clean")
    frames = min(wanted.frames, other.frames)
    wanted, other = (Audio(audio.samples[:frames] / _rms(audio) * 0.05, audio.rate) for audio in (wanted, other))
    mixture, example = Audio(wanted.samples + other.samples, wanted.rate), sample("voice-in-babble-clean")
    made = harken.task("extract")(mixture, example)
    other_made = harken.task("extract")(mixture, sample("voice-in-kitchen-clean"))
    clips = [
        Clip("both voices", mixture, _si_sdr(wanted, mixture)),
        Clip("the example", example),
        Clip("the English voice, extracted", made, _si_sdr(wanted, made)),
        Clip("the English voice alone", wanted),
        Clip("the French voice, extracted by her own example", other_made, _si_sdr(other, other_made)),
    ]
    text = (
        "Two voices at one level, on one channel: the two ears hear the same, so that only the voice tells them apart. "
        "The French example is the very recording that was mixed, the English one says something else. Neither voice "
        "is isolated: the weights that ship take away noise, and hardly prefer the talker whom they are given."
    )
    command = "harken extract both.wav --enroll samples-of-her-voice.wav"
    yield Case("two-voices", "An English and a French voice", text, command, clips)


def separated() -> Iterator[Case]:
    """Speech from noise, and a rendered song."""
    if weights_folder("demucs-speech"):
        noisy, clean = sample("voice-by-fan-noisy"), sample("voice-by-fan-clean")
        noise = Audio(noisy.samples - clean.samples, noisy.rate)
        stems = harken.task("separate")(noisy, stems=["speech", "noise"])
        clips = [Clip("as recorded", noisy, _si_sdr(clean, noisy))]
        for label, truth in (("speech", clean), ("noise", noise)):
            clips.append(Clip(label, stems[label], _si_sdr(truth, stems[label])))
        command = "harken separate samples/voice-by-fan-noisy.flac --stems speech,noise"
        yield Case("voice-and-fan", "An English voice and a fan", "", command, clips)
    if weights_folder("demucs"):
        truths = {name: sample(f"song-{name}") for name in ("drums", "bass", "other")}
        rate = truths["drums"].rate
        song = Audio(sum(truth.samples for truth in truths.values()), rate)
        stems = harken.task("separate")(song, stems=list(truths))
        clips = [Clip("the song", song)]
        for name, truth in truths.items():
            before, after = separation_score(truth, song), separation_score(truth, stems[name])
            title = "SI-SDR, dB"
            scores = {f"{title}, of the song": before[title], title: after[title]}
            clips += [Clip(f"{name}, separated", stems[name], scores), Clip(f"{name} as rendered", truth)]
        text = (
            "A song that was rendered from notes, like those that the weights were trained on; never trained on itself."
        )
        yield Case("song", "Drums, bass and the rest", text, "harken separate song.wav", clips)


def _rms(audio: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(audio.samples))))


def _si_sdr(truth: Audio, made: Audio) -> dict[str, str]:
    return {"SI-SDR, dB": f"{si_sdr(truth.samples[:, 0], made.samples[: truth.frames, 0]):.1f}"}


def _speech_scores(clean: Audio, made: Audio) -> dict[str, str]:
    names = {"pesq_wb": "PESQ", "stoi": "STOI", "si_sdr": "SI-SDR, dB"}
    scores = score_enhancement(clean.samples[:, 0], made.samples[: clean.frames, 0], clean.rate, list(names))
    digits = {"pesq_wb": 2, "stoi": 3, "si_sdr": 1}
    return {title: f"{scores[name]:.{digits[name]}f}" for name, title in names.items()}


def _extension_scores(wide: Audio, made: Audio) -> dict[str, str]:
    scores = score_extension(wide.samples[:, 0], made.samples[: wide.frames, 0], wide.rate, above=4000)
    return {"LSD above 4 kHz": f"{scores['lsd_high']:.2f}"}


def separation_score(reference: Audio, made: Audio) -> dict[str, str]:
    """SI-SDR of one stem, mean of its channels."""
    pairs = zip(reference.samples.T, made.samples[: reference.frames].T, strict=True)
    return {"SI-SDR, dB": f"{np.mean([si_sdr(*pair) for pair in pairs]):.1f}"}


def draw(clips: list[Clip], path: Path) -> None:
    """Their spectrograms in a row, on one scale of level."""
    figure = new_figure(3.2 * len(clips), 2.8)
    axes = np.atleast_1d(figure.subplots(1, len(clips), sharey=True))
    sketches = []
    for clip in clips:
        sketch = Sketch(clip.audio.frames, clip.audio.rate)
        list(sketch.through([clip.audio.samples]))
        sketches.append(sketch)
    loudest = max(sketch.decibels.max() for sketch in sketches)
    highest = max(sketch.rate for sketch in sketches) / 2000
    for axis, clip, sketch in zip(axes, clips, sketches, strict=True):
        extent = (0, sketch.seconds, 0, sketch.rate / 2000)
        style = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": loudest - 70, "vmax": loudest}
        axis.imshow(sketch.decibels, extent=extent, **style)
        axis.set(title=clip.label, xlabel="time (s)", ylim=(0, highest))
        axis.set_facecolor("black")
    axes[0].set_ylabel("frequency (kHz)")
    save_figure(figure, path)


def write_up(case: Case) -> str:
    """The part of the page that shows a case; its files are written."""
    names = list(dict.fromkeys(name for clip in case.clips for name in clip.scores))
    header = ["", "listen", *names]
    lines = [f"### {case.title}", "", "```", case.command, "```", ""]
    lines += [case.text, ""] if case.text else []
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for number, clip in enumerate(case.clips):
        file = f"{case.name}-{number}.ogg"
        write(CLIPS / file, clip.audio)
        player = f'<audio controls preload="none" src="../listen/{file}"></audio> [file](listen/{file})'
        lines.append("| " + " | ".join([clip.label, player, *(clip.scores.get(name, "") for name in names)]) + " |")
    draw(case.clips, CLIPS / f"{case.name}.jpg")
    labels = ", ".join(clip.label for clip in case.clips)
    return "\n".join([*lines, "", f"![Spectrograms: {labels}](listen/{case.name}.jpg)", ""])


SECTIONS: dict[str, tuple[str, Callable[[], Iterator[Case]]]] = {
    "Enhance": ("[How](enhance.md).", enhanced),
    "Extend": ("[How](extend.md).", extended),
    "Extract": ("[How](extract.md).", extracted),
    "Separate": ("[How](separate.md).", separated),
}


def main() -> None:
    """Write the page and its files anew."""
    CLIPS.mkdir(exist_ok=True)
    for old in CLIPS.iterdir():
        old.unlink()
    parts = [INTRODUCTION]
    for title, (text, make) in SECTIONS.items():
        if cases := [write_up(case) for case in make()]:
            parts += [f"## {title}\n\n{text}\n", *cases]
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
