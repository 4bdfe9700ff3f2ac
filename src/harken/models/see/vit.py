"""ViT: an image as a row of patches, any bidirectional attention; Sparsifiner's DeiT is a preset (arXiv 2303.13755)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention import Attention, ProjectedAttention, create_attention, parse_attention, take_turns
from harken.attention.sparsifiner import Pruned, SparsifinerAttention, class_weights, our_name
from harken.errors import CheckpointError, InputError
from harken.layers.drop_path import DropPath, drop_rates
from harken.models._base import Model, build
from harken.observation import emit

Size = Literal["tiny", "small", "base"]
_WIDTHS: dict[str, int] = {"tiny": 192, "small": 384, "base": 768}


@dataclass(frozen=True)
class ViTConfig:
    """Sizes and choices of :class:`ViT`; the defaults are those of DeiT-S (arXiv 2012.12877).

    Attributes:
        image_size, patch_size, channels: side of the images and of the patches they are cut into, in pixels; colours.
        classes: how many there are.
        dim, layers, heads, expansion: width, blocks, heads a block, hidden channels of the FFN over ``dim``.
        attention: mechanisms that take turns through the layers, each with its options (``"sparsifiner:keep=0.1"``);
            those that need a plain grid (``"hilo"``) go with ``pool="mean"``.
        pool: what is classified, a ``"class"`` token of its own or the ``"mean"`` of the patches.
        drop_path: probability with which the last block is left out in training; earlier ones less.
        norm_eps: added to the variance in layer norms; 1e-12 in weights of Hugging Face's ViT.
        token_keep: for each layer the share of all patches that goes on behind it, those that the class token attends
            to most; empty for all.
        pruned: whether patches that do not go on are ``"removed"``, or live on for the class token as zeros
            (``"zeroed"``, as the released code of Sparsifiner has it).
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    classes: int = 1000
    dim: int = 384
    layers: int = 12
    heads: int = 6
    expansion: float = 4.0
    attention: tuple[str, ...] = ("softmax",)
    pool: Literal["class", "mean"] = "class"
    drop_path: float = 0.0
    token_keep: tuple[float, ...] = ()
    pruned: Literal["removed", "zeroed"] = "removed"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if min(self.image_size, self.patch_size, self.channels, self.classes, self.dim, self.layers, self.heads) < 1:
            raise InputError("image_size, patch_size, channels, classes, dim, layers and heads must be positive")
        if self.image_size % self.patch_size or self.layers > 1000:
            raise InputError(
                f"expected image_size={self.image_size} to be a multiple of patch_size={self.patch_size}, and at most "
                "1000 layers"
            )
        take_turns(self.attention, self.layers)  # says so where they are none, or too many
        if self.pool not in ("class", "mean") or self.pruned not in ("removed", "zeroed"):
            raise InputError(
                f"expected pool class or mean and pruned removed or zeroed, got {self.pool}, {self.pruned}"
            )
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path is a probability below 1, got {self.drop_path}")
        shares = (1.0, *self.token_keep)
        if self.token_keep and (
            len(self.token_keep) != self.layers or any(not 0 < after <= before for before, after in pairwise(shares))
        ):
            raise InputError(f"expected {self.layers} shares in token_keep, none larger than the one before")
        if self.token_keep and self.pool != "class":
            raise InputError("token_keep goes by what the class token attends to: it needs pool='class'")

    @classmethod
    def small(cls) -> Self:
        """32-pixel images on a laptop: 64 patches of 4 x 4."""
        return cls(image_size=32, patch_size=4, classes=10, dim=96, layers=6, heads=3, expansion=2.0, drop_path=0.05)

    @classmethod
    def deit(cls, size: Size = "small") -> Self:
        """The dense DeiT of a size, which is also the teacher of the Sparsifiner of that size."""
        return cls(dim=_WIDTHS[size], heads=_WIDTHS[size] // 64)

    @classmethod
    def sparsifiner(cls, size: Size = "small", keep: float = 0.25, token_keep: float = 1.0) -> Self:
        """Sparsifiner's DeiT: ``keep`` of the keys for each query, ``token_keep`` of the patches at three layers."""
        shares = tuple(token_keep ** (layer // 3) for layer in range(12)) if token_keep < 1 else ()
        return replace(cls.deit(size), attention=(f"sparsifiner:keep={keep}",), token_keep=shares)


class Encoded(NamedTuple):
    """What the blocks of a :class:`ViT` make of an image, after the last norm.

    Shape:
        - summary ``(batch, dim)``: the class token, or the mean of the real patches
        - patches ``(batch, patches, dim)``, those that were pruned as the norm leaves zeros
        - alive ``(batch, patches)``: False at pruned patches
    """

    summary: Tensor
    patches: Tensor
    alive: Tensor


class ViT(Model):
    """Patches of an image, embedded and mixed by attention and FFN in turn, to the logits of its class.

    Shape:
        - image ``(batch, channels, image_size, image_size)``, normalised as in training
        - mask ``(batch, rows, columns)`` of patches, True where a patch is real
        - logits ``(batch, classes)``

    Raises:
        InputError: a mechanism does not go with the class token or with pruning.

    >>> model = ViT(ViT.Config(image_size=32, patch_size=8, classes=3, dim=16, layers=2, heads=2, pool="mean",
    ...                        attention=("hilo", "softmax")))
    >>> model(torch.randn(5, 3, 32, 32)).shape
    torch.Size([5, 3])
    """

    slug: ClassVar[str] = "vit"
    Config: ClassVar[type[ViTConfig]] = ViTConfig

    def __init__(self, config: ViTConfig | None = None):
        super().__init__(config)
        c = self.config
        self.side = c.image_size // c.patch_size
        self.first = int(c.pool == "class")
        self.tokens = self.side**2 + self.first
        self.embedding = nn.Conv2d(c.channels, c.dim, c.patch_size, stride=c.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, c.dim)) if self.first else None
        self.positions = nn.Parameter(torch.zeros(1, self.tokens, c.dim))
        mechanisms, rates = take_turns(c.attention, c.layers), drop_rates(c.drop_path, c.layers)
        self.blocks = nn.ModuleList(
            Block(c, self._attention(mechanism), rate) for mechanism, rate in zip(mechanisms, rates, strict=True)
        )
        self.norm = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.head = nn.Linear(c.dim, c.classes)
        for table in (self.class_token, self.positions, self.head.weight):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.left = [math.ceil(share * self.side**2) for share in c.token_keep]
        block: Any
        for count, block in zip(self.left, self.blocks, strict=bool(self.left)):
            if count < self.side**2 and not isinstance(block.attention, ProjectedAttention):
                raise InputError(
                    f"token_keep needs the class token's attention, which '{block.attention.name}' has not"
                )

    def _attention(self, written: str) -> Attention:
        c = self.config
        name, options = parse_attention(written)
        if name == "sparsifiner":
            sizes = {"num_tokens": self.tokens, "class_token": bool(self.first), "reconstruction": 0.01 / c.layers}
            options = sizes | options
        layer = create_attention(name, dim=c.dim, heads=c.heads, **options)
        if layer.capabilities.grid and self.first:
            raise InputError(f"'{name}' needs a plain grid, without a class token: choose pool='mean'")
        return layer

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        *,
        mask: Bool[Tensor, "batch rows columns"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        return self.head(self.encode(image, mask=mask).summary)

    def encode(
        self,
        image: Float[Tensor, "batch channels height width"],
        *,
        mask: Bool[Tensor, "batch rows columns"] | None = None,
        drop: bool = True,
    ) -> Encoded:
        """What the blocks make of an image.

        Args:
            image: normalised as in training.
            mask: True where a patch is real.
            drop: really take pruned patches away, which saves time; otherwise mask them, which gives the same (but for
                a Sparsifiner with ``block_size``, whose blocks are of the patches that are there).

        Raises:
            InputError: the image or mask has another shape than the model was built for.
        """
        x, real = self._embed(image, mask)
        whole = (self.side, self.side) if not self.first else None
        positions, left = None, self.side**2
        block: Any
        for i, block in enumerate(self.blocks):
            keywords: dict[str, Any] = {"mask": real, "grid": whole}
            zeroed = self.side**2 - left if self.config.pruned == "zeroed" else 0
            if isinstance(block.attention, SparsifinerAttention):
                total = self.tokens if left < self.side**2 else None
                keywords["pruned"] = Pruned(positions, total, zeroed)
            normed = block.norm1(x)
            x = x + block.drop_path(block.attention(normed, **keywords))
            if self.left and self.left[i] < left:
                left = self.left[i]
                kept = _most_attended(block.attention, normed, real, zeroed, left)
                if drop:
                    own = (
                        torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
                        if positions is None
                        else positions
                    )
                    positions = own.gather(1, kept)
                    x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
                    real = None if real is None else real.gather(1, kept)
                else:
                    alive = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device).scatter(1, kept, True)
                    real = alive if real is None else real & alive
            x = x + block.drop_path(block.ffn(block.norm2(x)))
            if left < self.side**2 and not drop and real is not None:
                x = x.masked_fill(~real[..., None], 0.0)
            emit(block, "tokens", partial(self._alive, x, positions, real))
        return self._encoded(x, positions, real)

    def _embed(self, image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        c = self.config
        if image.ndim != 4 or image.shape[1:] != (c.channels, c.image_size, c.image_size):
            expected = f"(batch, {c.channels}, {c.image_size}, {c.image_size})"
            raise InputError(f"expected images {expected}, got {tuple(image.shape)}: resize them, or use resized()")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(image), self.side, self.side)):
            expected = f"({len(image)}, {self.side}, {self.side})"
            raise InputError(f"expected a boolean mask of patches {expected}, got {mask.dtype} {tuple(mask.shape)}")
        x = self.embedding(image).flatten(2).transpose(1, 2)
        real = None if mask is None else mask.flatten(1)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(len(x), -1, -1), x), 1)
            real = None if real is None else F.pad(real, (1, 0), value=True)
        return x + self.positions, real

    def _alive(self, x: Tensor, positions: Tensor | None, real: Tensor | None) -> Tensor:
        alive = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if real is None else real
        if positions is not None:
            alive = alive.new_zeros(x.shape[0], self.tokens).scatter(1, positions, alive)
        return alive[:, self.first :]

    def _encoded(self, x: Tensor, positions: Tensor | None, real: Tensor | None) -> Encoded:
        alive = self._alive(x, positions, real)
        if positions is not None:
            where = positions[..., None].expand_as(x)
            x = x.new_zeros(x.shape[0], self.tokens, x.shape[2]).scatter(1, where, x)
        x = self.norm(x)
        patches = x[:, self.first :]
        if self.first:
            return Encoded(x[:, 0], patches, alive)
        if real is None:
            return Encoded(patches.mean(1), patches, alive)
        total = patches.masked_fill(~alive[..., None], 0.0).sum(1)
        return Encoded(total / alive.sum(1, keepdim=True).clamp_min(1), patches, alive)

    def resized(self, image_size: int) -> ViT:
        """The same model for images of another size: position tables, predictors' too, are interpolated over the grid.

        Raises:
            InputError: the size is not a multiple of the patch.
        """
        written = []
        for i, block in enumerate(self.blocks):
            text = self.config.attention[i % len(self.config.attention)]
            if isinstance(block.attention, SparsifinerAttention) and "rank=" not in text:
                text += f"{',' if ':' in text else ':'}rank={block.attention.predictor.pool.shape[1]}"
            written.append(text)
        model = ViT(replace(self.config, image_size=image_size, attention=tuple(written)))
        state = {}
        for name, tensor in self.state_dict().items():
            if name == "positions" or name.endswith((".predictor.pool", ".predictor.basis")):
                flat = tensor.reshape(self.tokens, -1)
                first, grid = flat[: self.first], flat[self.first :].T.reshape(1, -1, self.side, self.side)
                grid = F.interpolate(grid, (model.side, model.side), mode="bilinear")
                tensor = torch.cat((first, grid[0].flatten(1).T)).reshape(*tensor.shape[:-2], model.tokens, -1)
            state[name] = tensor
        model.load_state_dict(state)
        return model.train(self.training)

    @classmethod
    def from_dense(cls, dense: ViT, config: ViTConfig) -> Self:
        """A model of ``config`` that starts from the weights of another one; what that one lacks starts afresh.

        Sparsifiner starts so from its teacher: only the predictors are new.

        Raises:
            CheckpointError: the sizes do not fit, or the other has something this one has not.
        """
        model = cls(config)
        state = model.state_dict()
        given = dense.state_dict()
        wrong = [name for name in given if name not in state or state[name].shape != given[name].shape]
        if wrong:
            raise CheckpointError(f"these two models do not share their weights: '{wrong[0]}' does not fit")
        model.load_state_dict(state | given)
        return model

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: ViTConfig | None = None) -> Self:
        """Build from the names of DeiT and Sparsifiner: a state dictionary, or their file ``{"model": state_dict}``.

        Without a config the sizes are read off the tensors, with DeiT's heads of 64 channels where nothing else tells.
        """
        state = state_dict.get("model", state_dict)
        if isinstance(state, Mapping) and "embedding.weight" in state:  # harken's own names
            return build(lambda: cls(config or ViTConfig.small()), state)
        if not isinstance(state, Mapping) or "patch_embed.proj.weight" not in state:
            raise CheckpointError("not a DeiT or Sparsifiner: 'patch_embed.proj.weight' is missing")
        try:
            config = config or _read_off(state)
            own = {_own_name(name): tensor for name, tensor in state.items()}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"not the parameters of a DeiT or Sparsifiner: {error}") from None
        made = config
        return build(lambda: cls(made), own)


class Block(nn.Module):
    """The parts of one block; :class:`ViT` puts them together, since it prunes in between."""

    def __init__(self, config: ViTConfig, attention: Attention, drop_path: float):
        super().__init__()
        hidden = round(config.dim * config.expansion)
        self.norm1 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.ffn = nn.Sequential(nn.Linear(config.dim, hidden), nn.GELU(), nn.Linear(hidden, config.dim))
        self.drop_path = DropPath(drop_path)


def _most_attended(attention: ProjectedAttention, x: Tensor, real: Tensor | None, zeroed: int, count: int) -> Tensor:
    """Where the class token and the ``count`` patches are that it attends to most, in their order."""
    q, k, _ = attention.project(x[:, :1], x)
    scores = class_weights(q, k, real, zeroed)[:, :, 0].mean(1)
    scores[:, 0] = math.inf  # the class token itself goes on
    if real is not None:
        scores = scores.masked_fill(~real, -math.inf)
    return scores.topk(count + 1).indices.sort(1).values


_NAMES = {
    "patch_embed.proj": "embedding",
    "cls_token": "class_token",
    "pos_embed": "positions",
    "mlp.fc1": "ffn.0",
    "mlp.fc2": "ffn.2",
}


def _own_name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
        name = name.replace(f".{theirs}.", f".{ours}.")
    prefix, separator, rest = name.partition(".attn.")
    return f"{prefix}.attention.{our_name(rest)}" if separator else name


def _read_off(state: Mapping[str, Any]) -> ViTConfig:
    """The configuration of released weights, as far as their shapes tell."""
    dim, channels, patch_size, _ = state["patch_embed.proj.weight"].shape
    side = math.isqrt(state["pos_embed"].shape[1] - 1)
    heads, attention = max(1, dim // 64), "softmax"
    if "blocks.0.attn.mask_predictor.proj_n" in state:
        reduced, head_dim = state["blocks.0.attn.mask_predictor.proj_c_q.weight"].shape
        rank = state["blocks.0.attn.mask_predictor.proj_n"].shape[1]
        heads, attention = dim // head_dim, f"sparsifiner:rank={rank},reduced_dim={reduced}"
    return ViTConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        channels=channels,
        classes=state["head.weight"].shape[0],
        dim=dim,
        layers=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads,
        expansion=state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        attention=(attention,),
    )
