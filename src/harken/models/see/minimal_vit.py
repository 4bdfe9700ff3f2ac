"""Minimal ViT: an image classifier from transformer encoders that are stripped of parts (arXiv 2410.13732)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention.minimal import MinimalAttention, QueryKey, Value
from harken.errors import CheckpointError, InputError
from harken.models._base import Model, build

# the independent implementation's names of what is left of the matrices
_OPTIONS: dict[tuple[QueryKey, Value], str] = {
    ("separate", "separate"): "unchanged",
    ("collapsed", "separate"): "Wqk",
    ("collapsed", "none"): "Wqk+noWvWo",
    ("cholesky", "separate"): "symmetry",
}


@dataclass(frozen=True)
class MinimalViTConfig:
    """Sizes of :class:`MinimalViT` and what is left of it; the defaults are the full one for MNIST.

    Attributes:
        image_size, patch_size, channels: side of the images and of the patches they are cut into, in pixels; colours.
        classes: how many there are.
        dim, layers, heads: width, encoders, heads an encoder.
        expansion: hidden channels of the MLP over ``dim``; 0 leaves the MLP out.
        query_key, value: which matrices of the attention are left, see
            :class:`harken.attention.minimal.MinimalAttention`.
        bias: whether its linear maps have a bias.
        dropout: of what each part adds, in training.
    """

    image_size: int = 28
    patch_size: int = 7
    channels: int = 1
    classes: int = 10
    dim: int = 64
    layers: int = 6
    heads: int = 1
    expansion: float = 1.0
    query_key: QueryKey = "separate"
    value: Value = "separate"
    bias: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.patch_size, self.channels, self.classes, self.dim, self.layers, self.heads)
        if min(sizes) < 1 or self.layers > 1000:
            raise InputError("image_size, patch_size, channels, classes, dim, layers (at most 1000), heads: positive")
        if self.image_size % self.patch_size:
            raise InputError(f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}")
        if self.expansion < 0 or not 0 <= self.dropout < 1:
            raise InputError(f"expected expansion >= 0 and dropout in [0, 1), got {self.expansion}, {self.dropout}")
        for option, choice, known in (("query_key", self.query_key, QueryKey), ("value", self.value, Value)):
            if choice not in get_args(known):
                raise InputError(f"{option} must be one of {', '.join(get_args(known))}, got {choice!r}")

    @classmethod
    def small(cls) -> Self:
        """8-pixel digits, 16 patches; everything left in."""
        return cls(image_size=8, patch_size=2, dim=32)

    @classmethod
    def without_mlp(cls, heads: int = 4) -> Self:
        """The attention alone, which the paper finds enough."""
        return cls(heads=heads, expansion=0.0)

    @classmethod
    def symmetric(cls, heads: int = 4) -> Self:
        """No MLP, and one matrix for queries and keys: what generalises best in the paper."""
        return cls(heads=heads, expansion=0.0, query_key="symmetric")

    @classmethod
    def minimum(cls) -> Self:
        """No MLP, one matrix an encoder: queries and keys collapsed, values and outputs left out."""
        return cls(expansion=0.0, query_key="collapsed", value="none")


class MinimalViT(Model):
    """Patches and a class token through post-norm encoders, ``x = norm(x + attention(x))``, with an MLP or none.

    The authors published no code and few details; this is the layout of an independent implementation (post-norm,
    learned positions, dropout of 0.1). Its dropout of attention weights is left out.

    Shape:
        - image ``(batch, channels, image_size, image_size)``
        - logits ``(batch, classes)``

    >>> full, minimum = MinimalViT(), MinimalViT(MinimalViT.Config.minimum())
    >>> [sum(p.numel() for p in model.parameters()) for model in (full, minimum)]
    [156298, 30730]
    """

    slug: ClassVar[str] = "minimal-vit"
    Config: ClassVar[type[MinimalViTConfig]] = MinimalViTConfig

    def __init__(self, config: MinimalViTConfig | None = None):
        super().__init__(config)
        c = self.config
        self.embedding = nn.Conv2d(c.channels, c.dim, c.patch_size, stride=c.patch_size)
        tokens = (c.image_size // c.patch_size) ** 2 + 1
        self.class_token = nn.Parameter(torch.randn(1, 1, c.dim))
        self.positions = nn.Parameter(torch.randn(1, tokens, c.dim))
        self.dropout = nn.Dropout(c.dropout)
        self.encoders = nn.ModuleList(Encoder(c) for _ in range(c.layers))
        self.head = nn.Linear(c.dim, c.classes)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        c = self.config
        if image.ndim != 4 or image.shape[1:] != (c.channels, c.image_size, c.image_size):
            expected = f"(batch, {c.channels}, {c.image_size}, {c.image_size})"
            raise InputError(f"expected images {expected}, got {tuple(image.shape)}: resize them")
        patches = self.embedding(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(image), -1, -1), patches), 1)
        x = self.dropout(x + self.positions)
        for encoder in self.encoders:
            x = encoder(x)
        return self.head(x[:, 0])

    def overdetermination(self, examples: int) -> float:
        """Equations over unknowns, ``examples * classes / parameters``; below 1 the data cannot fix the weights.

        >>> round(MinimalViT().overdetermination(60_000), 2)
        3.84
        """
        return examples * self.config.classes / sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: MinimalViTConfig | None = None) -> Self:
        """Build from the names of the independent implementation; without a config, one of a single head.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        if "embedding.weight" in state_dict:  # harken's own names
            return build(lambda: cls(config or MinimalViTConfig.small()), state_dict)
        if not isinstance(state_dict.get("embedding.patcher.0.weight"), Tensor):
            raise CheckpointError("not a minimal ViT: 'embedding.patcher.0.weight' is missing")
        try:
            made = config or _read_off(state_dict)
            own = _own_state(state_dict, made)
        except (AttributeError, IndexError, InputError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not the parameters of a minimal ViT: {error}") from None
        return build(lambda: cls(made), own)


class Encoder(nn.Module):
    """``x = norm(x + attention(x))``, then, where there is an MLP, ``x = norm(x + mlp(x))``."""

    def __init__(self, config: MinimalViTConfig):
        super().__init__()
        dim, hidden = config.dim, round(config.dim * config.expansion)
        self.attention = MinimalAttention(
            dim, config.heads, query_key=config.query_key, value=config.value, bias=config.bias
        )
        self.norm1 = nn.LayerNorm(dim)
        self.mlp, self.norm2 = None, None
        if hidden:
            self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
            self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        x = self.norm1(x + self.dropout(self.attention(x)))
        if self.mlp is None or self.norm2 is None:
            return x
        return self.norm2(x + self.dropout(self.mlp(x)))


_NAMES = {
    "embedding.patcher.0.": "embedding.",
    "embedding.cls_token": "class_token",
    "embedding.position_embeddings": "positions",
    "classifier.": "head.",
}


def _own_state(state: Mapping[str, Any], config: MinimalViTConfig) -> dict[str, Any]:
    """The independent implementation's parameters under our names; its second norm goes where there is no MLP."""
    own: dict[str, Any] = {}
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        prefix = "transformer_encoder.layers."
        if not name.startswith(prefix):
            for theirs, ours in _NAMES.items():
                name = name.replace(theirs, ours)
            own[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if rest.startswith("self_attn."):
            layers.setdefault(number, {})[rest.removeprefix("self_attn.")] = tensor
        elif config.expansion or not rest.startswith("norm2."):
            own[f"encoders.{number}.{rest}"] = tensor
    option = _OPTIONS.get((config.query_key, config.value))
    if option is None:
        raise InputError(f"it has no layer with query_key={config.query_key} and value={config.value}")
    for number, layer in layers.items():
        attention = MinimalAttention.from_authors(layer, option=option, heads=config.heads)
        own |= {f"encoders.{number}.attention.{name}": tensor for name, tensor in attention.state_dict().items()}
    return own


def _read_off(state: Mapping[str, Any]) -> MinimalViTConfig:
    """The configuration of such weights, as far as their shapes tell."""
    dim, channels, patch_size, _ = state["embedding.patcher.0.weight"].shape
    side = round((state["embedding.position_embeddings"].shape[1] - 1) ** 0.5)
    prefix = "transformer_encoder.layers."
    layer = prefix + "0.self_attn."
    query_key: QueryKey = "separate" if layer + "query.weight" in state else "collapsed"
    heads = 1
    if layer + "trainable_params" in state:
        query_key, heads = "cholesky", state[layer + "trainable_params"].shape[0]
    hidden = state.get(prefix + "0.mlp.0.weight")
    return MinimalViTConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        channels=channels,
        classes=state["classifier.weight"].shape[0],
        dim=dim,
        layers=1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)),
        heads=heads,
        expansion=0.0 if hidden is None else hidden.shape[0] / dim,
        query_key=query_key,
        value="separate" if layer + "value.weight" in state else "none",
    )
