"""LITv2: a fast four-stage vision transformer with HiLo attention where maps are small (arXiv 2205.13213)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention import Attention, create_attention
from harken.errors import CheckpointError, InputError
from harken.layers.drop_path import DropPath, drop_rates
from harken.models._base import Model, build

_HEAD_DIM = 32  # of all published sizes


@dataclass(frozen=True)
class LITv2Config:
    """Sizes and choices of :class:`LITv2`; the defaults are LITv2-S.

    Attributes:
        patch_size, channels: side of the patches in pixels, colours. Images may have any size that leaves a map to
            every stage: ``patch_size * 2 ** (stages - 1)`` pixels at least.
        classes: how many there are.
        dim: width of the first stage; each further one doubles it.
        depths, heads: blocks, and heads a block, of each stage.
        expansion: hidden channels of the FFN over the stage's width.
        attention: for each stage any bidirectional mechanism with its options, or ``"none"``.
        merging: how stages are joined: ``"deformable"``, or ``"plain"``, a strided convolution, to which the former is
            equal while its offsets are zero.
        drop_path: probability with which the last block is left out in training; earlier ones less.
    """

    patch_size: int = 4
    channels: int = 3
    classes: int = 1000
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    expansion: float = 4.0
    attention: tuple[str, ...] = ("none", "none", "hilo:window_size=2,alpha=0.9", "hilo:window_size=1")
    merging: Literal["deformable", "plain"] = "deformable"
    drop_path: float = 0.2

    def __post_init__(self) -> None:
        if not len(self.depths) == len(self.heads) == len(self.attention) or not 1 <= len(self.depths) <= 8:
            raise InputError("depths, heads and attention must name the same 1 to 8 stages")
        sizes = (self.patch_size, self.channels, self.classes, self.dim, *self.depths, *self.heads)
        if min(sizes) < 1 or max(self.depths) > 1000:
            raise InputError("patch_size, channels, classes, dim, depths (at most 1000) and heads must be positive")
        if self.merging not in ("deformable", "plain"):
            raise InputError(f"merging must be deformable or plain, got {self.merging!r}")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path is a probability below 1, got {self.drop_path}")

    @classmethod
    def small(cls) -> Self:
        """32-pixel images on a laptop: maps of 16, 8, 4 and 2 tokens a side."""
        return cls(
            patch_size=2,
            classes=10,
            dim=24,
            depths=(1, 1, 3, 1),
            heads=(1, 2, 4, 8),
            expansion=2.0,
            attention=("none", "none", "hilo:window_size=2,alpha=0.5", "hilo:window_size=1"),
            drop_path=0.05,
        )

    @classmethod
    def medium(cls) -> Self:
        """LITv2-M."""
        return cls(depths=(2, 2, 18, 2), drop_path=0.3)

    @classmethod
    def base(cls) -> Self:
        """LITv2-B."""
        return cls(dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), drop_path=0.5)


class LITv2(Model):
    """Four stages on ever smaller maps: FFNs with a depth-wise convolution, and attention where the maps are small.

    There is no position table: the convolutions tell where a token lies, so images of other sizes need no change.

    Shape:
        - image ``(batch, channels, height, width)``, normalised as in training
        - logits ``(batch, classes)``

    >>> model = LITv2(LITv2.Config.small())
    >>> model(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    slug: ClassVar[str] = "litv2"
    Config: ClassVar[type[LITv2Config]] = LITv2Config

    def __init__(self, config: LITv2Config | None = None):
        super().__init__(config)
        c = self.config
        self.embedding = nn.Conv2d(c.channels, c.dim, c.patch_size, stride=c.patch_size)
        self.embedding_norm = nn.LayerNorm(c.dim)
        rates = drop_rates(c.drop_path, sum(c.depths))
        self.stages = nn.ModuleList()
        for i, depth in enumerate(c.depths):
            last = i == len(c.depths) - 1
            self.stages.append(Stage(c, i, rates[sum(c.depths[:i]) :][:depth], merge=not last))
        self.norm = nn.LayerNorm(c.dim * 2 ** (len(c.depths) - 1))
        self.head = nn.Linear(self.norm.normalized_shape[0], c.classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.norm(self.maps(image)[-1].flatten(1, 2)).mean(1))

    def maps(self, image: Float[Tensor, "batch channels height width"]) -> list[Float[Tensor, "batch rows columns c"]]:
        """What leaves each stage, already merged for the next, channels last.

        Raises:
            InputError: the image is too small, or has other colours than the model was built for.
        """
        c = self.config
        least = c.patch_size * 2 ** (len(c.depths) - 1)
        if image.ndim != 4 or image.shape[1] != c.channels or min(image.shape[2:]) < least:
            expected = f"(batch, {c.channels}, height, width) of at least {least} x {least} pixels"
            raise InputError(f"expected images {expected}, got {tuple(image.shape)}")
        x = self.embedding_norm(self.embedding(image).permute(0, 2, 3, 1))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def plain(self) -> LITv2:
        """The same model with strided convolutions between the stages, easy to export.

        Raises:
            InputError: the offsets have been trained: no plain convolution equals them.
        """
        state = self.state_dict()
        offsets = [name for name in state if ".offset." in name]
        if any(state.pop(name).any() for name in offsets):
            raise InputError("the offsets are not zero: only merging='deformable' gives what was trained")
        model = LITv2(replace(self.config, merging="plain"))
        model.load_state_dict(state)
        return model.train(self.training)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: LITv2Config | None = None) -> Self:
        """Build from the authors' names: a state dictionary, or their file ``{"model": state_dict}``.

        Without a config the sizes are read off the tensors, with the published heads of 32 channels and windows of 2.
        """
        state = state_dict.get("model", state_dict)
        if isinstance(state, Mapping) and "embedding.weight" in state:  # harken's own names
            return build(lambda: cls(config or LITv2Config.small()), state)
        if not isinstance(state, Mapping) or "patch_embed.proj.weight" not in state:
            raise CheckpointError("not a LITv2: 'patch_embed.proj.weight' is missing")
        try:
            made = config or _read_off(state)
            own = _own_state(state)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"not the parameters of a LITv2: {error}") from None
        return build(lambda: cls(made), own)


class Stage(nn.Module):
    """Blocks on one map, and what makes the next, smaller map of it."""

    def __init__(self, config: LITv2Config, index: int, drop_paths: list[float], *, merge: bool):
        super().__init__()
        dim, name = config.dim * 2**index, config.attention[index]
        self.blocks = nn.ModuleList(
            Block(
                dim,
                None if name == "none" else create_attention(name, dim=dim, heads=config.heads[index]),
                round(dim * config.expansion),
                rate,
            )
            for rate in drop_paths
        )
        self.merge = TokenMerging(dim, deformable=config.merging == "deformable") if merge else None

    def forward(self, x: Float[Tensor, "batch rows columns c"]) -> Float[Tensor, "batch rows2 columns2 c2"]:
        for block in self.blocks:
            x = block(x)
        return x if self.merge is None else self.merge(x)


class Block(nn.Module):
    """``x + attention(norm(x))``, where there is attention, and ``x + ffn(norm(x))``, on a map with channels last."""

    def __init__(self, dim: int, attention: Attention | None, hidden: int, drop_path: float):
        super().__init__()
        self.norm1 = None if attention is None else nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = ConvolutionalFeedForward(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "batch rows columns c"]) -> Float[Tensor, "batch rows columns c"]:
        if self.attention is not None and self.norm1 is not None:
            grid = (x.shape[1], x.shape[2])
            mixed = self.attention(self.norm1(x).flatten(1, 2), grid=grid)
            x = x + self.drop_path(mixed).unflatten(1, grid)
        return x + self.drop_path(self.ffn(self.norm2(x)))


class ConvolutionalFeedForward(nn.Module):
    """An FFN whose hidden channels see their eight neighbours before the GELU; that is where positions come from."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down = nn.Linear(hidden, dim)
        for linear in (self.up, self.down):
            nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.normal_(self.conv.weight, std=(2 / 9) ** 0.5)  # 9 outputs see an input, within its group
        for part in (self.up, self.down, self.conv):
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, x: Float[Tensor, "batch rows columns c"]) -> Float[Tensor, "batch rows columns c"]:
        # a permuted map is one of PyTorch's own layouts (channels last): the convolution takes it without a copy
        hidden = self.conv(self.up(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.down(F.gelu(hidden))


class TokenMerging(nn.Module):
    """Four tokens become one of twice the width, each taken from where a learned offset points (section 3.3).

    A deformable convolution (arXiv 1703.06211) of size and stride 2: output ``(i, j)`` reads, for the taps
    ``(y, x)``, the map at ``(2i + y + dy, 2j + x + dx)``, bilinearly and zero outside. The offsets come from a
    convolution that starts at zero; so long it is a plain one. Batch norm and GELU follow.
    """

    def __init__(self, dim: int, *, deformable: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(dim, 2 * dim, 2, stride=2)
        self.offset = nn.Conv2d(dim, 8, 2, stride=2) if deformable else None
        self.norm = nn.BatchNorm2d(2 * dim)
        if self.offset is not None:
            for parameter in self.offset.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "batch rows columns c"]) -> Float[Tensor, "batch rows2 columns2 c2"]:
        x = x.permute(0, 3, 1, 2)
        merged = self.conv(x) if self.offset is None else self._deformed(x, self.offset(x))
        return F.gelu(self.norm(merged)).permute(0, 2, 3, 1)

    def _deformed(self, x: Tensor, offset: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = offset.shape[2:]
        # positions in half precision would be whole pixels off
        precise = torch.promote_types(x.dtype, torch.float32)
        dy, dx = offset.to(precise).unflatten(1, (2, 2, 2)).unbind(3)  # (batch, tap y, tap x, rows, columns)
        tap = torch.arange(2, device=x.device, dtype=precise)
        i, j = (2 * torch.arange(n, device=x.device, dtype=precise) for n in (rows, columns))
        y = i[:, None] + tap[:, None, None, None] + dy
        x_ = j + tap[:, None, None] + dx
        # to [-1, 1], the corners being the centres of the outermost tokens
        places = torch.stack((2 * x_ / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1), -1)
        taken = F.grid_sample(x.to(precise), places.flatten(1, 3), align_corners=True).to(x.dtype)
        taken = taken.unflatten(2, (4, rows)).permute(0, 3, 4, 1, 2).reshape(batch, rows * columns, channels * 4)
        merged = F.linear(taken, self.conv.weight.flatten(1), self.conv.bias)
        return merged.transpose(1, 2).unflatten(2, (rows, columns))


_NAMES = {
    "patch_embed.proj": "embedding",
    "patch_embed.norm": "embedding_norm",
    "layers.": "stages.",
    ".mlp.fc1": ".ffn.up",
    ".mlp.fc2": ".ffn.down",
    ".mlp.dwconv.dwconv": ".ffn.conv",
    ".downsample.dconv.conv_offset": ".merge.offset",
    ".downsample.dconv": ".merge.conv",
    ".downsample.norm_layer": ".merge.norm",
    ".attn.l_kv": ".attention.low_kv",
    ".attn.h_proj": ".attention.high_proj",
    ".attn.l_proj": ".attention.low_proj",
}


def _own_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' parameters under our names; Hi-Fi's ``q, k, v`` and Lo-Fi's ``q`` become one projection."""
    own: dict[str, Any] = {}
    for name, tensor in state.items():
        before, separator, after = name.partition(".attn.l_q.")
        if separator:
            high = state.get(f"{before}.attn.h_qkv.{after}")
            tensor = tensor if high is None else torch.cat((high, tensor))
            own[f"{before.replace('layers.', 'stages.')}.attention.in_proj.{after}"] = tensor
            continue
        before, separator, after = name.partition(".attn.h_qkv.")
        if separator:
            if f"{before}.attn.l_q.{after}" not in state:
                own[f"{before.replace('layers.', 'stages.')}.attention.in_proj.{after}"] = tensor
            continue
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        own[name] = tensor
    return own


def _read_off(state: Mapping[str, Any]) -> LITv2Config:
    """The configuration of released weights, as far as their shapes tell."""
    dim, channels, patch_size, _ = state["patch_embed.proj.weight"].shape
    parts = [name.split(".") for name in state if name.startswith("layers.")]
    stages = 1 + max(int(part[1]) for part in parts)
    depths = [1 + max(int(p[3]) for p in parts if p[1] == str(i) and p[2] == "blocks") for i in range(stages)]
    attention = []
    for i in range(stages):
        prefix, width = f"layers.{i}.blocks.0.attn.", dim * 2**i
        if not any(name.startswith(prefix) for name in state):
            attention.append("none")
        elif prefix + "h_proj.weight" not in state:
            attention.append("hilo:window_size=1")
        else:
            alpha = 1 - state[prefix + "h_proj.weight"].shape[0] / width
            attention.append(f"hilo:window_size=2,alpha={alpha}")
    return LITv2Config(
        patch_size=patch_size,
        channels=channels,
        classes=state["head.weight"].shape[0],
        dim=dim,
        depths=tuple(depths),
        heads=tuple(max(1, dim * 2**i // _HEAD_DIM) for i in range(stages)),
        expansion=state["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / dim,
        attention=tuple(attention),
    )
