"""Demucs and Conv-TasNet: separate drums, bass, voice and the rest of a stereo mix (arXiv 1911.13254)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Both networks, whole recordings with and without segments, and DiffQ's bits, levels and sizes on a case's inputs."""
    import torch
    from torch import nn

    from harken.layers.diffq import (
        DiffQ,
        DiffQConfig,
        add_pseudo_noise,
        dequantise,
        group_bits,
        quantise,
        whole_bits,
    )
    from harken.models.separate.conv_tasnet import ConvTasNet, ConvTasNetConfig
    from harken.models.separate.demucs import Demucs, DemucsConfig
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    io = case.io
    settings = _shared(case.config["demucs"])
    demucs = Demucs.from_authors(case.part("demucs."), DemucsConfig(**settings)).eval()
    settings = _shared(case.config["tasnet"])
    tasnet = ConvTasNet.from_authors(case.part("tasnet."), ConvTasNetConfig(**settings)).eval()
    lengths = [int(length) for length in io["valid_length"][:, 0]]
    made = {"valid_length": torch.tensor([[length, demucs.valid_length(length)] for length in lengths])}
    with torch.inference_mode():
        made |= {"out": demucs(io["mix"]), "tasnet_out": tasnet(io["tasnet_in"])}
        w = tasnet.encode(io["tasnet_in"])
        made |= {"tasnet_w": w, "tasnet_mask": tasnet.masks(w)}
        entering = io["mix"]
        if demucs.upsample is not None:
            entering = made["upsampled"] = demucs.upsample(entering)
        made["encoder0_out"] = demucs.encoder[0](entering)
        made["split_out"] = _in_segments(demucs, io["long_mix"])
        made["tasnet_split_out"] = _in_segments(tasnet, io["long_mix"])
        made["nosplit_out"] = demucs.separate(io["long_mix"][None], standardise=False)[0]
    config = DiffQConfig(**case.config["diffq"])
    weight = io["diffq_weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    sizes = DiffQ(layer, config)
    with torch.no_grad():
        layer.weight.copy_(weight)
        sizes.logits[0].copy_(io["diffq_logit"] / config.speed)
    bits = group_bits(io["diffq_logit"], config)
    whole = whole_bits(bits, config)
    found = quantise(weight, whole)
    return made | {
        "diffq_bits": bits,
        "diffq_int_bits": whole.float(),
        "diffq_levels": found.levels.float(),
        "diffq_dequantised": dequantise(found).view_as(weight),
        "diffq_noisy_weight": add_pseudo_noise(weight, bits, io["diffq_noise"]),
        "diffq_model_size_bytes": sizes.size(layer).detach() * 2**20,
        "diffq_true_model_size_bytes": torch.tensor(sizes.true_size(layer) * 2**20),
    }


def _in_segments(model: Any, mix: Tensor) -> Tensor:
    """A recording in the model's own segments, a quarter of each repeated by the next one, weighted by triangles."""
    import numpy as np
    import torch

    from harken.tasks.chunking import overlap_add

    def piece(held: np.ndarray, length: int) -> np.ndarray:
        made = model.separate_piece(torch.from_numpy(np.ascontiguousarray(held.T))[None], length)
        return made[0].flatten(0, 1).T.numpy()

    blocks = [mix.T.numpy()]
    whole = overlap_add(
        blocks,
        piece,
        frames=mix.shape[-1],
        channels=mix.shape[0],
        segment=model.config.segment_length,
        context=model.context(),
    )
    made = torch.from_numpy(np.concatenate(list(whole)).T.copy())
    return made.unflatten(0, (len(model.sources), mix.shape[0]))


_RENAMED = {
    "samplerate": "sample_rate",
    "N": "filters",
    "L": "kernel_size",
    "B": "bottleneck",
    "H": "hidden",
    "P": "block_kernel",
    "X": "blocks",
    "R": "repeats",
    "norm_type": "norm",
    "mask_nonlinear": "mask",
}
_NORMS = {"gLN": "global", "cLN": "channel", "BN": "batch", "id": "none"}


def _shared(settings: dict[str, Any]) -> dict[str, Any]:
    """The authors' settings by our names."""
    ours = {_RENAMED.get(name, name): value for name, value in settings.items()}
    ours["sources"] = tuple(ours["sources"])
    if "norm" in ours:
        ours["norm"] = _NORMS[ours["norm"]]
    return ours


PAPER = Paper(
    slug="demucs",
    title="Music source separation in the waveform domain",
    arxiv="1911.13254",
    repository="facebookresearch/demucs",
    licence="MIT",
    kind=("model",),
    rooms=("models/separate/demucs.py", "models/separate/conv_tasnet.py"),
    reached_by=("harken separate",),
    replay=replay,
)
