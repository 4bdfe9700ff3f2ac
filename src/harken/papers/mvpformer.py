"""MVPFormer: attention over time and channels that predicts and reads intracranial EEG (arXiv 2506.20354)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from harken.data.brain import Trials as BrainTrials
    from harken.papers._trials import Trials

LABELS, HELD_OUT = 10, 20  # of each class
SEGMENT = 256  # samples, 1.47 s of Bonn
EPOCHS, PRETRAIN_EPOCHS = 60, 30
MARGIN = 0.02  # of accuracy
TASKS = {"five": ("A_Z", "B_O", "C_N", "D_F", "E_S"), "cd": ("C_N", "D_F")}


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Wavelet coefficients, tokens, the parts of the first block, predictions and the contrastive loss of a case."""
    import torch

    from harken.models.brain.mvpformer import MVPFormer, MVPFormerConfig
    from harken.models.brain.next_segment import contrastive_logits, contrastive_loss
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    sizes = case.config
    config = MVPFormerConfig(
        segment=sizes["size_input"],
        wavelet=sizes["wavelet"],
        dim=sizes["n_embd"],
        layers=sizes["n_layer"],
        heads=sizes["n_head"],
        kv_heads=sizes["n_head_kv"],
        hidden=sizes["n_inner"],
        classes=0,
        max_segments=sizes["n_positions"],
        max_channels=sizes["n_channels"],
        content_window=sizes["window"],
        lag_indexing="upstream",
        last_sees_all=sizes["global_att"],
        norm_eps=sizes["norm_eps"],
    )
    model: Any = MVPFormer.from_authors(case.weights, config).eval()
    x, negatives = case.io["x"], case.io["negative_index"]
    with torch.inference_mode():
        tokens = model.encode(x)
        block = model.blocks[0]
        normed, grid = block.norm(tokens).flatten(1, 2), (x.shape[2], x.shape[1])
        mixed, fed = block.attention(normed, grid=grid), block.ffn(normed)
        hidden = model.hidden(tokens)
        predicted = model.predict_next(tokens)
        logits = contrastive_logits(predicted, tokens, negatives, sizes["temp"])
        return {
            "dwt": model.encoder.transform(x).flatten(0, 2),
            "tokens": tokens,
            "layer0_attn_weights": block.attention.weights(normed, grid=grid),
            "layer0_attn_out": mixed.view_as(tokens),
            "layer0_mlp_out": fed.view_as(tokens),
            "layer0_block_out": block(tokens.flatten(1, 2), grid=grid).view_as(tokens),
            "hidden": hidden,
            "pred": predicted,
            "logits": logits.flatten(0, 2),
            "loss": contrastive_loss(logits),
        }


def helps_with_few_labels(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Ten labelled trials a class of the Bonn recordings: pre-trained on the rest without labels, or from scratch.

    Tokens as published, without the power of their bands; the detector that has it, and logistic regression on band
    powers, stand beside.
    """
    from harken.papers._trials import Trials

    seeds = range(seed, seed + (1 if quick else 3))
    tasks = {"five": TASKS["five"]} if quick else TASKS
    found = {name: Trials("accuracy") for name in tasks}
    retrieval: list[float] = []
    for number, (trial, name) in enumerate((s, n) for s in seeds for n in tasks):
        progress(number / (len(seeds) * len(tasks)), f"{name}, seed {trial}")
        accuracies, picked = _few_labels(_trials(quick, tasks[name]), trial, quick)
        for candidate, value in accuracies.items():
            found[name].values.setdefault(candidate, []).append(value)
        retrieval.append(picked)
    ours = ("pretrained", "scratch", "scratch_with_powers")
    measured = {f"{n}_{key}": v for n, one in found.items() for key, v in one.as_measured(ours).items()}
    baseline = {f"{n}_{key}": v for n, one in found.items() for key, v in one.as_measured(("band_power",)).items()}
    measured["next_segment_accuracy"] = sum(retrieval) / len(retrieval)
    baseline["next_segment_chance"] = 1 / 31
    five = found["five"]
    return Evidence(
        measured=measured,
        baseline=baseline,
        verdict=_judge(five),
        summary=(
            f"Bonn, five classes, {LABELS} labels each, {len(seeds)} draws: pre-trained {five.text('pretrained')}, "
            f"from scratch {five.text('scratch')}; with band powers in the tokens {five.text('scratch_with_powers')}; "
            f"logistic regression on band powers {five.text('band_power')}; chance 20 %. The next of 31 segments is "
            f"picked in {100 * measured['next_segment_accuracy']:.0f} % of held-out cases (chance 3 %)."
        ),
        settings={
            "labels_per_class": LABELS,
            "held_out_per_class": HELD_OUT,
            "segment": SEGMENT,
            "model": "dim 64, 3 layers, 4 heads, 2 of keys and values",
            "pretrain_epochs": PRETRAIN_EPOCHS,
            "epochs": EPOCHS,
            "seeds": list(seeds),
            "data": "synthetic" if quick else "bonn_eeg.npz",
            "rule": (
                f"five classes, pre-trained against scratch, paired by the draws: holds where it is better by more "
                f"than {MARGIN} of accuracy and two standard errors, fails where it is worse by as much"
            ),
        },
    )


def _judge(five: Trials) -> Verdict:
    """Fixed before the run."""
    finding = five.finding("pretrained", "scratch", MARGIN)
    return {"better": "holds", "worse": "fails here"}.get(finding, "not shown here")  # type: ignore[return-value]


def _few_labels(trials: BrainTrials, seed: int, quick: bool) -> tuple[dict[str, float], float]:
    """Accuracies on the same held-out trials, and how often the next segment was picked there."""
    import numpy as np

    from harken.models.brain.baselines import baseline
    from harken.models.brain.seizure import SeizureDetector

    rng = np.random.default_rng(seed)
    of_class = [np.flatnonzero(trials.y == label) for label in range(len(trials.classes))]
    held_out = 4 if quick else HELD_OUT
    test = trials.select(np.concatenate([index[:held_out] for index in of_class]))
    pool = trials.select(np.concatenate([index[held_out:] for index in of_class]))
    labelled = trials.select(np.concatenate([rng.choice(i[held_out:], LABELS, replace=False) for i in of_class]))
    sizes: dict[str, Any] = {"segment": SEGMENT, "seed": seed, "validation": 0.0, "patience": None, "device": "cpu"}
    sizes |= {"dim": 8, "layers": 1, "hidden": 8, "epochs": 1} if quick else {"epochs": EPOCHS}
    passes = 1 if quick else PRETRAIN_EPOCHS
    pretrained = SeizureDetector(**sizes, amplitude=False, pretrain_epochs=passes, pretrain_lr=3e-3)
    found = {
        "pretrained": pretrained.fit(labelled, labelled.y, unlabelled=pool).score(test, test.y),
        "scratch": SeizureDetector(**sizes, amplitude=False).fit(labelled, labelled.y).score(test, test.y),
        "scratch_with_powers": SeizureDetector(**sizes).fit(labelled, labelled.y).score(test, test.y),
        "band_power": baseline("band-power", trials.sfreq).fit(labelled.x, labelled.y).score(test.x, test.y),
    }
    return {name: float(value) for name, value in found.items()}, pretrained.retrieval_accuracy(test)


def _trials(quick: bool, classes: tuple[str, ...]) -> BrainTrials:
    """Bonn's recordings of some classes; stand-ins with a rhythm a class for a quick run."""
    import numpy as np

    from harken.data.brain import Trials, joined
    from harken.data.brain_files import read_trials
    from harken.papers._brain import brain_file

    if not quick:
        whole = read_trials(brain_file("bonn_eeg.npz"), sfreq=173.61)
        kept = [whole.select(whole.y == whole.classes.index(name)) for name in classes]
        return joined([Trials(part.x, part.y * 0, (n,), whole.sfreq) for n, part in zip(classes, kept, strict=True)])
    rng = np.random.default_rng(0)
    y = np.arange(16 * len(classes)) % len(classes)
    rhythm = np.sin(2 * np.pi * (3 + 3 * y[:, None]) * np.arange(1024) / 173.61 + rng.uniform(0, 6, (len(y), 1)))
    return Trials((rhythm + rng.standard_normal(rhythm.shape))[:, None] * 1e-5, y, classes, 173.61)


CLAIMS = (
    Claim(
        name="few-labels",
        statement="Learning to tell the next segment from others, without labels, helps to tell brain states apart.",
        source="arXiv 2506.20354, ablation",
        paper_value="Cohen's kappa on SWEC iEEG: 0.52 without generative pre-training, 0.54 with it (MVPFormer-S)",
        run=helps_with_few_labels,
    ),
)

PAPER = Paper(
    slug="mvpformer",
    title="A foundation model with multi-variate parallel attention to generate neuronal activity",
    arxiv="2506.20354",
    repository="IBM/multi-variate-parallel-transformer",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=(
        "attention/multivariate.py",
        "models/brain/mvpformer.py",
        "models/brain/next_segment.py",
        "models/brain/seizure.py",
        "signal/wavelet.py",
        "layers/lora.py",
        "score/seizures.py",
        "tasks/find_seizures.py",
    ),
    reached_by=("harken brain seizure", 'create_attention("multivariate")'),
    model="harken.models.brain.mvpformer:MVPFormer",
    status="partial",
    missing="seizures of many channels: its data are too large to come by; the comparison with vanilla attention there",
    claims=CLAIMS,
    replay=replay,
)
