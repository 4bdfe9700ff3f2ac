"""How long does a chunk of 8 ms take ``harken extract --live``? About a minute on one core; ``--authors`` adds another.

    python benchmarks/extract_speed.py [--authors CLONE] [--chunks 200] [--clock cpu] [--save FILE.json]

Random weights, one mixture, one thread, chunk after chunk with the state carried on, by turns in one process: the
paper's size and the small preset, each in its quick form and as the plain reference; and, with a clone of
github.com/vb000/LookOnceToHear (whose licence allows running it for research) and asteroid-filterbanks installed, the
authors' modules with the same weights, whose output must be equal. Printed: median and 99th percentile in ms, least,
and the ratio to the quick form. ``--clock cpu`` counts the process's own time instead of the wall's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harken.models.separate.look_once import LookOnceConfig, LookOnceToHear
from harken.models.separate.look_once_stream import RealTimeStep
from harken.papers._extraction import time_chunks

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def authors_network(clone: Path) -> nn.Module:
    """The network of a clone of the authors' repository, random weights; of ESPnet it needs stand-ins alone."""
    for name, given in {
        "decoder.stft_decoder": {"STFTDecoder": None},
        "encoder.stft_encoder": {"STFTEncoder": None},
        "layers.complex_utils": {"new_complex_like": None},
        "separator.abs_separator": {"AbsSeparator": nn.Module},
    }.items():
        _stand_in(f"espnet2.enh.{name}", given)
    _stand_in("espnet2.torch_utils.get_layer_from_string", {"get_layer": lambda name: {"prelu": nn.PReLU}[name]})
    sys.path.insert(0, str(clone))
    from src.models.tfgridnet_realtime.net import Net  # type: ignore[import-not-found]

    settings = json.loads((clone / "configs" / "tsh.json").read_text())
    made: nn.Module = Net(**settings["pl_module_args"]["model_params"]).eval()
    return made


def _stand_in(name: str, given: dict[str, Any]) -> None:
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
    vars(sys.modules[name]).update(given)


class Plain:
    """The reference step, with its state."""

    def __init__(self, model: LookOnceToHear, scale: Tensor, window: Tensor):
        self.model, self.scale, self.window, self.state = model, scale, window, model.initial_state()

    def __call__(self) -> Tensor:
        made, self.state = self.model.step(self.window, self.scale, self.state)
        return made


class Theirs:
    """The authors' step, with its state."""

    def __init__(self, network: Any, embedding: Tensor, window: Tensor):
        self.network, self.embedding, self.window = network, embedding, window
        self.state = network.init_buffers(1, window.device)

    def __call__(self) -> Tensor:
        made, self.state = self.network.predict(self.window, self.embedding, self.state, pad=False)
        return made


def main() -> None:
    """Time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    calls: dict[str, Callable[[], Tensor]] = {}
    with torch.inference_mode():
        for preset in ("paper", "small"):
            config: LookOnceConfig = getattr(LookOnceConfig, preset)()
            network = authors_network(arguments.authors) if arguments.authors and preset == "paper" else None
            if network is None:
                model = LookOnceToHear(config).eval()
            else:
                theirs = replace(config, synthesis="authors", masked_start=False)
                model = LookOnceToHear.from_authors(network.state_dict(), theirs).eval()
            window, embedding = torch.randn(1, 2, config.window_length), torch.randn(1, config.embedding_dim)
            scale = model.talker_scale(embedding)
            quick = RealTimeStep(model, scale)
            calls[f"{preset}, quick"] = lambda quick=quick, window=window: quick(window)  # type: ignore[misc]
            calls[f"{preset}, plain"] = Plain(model, scale, window)
            if network is not None:
                calls["authors"] = Theirs(network, embedding, window)
                made, wanted = (call() for call in (Plain(model, scale, window), calls["authors"]))
                print(f"largest difference to the authors' output: {(made - wanted).abs().max():.1e}")
        times: dict[str, list[np.ndarray]] = {name: [] for name in calls}
        for _ in range(arguments.rounds):
            for name, call in calls.items():
                times[name].append(time_chunks(call, arguments.chunks, CLOCKS[arguments.clock]))
    report: dict[str, Any] = {"threads": 1, "torch": torch.__version__, "clock": arguments.clock, "ms": {}}
    print(f"one thread, {arguments.clock} time; ms for a chunk of 8 ms\n")
    print(f"{'':16}{'median':>9}{'p99':>9}{'least':>9}{'median / quick':>16}")
    for name, parts in times.items():
        each = 1000 * np.concatenate(parts)
        median, p99, least = float(np.median(each)), float(np.quantile(each, 0.99)), float(each.min())
        of = "small, quick" if name.startswith("small") else "paper, quick"
        ratio = median / (1000 * float(np.median(np.concatenate(times[of]))))
        report["ms"][name] = {"median": round(median, 3), "p99": round(p99, 3), "least": round(least, 3)}
        print(f"{name:16}{median:9.2f}{p99:9.2f}{least:9.2f}{ratio:16.2f}")
    if arguments.save:
        arguments.save.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
