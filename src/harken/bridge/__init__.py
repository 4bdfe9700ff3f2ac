"""The bridge to Hugging Face: harken's attention in ``transformers`` models, by name or in place of theirs."""

from __future__ import annotations

from harken.bridge.conversions import distill_sea, interpolate_positions, lora_sinklora, masformer_layers
from harken.bridge.functions import register
from harken.bridge.swapping import SwappedLayer, SwapReport, restore, swap, swapped_layers

__all__ = [
    "SwapReport",
    "SwappedLayer",
    "distill_sea",
    "interpolate_positions",
    "lora_sinklora",
    "masformer_layers",
    "register",
    "restore",
    "swap",
    "swapped_layers",
]
