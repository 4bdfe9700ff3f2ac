"""How fast is DBConformer here? Forward passes and training steps against the authors' code and plainer forms.

    OMP_NUM_THREADS=1 python benchmarks/dbconformer_speed.py [--authors CLONE] [--save FILE.json]

32 trials of 22 channels and 1001 samples, depth 2 and 2, in one process: CPU time of one thread, median of interleaved
runs. Compared: harken's model; the same with PyTorch's depthwise convolution and norms that are not merged; the same
with a loop over channels in the spatial stem; an EEG Conformer (Song et al. 2023) of equal depth, put together from
PyTorch's layers; and, with a clone of github.com/wzwvv/DBConformer, the authors' class with the same weights, whose
logits must be equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.attention import create_attention
from harken.layers.transformer import TransformerBlock
from harken.models.brain.dbconformer import DBConformer, DBConformerConfig

CONFIG = DBConformerConfig(classes=2)


class PlainTemporalStem(nn.Module):
    """The stem as it is written down: four passes over the signal."""

    def __init__(self, stem: Any):
        super().__init__()
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        s = self.stem
        x = F.gelu(s.filter_norm(s.filter(s.mix_norm(s.mix(x)))))
        return s.dropout(F.avg_pool1d(x, s.patch, s.patch).transpose(1, 2))


class LoopedSpatialStem(nn.Module):
    """One channel after the other."""

    def __init__(self, stem: Any):
        super().__init__()
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        s = self.stem
        return torch.stack([s.out(F.elu(s.filter(channel[:, None])).mean(-1)) for channel in x.unbind(1)], 1)


class EEGConformer(nn.Module):
    """Filters over time, then over all channels, 75-sample means every 15, a transformer, three linear layers."""

    def __init__(self, channels: int, samples: int, classes: int, depth: int, dim: int = 40):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, dim, (1, 25)), nn.Conv2d(dim, dim, (channels, 1)), nn.BatchNorm2d(dim), nn.ELU(),
            nn.AvgPool2d((1, 75), (1, 15)), nn.Dropout(0.5), nn.Conv2d(dim, dim, 1),
        )  # fmt: skip
        attention = [create_attention("softmax", dim=dim, heads=10) for _ in range(depth)]
        self.blocks = nn.Sequential(*(TransformerBlock(dim, layer, dropout=0.5) for layer in attention))
        tokens = (samples - 24 - 75) // 15 + 1
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(tokens * dim, 256), nn.ELU(), nn.Dropout(0.5), nn.Linear(256, 32), nn.ELU(),
            nn.Dropout(0.3), nn.Linear(32, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x[:, None]).flatten(2).transpose(1, 2)))


def authors_model(clone: Path) -> nn.Module:
    """Their DBConformer; of timm it uses one function, which PyTorch has."""
    timm: Any = ModuleType("timm.models.layers")
    timm.trunc_normal_ = nn.init.trunc_normal_
    for module in (ModuleType("timm"), ModuleType("timm.models"), timm):
        sys.modules.setdefault(module.__name__, module)
    sys.path.insert(0, str(clone / "models"))
    args = SimpleNamespace(
        data_name="BNCI2014001", chn=22, patch_size=125, time_sample_num=1001, class_num=2, spa_dim=16,
        gate_flag=False, posemb_flag=True, branch="all", chn_atten_flag=True,
    )  # fmt: skip
    return import_module("DBConformer").DBConformer(args, 40, 2, 2, 22, 2)


def copy_of(model: DBConformer) -> Any:
    copied: Any = DBConformer(model.config)
    copied.load_state_dict(model.state_dict())
    return copied


def logits_of(made: Any) -> Tensor:
    return made[1] if isinstance(made, tuple) else made


def milliseconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:
                taken[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(32, CONFIG.channels, CONFIG.samples)
    y = torch.arange(32) % 2
    models: dict[str, Any] = {}
    theirs = authors_model(args.authors) if args.authors else None
    ours = DBConformer(CONFIG) if theirs is None else DBConformer.from_authors(theirs.state_dict(), CONFIG)
    models["harken"] = ours
    models["plain temporal stem"] = copy_of(ours)
    models["plain temporal stem"].temporal_stem = PlainTemporalStem(models["plain temporal stem"].temporal_stem)
    models["loop over channels"] = copy_of(ours)
    models["loop over channels"].spatial_stem = LoopedSpatialStem(models["loop over channels"].spatial_stem)
    models["EEG Conformer"] = EEGConformer(CONFIG.channels, CONFIG.samples, CONFIG.classes, depth=2)
    if theirs is not None:
        models["authors"] = theirs
    inputs = {name: x[:, None] if name == "authors" else x for name in models}

    def step(name: str) -> None:
        models[name].zero_grad(set_to_none=True)
        F.cross_entropy(logits_of(models[name](inputs[name])), y).backward()

    def forward(name: str) -> Tensor:
        with torch.inference_mode():
            return logits_of(models[name](inputs[name]))

    rows = []
    for what, run in (("training step", step), ("forward", forward)):
        for model in models.values():
            model.train(what == "training step")
        found = milliseconds({name: partial(run, name) for name in models}, args.repeats)
        rows.append({"what": what, "milliseconds": found,
                     "ratio": {name: value / found["harken"] for name, value in found.items()}})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    same = [name for name in models if not name.startswith("EEG")]
    print("largest difference of logits:", max(float((forward(n) - forward("harken")).abs().max()) for n in same))
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "threads": 1, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
