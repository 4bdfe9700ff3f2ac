"""The table of ``harken hrtf upsample`` on held-out listeners, and the card of its weights: minutes on one core.

    python benchmarks/recipes/hrtfformer_card.py LISTENERS [--weights FOLDER] [--save FILE.json] [--card]

``LISTENERS`` is the folder ``standard_hrir_database`` of the CIPIC database
(github.com/amini-allight/cipic-hrtf-database holds a copy, as its licence permits); every fifth listener is held out,
as ``harken train hrtfformer`` does. Each baseline and, with weights, the network sees 3 to 100 directions of each,
spread as far apart as they go (farthest-point sampling), and is judged in all 1250. ``--card`` writes ``card.json``
and ``README.md`` beside the weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from harken.data.hrtf import CIPIC_NOTICE, find_listeners, magnitudes, read_hrirs, spread_directions
from harken.models.enhance.hrtf_baselines import BASELINES, Listeners, Measured
from harken.models.enhance.hrtfformer import HRTFformer
from harken.score.hrtf import angular_neighbours, level_difference_error, neighbour_dissimilarity, spectral_distortion

POINTS = (3, 5, 9, 19, 27, 100)
COMMAND = (
    "harken train hrtfformer --listeners standard_hrir_database --device cpu --steps {steps} --batch-size 4 --lr 3e-3 "
    "--validate-every 250 --save-every 50 --seed {seed}"
)


def main() -> None:
    """Judge, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listeners", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--card", action="store_true")
    parser.add_argument("--steps", type=int, default=1500, help="of the training, for the card")
    parser.add_argument("--seed", type=int, default=1, help="of the training, for the card")
    arguments = parser.parse_args()
    table = judge(arguments.listeners, arguments.weights)
    print(markdown(table))
    if arguments.save:
        arguments.save.write_text(json.dumps(table, indent=1) + "\n")
    if arguments.card:
        write_card(arguments.weights, table, arguments.steps, arguments.seed)


def judge(folder: Path, weights: Path | None) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> number of measured directions -> scores."""
    everyone = [read_hrirs(path) for path in find_listeners(folder)]
    frequencies = HRTFformer.Config.small().frequencies.numpy()
    fields = torch.from_numpy(np.stack([magnitudes(one, frequencies) for one in everyone]))
    at = torch.from_numpy(everyone[0].directions)
    held_out = list(range(4, len(everyone), 5))
    listeners = Listeners(fields[[i for i in range(len(everyone)) if i not in held_out]], at)
    neighbours = angular_neighbours(at)
    network = None if weights is None else HRTFformer.from_pretrained(weights)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name in (*BASELINES, *(["hrtfformer"] if network else [])):
        for points in POINTS:
            index = torch.from_numpy(spread_directions(everyone[0].directions, points))
            rows = []
            for truth in fields[held_out]:
                new = Measured(truth[index], at[index], at)
                if name == "hrtfformer":
                    assert network is not None
                    with torch.inference_mode():
                        made = network.predict(new.magnitudes[None], new.directions, at)[0]
                else:
                    made = BASELINES[name][0](new, listeners)
                rows.append(
                    (
                        float(spectral_distortion(made, truth)),
                        float(level_difference_error(made, truth)),
                        float(neighbour_dissimilarity(made, truth, neighbours)),
                    )
                )
            scores = zip(("lsd_db", "ild_error_db", "neighbour_dissimilarity_db2"), np.mean(rows, 0), strict=True)
            table.setdefault(name, {})[str(points)] = {metric: round(float(value), 3) for metric, value in scores}
    return table


def markdown(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """LSD in dB, a row for each method."""
    lines = [f"| LSD (dB) from | {' | '.join(map(str, POINTS))} |", f"|---|{'---|' * len(POINTS)}"]
    best = {points: min(row[points]["lsd_db"] for row in table.values()) for points in map(str, POINTS)}
    for name, row in table.items():
        cells = [f"{row[p]['lsd_db']:.2f}" for p in map(str, POINTS)]
        marked = [
            f"**{c}**" if row[p]["lsd_db"] == best[p] else c for p, c in zip(map(str, POINTS), cells, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(marked)} |")
    return "\n".join(lines)


def write_card(folder: Path, table: dict[str, dict[str, dict[str, float]]], steps: int, seed: int) -> None:
    """``card.json`` and ``README.md`` beside the weights."""
    command = COMMAND.format(steps=steps, seed=seed)
    parameters = sum(p.numel() for p in HRTFformer.from_pretrained(folder).parameters())
    card = {
        "model": "hrtfformer",
        "preset": "small",
        "licence": f"any use, with the notice of the data: {CIPIC_NOTICE}",
        "data": [{"what": "CIPIC HRTF database, 36 of 45 listeners, 1250 directions", "licence": CIPIC_NOTICE}],
        "command": command,
        "seed": seed,
        "steps": steps,
        "metrics": {"held out: 9 listeners of CIPIC": table},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    text = f"""# HRTFformer, small: a listener's HRTF in all directions from a few

The weights behind `harken hrtf upsample`. Preset `small` of HRTFformer (arXiv 2510.01891): {parameters:,} parameters
on top of a Gaussian process (kriging) around the mean of the training listeners, which is in the file, as are their
grid of 1250 directions and the smoothness of their differences. The methods `kriging`, `mean-harmonics` and
`training-mean` need no more. **The network adds nothing to kriging yet**: the two rows below are equal.

**Data and notice.** 36 of the 45 listeners of the CIPIC HRTF database (Algazi, Duda, Thompson and Avendano, WASPAA
2001). {CIPIC_NOTICE}. Its licence permits any use that includes this notice.

**Training.** `{command}`; what ships is the last step. The other 9 listeners (every fifth) were never trained on, and
did not choose the step.

## Measured

Log-spectral distance of the 9 listeners in all 1250 directions, 172 Hz to 18.1 kHz, both ears:

{markdown(table)}

## What it does not do

It has heard one laboratory's loudspeakers, microphones and 36 people. Another measurement chain is taken off before
and put back after, by its mean over the measured directions, which few directions know badly. Nothing was measured
below -45 degrees.
"""
    (folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
