"""How fast are the methods for spellers here? All trials, bands and classes at once against loops over them.

    OMP_NUM_THREADS=1 python benchmarks/brain_ssvep.py [--save FILE.json]

A made-up speller of 40 characters, nine channels, one second at 250 Hz, five bands, 240 trials of a person. In one
process, CPU time of one thread, median of interleaved runs; loops are timed on fewer trials and counted per trial.
Compared, after a check that they give the same:

- FBCCA: all pairs of trial, band and class at once; NumPy's QR and SVD, and scikit-learn's ``CCA``, pair by pair.
- TRCA: sums of trials, and all filters in one product; the double loop over pairs of trials, and trials compared one by
  one with every template.
- The network's second stage: people mapped over (``torch.func``) against one person after the other, in three sizes.
- The network's answer: two fused matrices against its layers, one trial and 240.
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

from harken.data.ssvep import synthetic_ssvep
from harken.models.brain._subject_fitting import PersonalBudget, fit_each
from harken.models.brain.ssvep import canonical_correlation, sine_references
from harken.models.brain.ssvep_dnn import SSVEPNet, SSVEPNetConfig
from harken.models.brain.trca import task_components, template_correlation
from harken.signal.filter_bank import split_bands

BUDGET = PersonalBudget(epochs=3)


def median_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """CPU time of each, interleaved, after one run that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def by_qr(bands: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Pair by pair, as a textbook has it."""
    found = np.empty((len(bands), bands.shape[1], len(references)))
    for n, b, k in np.ndindex(found.shape):
        one, other = bands[n, b].T, references[k]
        left = np.linalg.qr(one - one.mean(0))[0]
        right = np.linalg.qr(other - other.mean(0))[0]
        found[n, b, k] = np.linalg.svd(left.T @ right, compute_uv=False)[0]
    return found


def by_sklearn(bands: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Pair by pair, as most tutorials have it."""
    from sklearn.cross_decomposition import CCA

    found = np.empty((len(bands), bands.shape[1], len(references)))
    for n, b, k in np.ndindex(found.shape):
        one, other = CCA(n_components=1, max_iter=1000).fit_transform(bands[n, b].T, references[k])
        found[n, b, k] = np.corrcoef(one[:, 0], other[:, 0])[0, 1]
    return found


def trca_loop(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Filters from all pairs of different trials."""
    from scipy.linalg import eigh

    filters, templates = [], []
    for k in range(classes):
        own = [trial - trial.mean(-1, keepdims=True) for trial in x[y == k]]
        templates.append(np.mean(own, 0))
        row = []
        for b in range(x.shape[1]):
            between = np.zeros((x.shape[2], x.shape[2]))
            for i in range(len(own)):
                for j in range(len(own)):
                    if i != j:
                        between += own[i][b] @ own[j][b].T
            together = np.concatenate([trial[b] for trial in own], 1)
            row.append(eigh(between, together @ together.T / len(own))[1][:, -1])
        filters.append(row)
    return np.array(filters), np.array(templates)


def template_loop(x: np.ndarray, filters: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Ensemble scores trial by trial, band by band, class by class."""
    found = np.empty((len(x), x.shape[1], len(filters)))
    for n, b, k in np.ndindex(found.shape):
        w = filters[:, b]
        centred = x[n, b] - x[n, b].mean(-1, keepdims=True)
        found[n, b, k] = np.corrcoef((w @ centred).ravel(), (w @ templates[k, b]).ravel())[0, 1]
    return found


def flicker_rows(repeats: int) -> list[dict[str, Any]]:
    frequencies = np.linspace(8, 15.8, 40)
    trials = synthetic_ssvep(frequencies, channels=9, blocks=6, seconds=1.0)
    bands = split_bands(trials.x, trials.sfreq, 5)
    references = sine_references(frequencies, bands.shape[-1], trials.sfreq, 5)
    few = bands[:2]
    assert np.abs(by_qr(few, references) - canonical_correlation(few, references)).max() < 1e-9
    # its power method stops early: close, not equal
    difference = np.abs(by_sklearn(few[:1], references) - canonical_correlation(few[:1], references)).max()
    seconds = median_seconds(
        {
            "at once": lambda: canonical_correlation(bands, references),
            "qr and svd": lambda: by_qr(few, references),
            "scikit-learn": lambda: by_sklearn(few[:1], references),
        },
        repeats,
    )
    per_trial = {
        "at once": seconds["at once"] / len(bands),
        "qr and svd": seconds["qr and svd"] / 2,
        "scikit-learn": seconds["scikit-learn"],
    }
    rows = [
        {
            "what": "fbcca, 40 classes x 5 bands",
            "milliseconds_per_trial": {name: 1000 * value for name, value in per_trial.items()},
            "ratio": {name: value / per_trial["at once"] for name, value in per_trial.items()},
            "largest_difference_to_scikit_learn": float(difference),
        }
    ]
    made = task_components(bands, trials.y, 40)
    filters, templates = trca_loop(bands, trials.y, 40)
    one_by_one = template_loop(few, filters, templates)
    assert np.abs(one_by_one - template_correlation(few, made)).max() < 1e-6
    blocks = 15  # trials of a class: where pairs begin to hurt
    many = np.concatenate([bands] * 3)[: blocks * 40]
    labels = np.tile(np.arange(40), blocks)
    seconds = median_seconds(
        {
            "fit at once": lambda: task_components(many, labels, 40),
            "fit, double loop": lambda: trca_loop(many, labels, 40),
            "scores at once": lambda: template_correlation(bands, made),
            "scores, loop": lambda: template_loop(few, filters, templates),
        },
        repeats,
    )
    seconds["scores, loop"] *= len(bands) / len(few)
    rows.append(
        {
            "what": f"ensemble trca, 40 classes x 5 bands; {blocks} trials a class to fit, 240 to score",
            "seconds": seconds,
            "ratio": {
                "fit": seconds["fit, double loop"] / seconds["fit at once"],
                "scores": seconds["scores, loop"] / seconds["scores at once"],
            },
        }
    )
    return rows


def network_rows(repeats: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    sizes = ((35, 20, 5, 64, 4, 16), (10, 48, 8, 64, 12, 32), (6, 48, 9, 100, 12, 120))
    for people, trials, channels, samples, classes, filters in sizes:
        torch.manual_seed(0)
        net = SSVEPNet(SSVEPNetConfig(channels, samples, classes, 3, filters, (0.3, 0.3, 0.5)))
        x, y = torch.randn(people, trials, 3, channels, samples), torch.randint(classes, (people, trials))
        seconds = median_seconds(
            {
                way: lambda way=way, net=net, x=x, y=y: fit_each(net, x, y, BUDGET, together=way == "together")
                for way in ("together", "one by one")
            },
            repeats,
        )
        rows.append(
            {
                "what": f"second stage, {people} people x {trials} trials, {filters} filters, {samples} samples",
                "milliseconds_per_epoch": {name: 1000 * value / BUDGET.epochs for name, value in seconds.items()},
                "ratio": seconds["one by one"] / seconds["together"],
            }
        )
    net = SSVEPNet().eval()
    fused = net.fused()
    with torch.inference_mode():
        for batch in (1, 240):
            x = torch.randn(batch, 3, 9, 100)
            assert torch.allclose(fused(x), net(x), atol=1e-4)
            turns = 50 if batch == 1 else 1
            seconds = median_seconds(
                {
                    "fused": lambda x=x, turns=turns: [fused(x) for _ in range(turns)],
                    "layers": lambda x=x, turns=turns: [net(x) for _ in range(turns)],
                },
                repeats,
            )
            rows.append(
                {
                    "what": f"an answer of the paper's network, batch {batch}",
                    "microseconds_per_trial": {n: 1e6 * v / turns / batch for n, v in seconds.items()},
                    "ratio": seconds["layers"] / seconds["fused"],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for make in (flicker_rows, network_rows):
        for row in make(args.repeats):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "numpy": np.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
