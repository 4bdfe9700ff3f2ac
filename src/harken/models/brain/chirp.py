"""Chirp localization: where a chirp begins and ends in a spectrogram, by a ViT and LoRA (arXiv 2503.22713)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.layers.lora import adapt_query_and_value
from harken.models._base import Model, build
from harken.models.see.vit import ViT, ViTConfig

_PLACE_SIZE = 0.5  # of a wave, beside patch embeddings of about the same
TARGETS = ("start_time", "start_frequency", "end_frequency", "duration", "is_exponential")


@dataclass(frozen=True)
class ChirpLocalizerConfig:
    """Sizes of :class:`ChirpLocalizer`; the defaults are the published ones, ViT-B/16 with LoRA.

    Attributes:
        image_size, patch_size, channels, dim, layers, heads, expansion, attention, pool, norm_eps: of
            :class:`harken.models.see.vit.ViTConfig`.
        hidden: units of the two hidden layers of the head.
        targets: how many of start time, start frequency, end frequency, duration and kind are told.
        lora_rank, lora_alpha, lora_dropout: of updates to queries and values; rank 0 for none.
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    dim: int = 768
    layers: int = 12
    heads: int = 12
    expansion: float = 4.0
    attention: tuple[str, ...] = ("softmax",)
    pool: Literal["class", "mean"] = "class"
    norm_eps: float = 1e-12
    hidden: tuple[int, int] = (256, 128)
    targets: int = 3
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.targets <= len(TARGETS) or min(self.hidden) < 1 or self.lora_rank < 0:
            raise InputError(f"expected 1 to {len(TARGETS)} targets, positive hidden sizes and a rank of at least 0")
        if not 0 <= self.lora_dropout < 1 or not 0 < self.lora_alpha < math.inf:
            raise InputError("expected lora_dropout in [0, 1) and lora_alpha above 0")

    @classmethod
    def small(cls) -> Self:
        """Pictures of 64 x 64, all five targets, trained from scratch: what ships."""
        return cls(
            image_size=64, patch_size=8, channels=1, dim=64, layers=3, heads=4, expansion=2.0, norm_eps=1e-6,
            targets=5, lora_rank=0,
        )  # fmt: skip

    def vit(self) -> ViTConfig:
        """The part that looks at the picture."""
        names = ("image_size", "patch_size", "channels", "dim", "layers", "heads", "expansion", "attention", "pool")
        return ViTConfig(**{name: getattr(self, name) for name in names}, classes=1, norm_eps=self.norm_eps)


class ChirpLocalizer(Model):
    """A spectrogram to where its chirp begins and ends: a ViT, and three layers on its class token.

    Targets are shares of the picture: start time of its duration, frequencies of its highest, duration of its length;
    the last is 1 for a chirp whose frequency grows exponentially. The network gives them standardised;
    ``target_mean`` and ``target_std`` are part of the weights.

    Shape:
        - image ``(batch, channels, image_size, image_size)`` in [0, 1], row 0 the lowest frequency
        - output ``(batch, targets)``, standardised; :meth:`locate` gives shares

    >>> model = ChirpLocalizer(ChirpLocalizerConfig.small()).eval()
    >>> model.locate(torch.rand(2, 1, 64, 64)).shape
    torch.Size([2, 5])
    """

    slug: ClassVar[str] = "chirp-localization"
    Config: ClassVar[type[ChirpLocalizerConfig]] = ChirpLocalizerConfig
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, config: ChirpLocalizerConfig | None = None):
        super().__init__(config)
        c = self.config
        self.vit = ViT(c.vit())
        self.vit.head = nn.Identity()  # type: ignore[assignment]
        with torch.no_grad():  # places are what is asked for: patches that know theirs from the start learn it sooner
            self.vit.positions[0, self.vit.first :] = _places(self.vit.side, c.dim)
        first, second = c.hidden
        self.head = nn.Sequential(
            nn.Linear(c.dim, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, c.targets)
        )
        self.register_buffer("target_mean", torch.zeros(c.targets))
        self.register_buffer("target_std", torch.ones(c.targets))
        if c.lora_rank:
            self._adapt()

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch targets"]:
        return self.head(self.vit.encode(image).summary)

    def locate(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch targets"]:
        """Targets as shares of the picture, within [0, 1]."""
        return (self(image) * self.target_std + self.target_mean).clamp(0, 1)

    def standardised(self, targets: Float[Tensor, "batch known"]) -> Float[Tensor, "batch known"]:
        """What the network should give for targets that are shares, the first of them or all."""
        known = targets.shape[1]
        return (targets - self.target_mean[:known]) / self.target_std[:known]

    def adapted(self, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0) -> ChirpLocalizer:
        """A copy whose head and low-rank updates of queries and values are all that is trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = ChirpLocalizer(replace(self.config, lora_rank=rank, lora_alpha=alpha, lora_dropout=dropout))
        made.load_state_dict(self.state_dict(), strict=False)
        made.requires_grad_(False)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(".updates." in name or name.startswith("head."))
        return made.train(self.training)

    def _adapt(self) -> None:
        c = self.config
        block: Any
        for block in self.vit.blocks:
            adapt_query_and_value(block.attention, c.lora_rank, alpha=c.lora_alpha, dropout=c.lora_dropout)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: ChirpLocalizerConfig | None = None) -> Self:
        """Build from the released training script's names: a Hugging Face ViT, adapted by peft, and its head.

        Without a config the sizes are read off the tensors, with heads of 64 channels and ``alpha`` 16. Their label
        statistics are no part of the weights: outputs stay standardised.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        try:
            state = {name.replace("base_model.model.", ""): tensor for name, tensor in state_dict.items()}
            made = config or _read_off(state)
            own = _own_names(state, made)
            own |= {"target_mean": torch.zeros(made.targets), "target_std": torch.ones(made.targets)}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
            raise CheckpointError(f"not the parameters of a chirp localizer: {error}") from None
        return build(lambda: cls(made), own)


def _places(side: int, dim: int) -> Float[Tensor, "patches dim"]:
    """Sines and cosines of each patch's row and column, as the Transformer's of its time."""
    rates = 100.0 ** -torch.linspace(0, 1, max(1, dim // 4))
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat((angles.sin(), angles.cos()), 1)
    grid = torch.cat((waves.repeat_interleave(side, 0), waves.repeat(side, 1)), 1)
    return nn.functional.pad(grid, (0, dim))[:, :dim] * _PLACE_SIZE


_NAMES = {
    "embeddings.cls_token": "class_token",
    "embeddings.position_embeddings": "positions",
    "embeddings.patch_embeddings.projection.": "embedding.",
    "layernorm.": "norm.",
}
_IN_BLOCK = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.output.dense.": "attention.out_proj.",
    "intermediate.dense.": "ffn.0.",
    "output.dense.": "ffn.2.",
}


def _own_names(state: Mapping[str, Any], config: ChirpLocalizerConfig) -> dict[str, Any]:
    """Their parameters under our names, queries, keys and values stacked."""
    own: dict[str, Any] = {}
    for name, tensor in state.items():
        if name.startswith("regression_head."):
            own["head." + name.removeprefix("regression_head.")] = tensor
            continue
        if not name.startswith("vit.") or name.startswith("vit.pooler."):
            if not name.startswith("vit.pooler."):
                own[name] = tensor  # unknown, and refused by that name
            continue
        name, prefix = name.removeprefix("vit."), "vit."
        names = _NAMES
        if name.startswith("encoder.layer."):
            block, name = name.removeprefix("encoder.layer.").split(".", 1)
            prefix, names = f"vit.blocks.{block}.", _IN_BLOCK
            if name.startswith("attention.attention."):
                continue
        renamed = next(
            (ours + name.removeprefix(theirs) for theirs, ours in names.items() if name.startswith(theirs)), name
        )
        own[prefix + renamed] = tensor
    for layer in range(config.layers):
        theirs, ours = f"vit.encoder.layer.{layer}.attention.attention.", f"vit.blocks.{layer}.attention.in_proj."
        for kind in ("weight", "bias"):
            parts = [
                state.get(f"{theirs}{part}.base_layer.{kind}", state.get(f"{theirs}{part}.{kind}"))
                for part in ("query", "key", "value")
            ]
            if any(part is None for part in parts):
                raise KeyError(f"{theirs}query.{kind}")
            own[ours + kind] = torch.cat([part for part in parts if part is not None])
        if config.lora_rank:
            for number, adapted in enumerate(("query", "value")):
                own[f"{ours}updates.{number}.down"] = state[f"{theirs}{adapted}.lora_A.default.weight"]
                own[f"{ours}updates.{number}.up"] = state[f"{theirs}{adapted}.lora_B.default.weight"]
    return own


def _read_off(state: Mapping[str, Any]) -> ChirpLocalizerConfig:
    """The configuration of released weights, as far as their shapes tell."""
    dim, channels, patch_size, _ = state["vit.embeddings.patch_embeddings.projection.weight"].shape
    side = math.isqrt(state["vit.embeddings.position_embeddings"].shape[1] - 1)
    down = state.get("vit.encoder.layer.0.attention.attention.query.lora_A.default.weight")
    return ChirpLocalizerConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        channels=channels,
        dim=dim,
        layers=1 + max(int(name.split(".")[3]) for name in state if name.startswith("vit.encoder.layer.")),
        heads=max(1, dim // 64),
        expansion=state["vit.encoder.layer.0.intermediate.dense.weight"].shape[0] / dim,
        hidden=(state["regression_head.0.weight"].shape[0], state["regression_head.2.weight"].shape[0]),
        targets=state["regression_head.4.weight"].shape[0],
        lora_rank=0 if down is None else len(down),
    )
