"""MAViT: a four-stage vision transformer with magnitude-aware linear attention on its large maps (arXiv 2507.00698)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention._local_gated import LocalGatedAttention, LocalGatedSoftmax
from harken.attention.mala import MalaAttention
from harken.errors import CheckpointError, InputError
from harken.layers.drop_path import DropPath, drop_rates
from harken.models._base import Model, build

Mixing = Literal["mala", "softmax"]


@dataclass(frozen=True)
class MAViTConfig:
    """Sizes and choices of :class:`MAViT`; the defaults are MAViT-T.

    Attributes:
        channels, classes: colours, and how many classes there are.
        dims, depths, heads, expansions: width, blocks, heads a block and hidden channels of the FFN over the width, of
            each stage. Images may have any size of at least ``2 ** (stages + 1)`` pixels a side.
        attention: of each stage, ``"mala"`` (linear) or ``"softmax"``, both with rotary positions, a local branch and a
            gate.
        projection: channels that are classified.
        layer_scale: what each channel of a branch is multiplied by at first, stage by stage.
        drop_path: probability with which the last block is left out in training; earlier ones less.
    """

    channels: int = 3
    classes: int = 1000
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    expansions: tuple[float, ...] = (3.5, 3.5, 3.5, 3.5)
    attention: tuple[Mixing, ...] = ("mala", "mala", "softmax", "softmax")
    projection: int = 2048
    layer_scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        stages = {len(part) for part in (self.dims, self.depths, self.heads, self.expansions, self.attention)}
        if len(stages | {len(self.layer_scale)}) != 1 or not 1 <= len(self.dims) <= 8:
            raise InputError("dims, depths, heads, expansions, attention, layer_scale must name the same 1 to 8 stages")
        if min(self.channels, self.classes, self.projection, *self.dims, *self.depths, *self.heads) < 1:
            raise InputError("channels, classes, projection, dims, depths and heads must be positive")
        if max(self.depths) > 1000 or min(self.expansions) <= 0 or self.dims[0] % 2:
            raise InputError("expected depths of at most 1000, expansions above 0 and an even first width")
        if set(self.attention) - {"mala", "softmax"}:
            raise InputError(f"attention takes mala or softmax for each stage, got {', '.join(self.attention)}")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path is a probability below 1, got {self.drop_path}")

    @classmethod
    def test(cls) -> Self:
        """The smallest that has all parts."""
        return cls(
            classes=10,
            dims=(16, 32, 64, 64),
            depths=(1, 1, 2, 1),
            heads=(1, 2, 4, 4),
            expansions=(2.0,) * 4,
            projection=64,
            drop_path=0.0,
        )

    @classmethod
    def small(cls) -> Self:
        """32-pixel images on a laptop: maps of 8, 4, and 2 tokens a side."""
        return cls(
            classes=10,
            dims=(24, 48, 96),
            depths=(1, 2, 1),
            heads=(1, 2, 4),
            expansions=(2.0,) * 3,
            attention=("mala", "mala", "softmax"),
            projection=128,
            layer_scale=(1.0,) * 3,
            drop_path=0.05,
        )

    @classmethod
    def paper_s(cls) -> Self:
        """MAViT-S."""
        return cls(dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), heads=(1, 2, 5, 8), drop_path=0.15)

    @classmethod
    def paper_b(cls) -> Self:
        """MAViT-B."""
        return cls(
            dims=(96, 192, 384, 512),
            depths=(4, 6, 12, 6),
            heads=(1, 2, 6, 8),
            layer_scale=(1.0, 1.0, 1e-6, 1e-6),
            drop_path=0.4,
        )

    @classmethod
    def paper_l(cls) -> Self:
        """MAViT-L."""
        return cls(
            dims=(96, 192, 448, 640),
            depths=(4, 7, 19, 8),
            heads=(1, 2, 7, 10),
            projection=2560,
            layer_scale=(1e-6,) * 4,
            drop_path=0.55,
        )


class MAViT(Model):
    """Convolutions make a map of a quarter's side; each stage mixes it, and all but the last halve it once more.

    Positions come from rotary angles that are made for the map at hand and from depth-wise convolutions, so images of
    other sizes need no change.

    Shape:
        - image ``(batch, channels, height, width)``, normalised as in training
        - logits ``(batch, classes)``

    >>> model = MAViT(MAViT.Config.test())
    >>> model(torch.randn(2, 3, 32, 48)).shape
    torch.Size([2, 10])
    """

    slug: ClassVar[str] = "mavit"
    Config: ClassVar[type[MAViTConfig]] = MAViTConfig

    def __init__(self, config: MAViTConfig | None = None):
        super().__init__(config)
        c = self.config
        half, first = c.dims[0] // 2, c.dims[0]
        self.stem = nn.Sequential(
            *_convolution(c.channels, half, stride=2),
            nn.GELU(),
            *_convolution(half, half),
            nn.GELU(),
            *_convolution(half, half),
            nn.GELU(),
            *_convolution(half, first, stride=2),
        )
        rates = drop_rates(c.drop_path, sum(c.depths))
        self.stages = nn.ModuleList(Stage(c, i, rates[sum(c.depths[:i]) :][:depth]) for i, depth in enumerate(c.depths))
        self.projection = nn.Conv2d(c.dims[-1], c.projection, 1)
        self.norm = nn.BatchNorm2d(c.projection)
        self.head = nn.Linear(c.projection, c.classes)
        self.apply(_initialise)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = F.silu(self.norm(self.projection(self.maps(image)[-1])))
        return self.head(x.mean((2, 3)))

    def maps(self, image: Float[Tensor, "batch channels height width"]) -> list[Float[Tensor, "batch c rows columns"]]:
        """What leaves each stage, already halved for the next.

        Raises:
            InputError: the image is too small, or has other colours than the model was built for.
        """
        c = self.config
        least = 2 ** (len(c.dims) + 1)
        if image.ndim != 4 or image.shape[1] != c.channels or min(image.shape[2:]) < least:
            expected = f"(batch, {c.channels}, height, width) of at least {least} x {least} pixels"
            raise InputError(f"expected images {expected}, got {tuple(image.shape)}")
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: MAViTConfig | None = None) -> Self:
        """Build from the authors' names: a state dictionary, or a file ``{"model": state_dict}`` of one.

        Without a config the sizes are read off the tensors, with MAViT's heads (of 64 channels, in stages 1 and 2 of
        64 or 96) and its two linear and two softmax stages.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        state = state_dict.get("model", state_dict)
        if isinstance(state, Mapping) and "stem.0.weight" in state:  # harken's own names
            return build(lambda: cls(config or MAViTConfig.small()), state)
        if not isinstance(state, Mapping) or "patch_embed.proj.0.weight" not in state:
            raise CheckpointError("not a MAViT: 'patch_embed.proj.0.weight' is missing")
        try:
            made = config or _read_off(state)
            own = _own_state(state)
        except (AttributeError, IndexError, InputError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"not the parameters of a MAViT: {error}") from None
        return build(lambda: cls(made), own)


class Stage(nn.Module):
    """Blocks on one map, and the convolution that halves it for the next stage."""

    def __init__(self, config: MAViTConfig, index: int, drop_paths: list[float]):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, index, rate) for rate in drop_paths)
        self.merge: nn.Sequential | None = None
        if index < len(config.dims) - 1:
            self.merge = nn.Sequential(*_convolution(config.dims[index], config.dims[index + 1], stride=2))

    def forward(self, x: Float[Tensor, "batch c rows columns"]) -> Float[Tensor, "batch c2 rows2 columns2"]:
        for block in self.blocks:
            x = block(x)
        return x if self.merge is None else self.merge(x)


class Block(nn.Module):
    """``x + conv(x)``, then ``x + scale attention(norm(x))``, then ``x + scale ffn(norm(x))``."""

    def __init__(self, config: MAViTConfig, index: int, drop_path: float):
        super().__init__()
        dim, heads = config.dims[index], config.heads[index]
        self.positions = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention: LocalGatedAttention
        if config.attention[index] == "mala":
            self.attention = MalaAttention(dim, heads, axes=2, rotary=True, local_kernel=5, gate=True)
        else:
            self.attention = LocalGatedSoftmax(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = ConvolutionalFeedForward(dim, round(dim * config.expansions[index]))
        self.scale1 = nn.Parameter(torch.full((dim,), config.layer_scale[index]))
        self.scale2 = nn.Parameter(torch.full((dim,), config.layer_scale[index]))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "batch c rows columns"]) -> Float[Tensor, "batch c rows columns"]:
        grid = (x.shape[2], x.shape[3])
        tokens = (x + self.positions(x)).flatten(2).transpose(1, 2)
        mixed = self.attention(self.norm1(tokens), grid=grid)
        tokens = tokens + self.drop_path(self.scale1 * mixed)
        tokens = tokens + self.drop_path(self.scale2 * self.ffn(self.norm2(tokens), grid))
        return tokens.transpose(1, 2).unflatten(2, grid)


class ConvolutionalFeedForward(nn.Module):
    """An FFN whose hidden channels, after the GELU, have a depth-wise convolution of theirs added."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "batch time dim"], grid: tuple[int, int]) -> Float[Tensor, "batch time dim"]:
        hidden = F.gelu(self.up(x))
        # a permuted map is one of PyTorch's own layouts (channels last): the convolution takes it without a copy
        around = self.conv(hidden.unflatten(1, grid).permute(0, 3, 1, 2))
        return self.down(hidden + around.flatten(2).transpose(1, 2))


def _convolution(dim: int, out: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(dim, out, 3, stride=stride, padding=1), nn.BatchNorm2d(out)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_NAMES = {
    "patch_embed.proj.": "stem.",
    "layers.": "stages.",
    ".pos.": ".positions.",
    ".norm1.norm.": ".norm1.",
    ".norm2.norm.": ".norm2.",
    ".gamma_1": ".scale1",
    ".gamma_2": ".scale2",
    ".ffn.fc1.": ".ffn.up.",
    ".ffn.fc2.": ".ffn.down.",
    ".ffn.dwconv.": ".ffn.conv.",
    ".downsample.reduction.": ".merge.0.",
    ".downsample.norm.": ".merge.1.",
    ".attn.lepe.": ".attention.local.",
    ".attn.proj.": ".attention.out_proj.",
}


def _own_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' parameters under our names: 1 x 1 convolutions as matrices, ``qkvo`` as its two parts."""
    own: dict[str, Any] = {}
    for name, tensor in state.items():
        if name.endswith("RoPE.angle"):  # made anew for each map
            continue
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        before, found, after = name.partition(".attn.qkvo.")
        if found:
            tensor = tensor.flatten(1) if after == "weight" else tensor
            dim = tensor.shape[0] // 4
            own[f"{before}.attention.in_proj.{after}"] = tensor[: 3 * dim]
            own[f"{before}.attention.gate.{after}"] = tensor[3 * dim :]
            continue
        if name.startswith("proj."):
            name = f"projection.{name.removeprefix('proj.')}"
        elif name == "head.weight" or name.endswith((".out_proj.weight", ".up.weight", ".down.weight")):
            tensor = tensor.flatten(1)
        own[name] = tensor.flatten() if ".scale" in name else tensor
    return own


def _read_off(state: Mapping[str, Any]) -> MAViTConfig:
    """The configuration of released weights, as far as their shapes tell."""
    parts = [name.split(".") for name in state if name.startswith("layers.")]
    stages = 1 + max(int(part[1]) for part in parts)
    dims = tuple(state[f"layers.{i}.blocks.0.pos.weight"].shape[0] for i in range(stages))
    # half as many angles as a head has channels
    widths = [2 * state[f"layers.{i}.RoPE.angle"].shape[0] for i in range(stages)]
    mixing: tuple[Mixing, ...] = tuple("mala" if i < stages // 2 else "softmax" for i in range(stages))
    return MAViTConfig(
        channels=state["patch_embed.proj.0.weight"].shape[1],
        classes=state["head.weight"].shape[0],
        dims=dims,
        depths=tuple(1 + max(int(p[3]) for p in parts if p[1] == str(i) and p[2] == "blocks") for i in range(stages)),
        heads=tuple(max(1, dim // width) for dim, width in zip(dims, widths, strict=True)),
        expansions=tuple(state[f"layers.{i}.blocks.0.ffn.fc1.weight"].shape[0] / dim for i, dim in enumerate(dims)),
        attention=mixing,
        projection=state["proj.weight"].shape[0],
        layer_scale=(1.0,) * stages,
    )
