"""Brain to speech: which segment a person heard, matched contrastively from M/EEG (arXiv 2208.12266)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from harken.papers._trials import Trials


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Embedding, attention (also with a banned disc), every stage, the merged form, and the CLIP loss of a case."""
    from dataclasses import replace

    import torch

    from harken.models.brain.segment_retrieval import clip_loss, clip_scores
    from harken.models.brain.speech_decoding import SpeechDecoding, fourier_embedding
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    io, config = case.io, case.config
    found = SpeechDecoding.from_authors(case.weights).config
    sizes = replace(found, dilation_period=config["dilation_period"], ban_radius=config["merger_dropout"])
    model = SpeechDecoding.from_authors(case.weights, sizes).eval()
    x, positions, subject = io["x"], io["positions"], io["subject"]
    with torch.no_grad():
        merged = model.sensors(x, positions)
        mixed = model.mix(merged)
        own = model.subjects(mixed, subject)
        blocks = model.blocks
        first = blocks.layer(0, own)
        encoded = blocks(own)
        out = model.head(encoded)
        scores = clip_scores(out, io["candidates"])
        return {
            "fourier_embedding": fourier_embedding(positions, sizes.position_dim),
            "merger_out": merged,
            "merger_train_out": model.sensors(x, positions, ban=torch.tensor(config["merger_train_ban_center"])),
            "initial_linear_out": mixed,
            "subject_out": own,
            "conv0_out": first,
            "conv1_branch_out": blocks.branch(1, first),
            "glu1_out": blocks.layer(1, first),
            "encoder_out": encoded,
            "out": out,
            "scores": scores,
            "probabilities": scores.softmax(-1),
            "loss": clip_loss(scores),
        }


MARGIN = 0.03  # of top-10 accuracy: a difference below it is no effect
LARGE = 0.08  # what contrast gained over regression on the paper's better EEG set (1.0 to 9.7 %)
_SAID = (
    "semi-simulated: real speech and real EEG, but the responses in between are computed, so that this shows the "
    "method and nothing about brains"
)


def contrast_against_regression(seed: int, quick: bool, progress: Progress) -> Evidence:
    """One network for all simulated listeners, trained to match segments or to predict mel bands."""
    return _compared(seed, quick, progress, "contrastive", "regression")


def subject_layer(seed: int, quick: bool, progress: Progress) -> Evidence:
    """One network with a matrix for each simulated listener, or a network each."""
    return _compared(seed, quick, progress, "subject_layer", "one_model_each")


def _compared(seed: int, quick: bool, progress: Progress, ours: str, other: str) -> Evidence:
    from harken.papers import _brain_speech as experiment
    from harken.papers._trials import Trials

    seeds = range(seed, seed + (1 if quick else 2))
    tops = {k: Trials("accuracy", {}) for k in ("top1", "top10")}
    candidates = 0
    for number, one in enumerate(seeds):
        train, test = experiment.trials(one, quick)
        candidates = len(test) // len(set(test.subject.tolist()))

        def told(what: str, half: int, number: int = number) -> object:
            return experiment.told_by(progress, (number + half / 2) / len(seeds), 0.5 / len(seeds), what)

        found = {ours: experiment.shared(train, test, "clip", one, quick, told(ours, 0))}
        if other == "regression":
            found[other] = experiment.shared(train, test, "regression", one, quick, told(other, 1))
        else:
            found[other] = experiment.one_each(train, test, one, quick, told(other, 1))
        found["ridge"] = experiment.linear(train, test)
        for name, values in found.items():
            for k, value in values.items():
                tops[k].values.setdefault(name, []).append(value)
    measured = {f"{k}_{n}".replace("accuracy_", ""): v for k in tops for n, v in tops[k].as_measured([ours]).items()}
    baseline = {
        f"{k}_{n}".replace("accuracy_", ""): v for k in tops for n, v in tops[k].as_measured([other, "ridge"]).items()
    }
    ten = tops["top10"]
    return Evidence(
        measured=measured,
        baseline={**baseline, "top1_chance": 1 / candidates, "top10_chance": 10 / candidates},
        verdict=_judge(ten, ours, other),
        summary=(
            f"{_SAID[0].upper()}{_SAID[1:]}. Among {candidates} unseen segments the own one is among the ten best in "
            f"{ten.text(ours)} ({ours.replace('_', ' ')}) and {ten.text(other)} ({other.replace('_', ' ')}), is the "
            f"best in {tops['top1'].text(ours)} and {tops['top1'].text(other)}; ridge regression, which fits simulated "
            f"listeners by their making, reaches {ten.text('ridge')} and {tops['top1'].text('ridge')}."
        ),
        settings={
            **experiment.SETTINGS,
            "candidates": candidates,
            "seeds": list(seeds),
            "data": "synthetic" if quick else "semi-simulated: real speech, real EEG as noise, simulated responses",
            "rule": (
                f"top-10 accuracy better by more than {MARGIN} and two standard errors: holds in direction, and holds "
                f"where it is by {LARGE} or more; worse by as much: fails"
            ),
        },
    )


def _judge(ten: Trials, ours: str, other: str) -> Verdict:
    """Fixed before the run."""
    finding = ten.finding(ours, other, MARGIN)
    if finding == "better":
        return "holds" if ten.gain(ours, other)[0] >= LARGE else "holds in direction"
    return "fails here" if finding == "worse" else "not shown here"


CLAIMS = (
    Claim(
        name="contrastive",
        statement=(
            "Trained to match segments of brain signal and speech, the same network finds unseen speech far more often "
            "than trained to predict the speech's mel bands."
        ),
        source="arXiv 2208.12266, table 2",
        paper_value=(
            "top-10 accuracy, regression to contrast: EEG 6.0 to 8.0 and 1.0 to 9.7 %, "
            "MEG 12.4 to 55.1 and 20.6 to 55.1 %"
        ),
        run=contrast_against_regression,
    ),
    Claim(
        name="subject-layer",
        statement=(
            "One network for all people, with a matrix for each, finds unseen speech more often than a network each."
        ),
        source="arXiv 2208.12266, the subject layer and the growth of accuracy with the number of people",
        paper_value="accuracy grows with the number of people trained on; its size was not available here",
        run=subject_layer,
    ),
)

PAPER = Paper(
    slug="brain-speech-decoding",
    title="Decoding speech from non-invasive brain recordings",
    arxiv="2208.12266",
    repository="facebookresearch/brainmagick",
    licence="CC BY-NC 4.0",
    kind=("model",),
    rooms=(
        "models/brain/speech_decoding.py",
        "models/brain/speech_decoder.py",
        "models/brain/segment_retrieval.py",
        "tasks/brain_speech.py",
    ),
    reached_by=("harken brain speech",),
    model="harken.models.brain.speech_decoding:SpeechDecoding",
    status="partial",
    missing=(
        "no recording of a brain that listens to speech was at hand: its claims are semi-simulated; the authors' "
        "features (wav2vec 2.0) are an option that was not run"
    ),
    claims=CLAIMS,
    replay=replay,
)
