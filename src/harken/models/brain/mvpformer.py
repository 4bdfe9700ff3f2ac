"""MVPFormer: predict and read brain signals by attention over time and channels (arXiv 2506.20354)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention import Attention, create_attention, parse_attention
from harken.attention.multivariate import MultivariateAttention
from harken.errors import CheckpointError, InputError
from harken.layers.lora import adapt_query_and_value
from harken.layers.transformer import SwiGLU
from harken.models._base import Model, build
from harken.signal.wavelet import WaveletTransform

_LORA_ALPHA = 16.0
_FLOOR = 1e-6  # of a segment's power, where signals are scaled to about 1


@dataclass(frozen=True)
class MVPFormerConfig:
    """Sizes and choices of :class:`MVPFormer`; the defaults are those of MVPFormer-S.

    Attributes:
        segment: samples of a segment (5 s at 512 Hz).
        wavelet: see :class:`harken.signal.wavelet.WaveletTransform`.
        dim, layers, heads, kv_heads, hidden: width, blocks, heads of queries, of keys and values, units of the SwiGLU.
        classes: how many are told apart; 0 for none.
        readout: what is classified, the ``"last"`` segment as published, or the ``"mean"`` of all.
        attention: the mechanism, with options behind a colon; ``"multivariate"`` is the paper's, others see the
            tokens as one row, moment by moment.
        max_segments, max_channels, content_window, lag_indexing, last_sees_all, length: of
            :class:`harken.attention.multivariate.MultivariateAttention`.
        dropout: on embeddings and on what blocks add, in training.
        amplitude: tell each token the power of its segment in every wavelet band too, which the norm of the encoder
            takes away; not published.
        lora_rank: of updates to queries and values; 0 for none.
    """

    segment: int = 2560
    wavelet: str = "db4"
    dim: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 4
    hidden: int = 1728
    classes: int = 2
    readout: Literal["last", "mean"] = "last"
    attention: str = "multivariate"
    max_segments: int = 110
    max_channels: int = 128
    content_window: int | None = 10
    lag_indexing: Literal["lag", "upstream"] = "lag"
    last_sees_all: bool = False
    length: int | None = None
    dropout: float = 0.1
    norm_eps: float = 1e-5
    amplitude: bool = False
    lora_rank: int = 0

    def __post_init__(self) -> None:
        sizes = (self.segment, self.dim, self.layers, self.heads, self.kv_heads, self.hidden)
        if min(sizes) < 1 or min(self.classes, self.lora_rank) < 0 or self.layers > 1000:
            raise InputError("segment, dim, layers, heads, kv_heads and hidden must be positive, classes at least 0")
        if self.dim % self.heads or self.heads % self.kv_heads:
            raise InputError(
                f"expected dim={self.dim} to divide by heads={self.heads}, and these by kv_heads={self.kv_heads}"
            )
        if not 0 <= self.dropout < 1 or not 0 < self.norm_eps < 1:
            raise InputError(f"expected dropout in [0, 1) and a small norm_eps, got {self.dropout}, {self.norm_eps}")

    @classmethod
    def small(cls) -> Self:
        """Segments of about a second at 128 Hz, on a laptop; 0.1 million parameters."""
        return cls(segment=128, dim=64, layers=3, heads=4, kv_heads=2, hidden=128, max_segments=64, max_channels=64)

    @classmethod
    def medium(cls) -> Self:
        """The published MVPFormer-M, 1.2 billion parameters."""
        return cls(dim=2048, layers=24, heads=16, kv_heads=8, hidden=5632)


class MVPFormerState(NamedTuple):
    """What a stream carries: the state of each block's attention, and how many channels it has."""

    blocks: tuple
    channels: int


class MVPFormer(Model):
    """Segments of many channels, as wavelet tokens, through blocks that attend over time and channels at once.

    A token is one channel in one segment: its wavelet coefficients, normalised and projected. A block adds attention
    and SwiGLU side by side, ``x + MVPA(norm x) + MLP(norm x)``. Causal over segments, so that what a token becomes can
    predict the token that follows in its channel (:meth:`predict_next`), and what the last segment becomes tells its
    class. Any number of channels up to ``max_channels``: what is learned of one montage can be used on another.

    Shape:
        - x ``(batch, segments, channels, segment)``: samples, scaled as in training
        - mask ``(batch, segments, channels)``: False where a channel is missing or a segment is padding
        - logits ``(batch, classes)``

    >>> model = MVPFormer(MVPFormerConfig.small()).eval()
    >>> x = torch.randn(2, 5, 3, 128)
    >>> model(x).shape, model.predict_next(model.encode(x)).shape
    (torch.Size([2, 2]), torch.Size([2, 5, 3, 64]))
    >>> hidden, state = model.step(x[:, :2], model.init_state(2, channels=3))
    >>> torch.allclose(hidden, model.hidden(model.encode(x))[:, :2], atol=1e-5)
    True
    """

    slug: ClassVar[str] = "mvpformer"
    Config: ClassVar[type[MVPFormerConfig]] = MVPFormerConfig

    def __init__(self, config: MVPFormerConfig | None = None):
        super().__init__(config)
        c = self.config
        self.encoder = WaveletEncoder(c)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(ParallelBlock(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.dim, eps=c.norm_eps)
        self.head = nn.Linear(c.dim, c.dim, bias=False)
        self.classifier = nn.Linear(c.dim, c.classes, bias=False) if c.classes else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        first: Any = self.blocks[0]
        for block in self._blocks:
            if isinstance(block.attention, MultivariateAttention) and block is not first:
                block.attention.share_tables(first.attention)
            if c.lora_rank:
                adapt_query_and_value(block.attention, c.lora_rank, alpha=_LORA_ALPHA)

    @property
    def _blocks(self) -> list[ParallelBlock]:
        return [block for block in self.blocks if isinstance(block, ParallelBlock)]

    def forward(
        self,
        x: Float[Tensor, "batch segments channels segment"],
        *,
        mask: Bool[Tensor, "batch segments channels"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        return self.classify(self.hidden(self.encode(x), mask=mask), mask=mask)

    def encode(
        self, x: Float[Tensor, "batch segments channels segment"]
    ) -> Float[Tensor, "batch segments channels dim"]:
        """The token of every channel in every segment: input of the blocks, and what is predicted.

        Raises:
            InputError: segments of another length.
        """
        if x.shape[-1] != self.config.segment:
            raise InputError(f"expected segments of {self.config.segment} samples, got {x.shape[-1]}")
        return self.encoder(x)

    def hidden(
        self,
        tokens: Float[Tensor, "batch segments channels dim"],
        *,
        mask: Bool[Tensor, "batch segments channels"] | None = None,
    ) -> Float[Tensor, "batch segments channels dim"]:
        """What the blocks make of the tokens; missing ones reach no other."""
        channels, segments = tokens.shape[2], tokens.shape[1]
        x = self.dropout(tokens).flatten(1, 2)
        real = None if mask is None else mask.flatten(1)
        for block in self._blocks:
            x = block(x, mask=real, grid=(channels, segments))
        return self.norm(x).view_as(tokens)

    def predict_next(
        self,
        tokens: Float[Tensor, "batch segments channels dim"],
        *,
        mask: Bool[Tensor, "batch segments channels"] | None = None,
    ) -> Float[Tensor, "batch segments channels dim"]:
        """For every token a prediction of the one that follows in its channel, up to its length."""
        return self.head(self.hidden(tokens, mask=mask))

    def classify(
        self,
        hidden: Float[Tensor, "batch segments channels dim"],
        *,
        mask: Bool[Tensor, "batch segments channels"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the last segment, or of all of them where ``readout`` says so."""
        real = torch.ones_like(hidden[..., 0], dtype=torch.bool) if mask is None else mask
        if self.config.readout == "last":
            # the last real segment of each item
            order = torch.arange(1, real.shape[1] + 1, device=real.device)
            last = (real.any(2) * order).argmax(1)
            real = real & (order - 1 == last[:, None])[..., None]
        return self._classify(hidden, real, (1, 2))

    def classify_segments(
        self,
        hidden: Float[Tensor, "batch segments channels dim"],
        *,
        mask: Bool[Tensor, "batch segments channels"] | None = None,
    ) -> Float[Tensor, "batch segments classes"]:
        """Logits of every segment, as if it were the last; causal, so later ones change nothing."""
        real = torch.ones_like(hidden[..., 0], dtype=torch.bool) if mask is None else mask
        return self._classify(hidden, real, (2,))

    def _classify(self, hidden: Tensor, real: Tensor, over: tuple[int, ...]) -> Tensor:
        if self.classifier is None:
            raise InputError("this model tells no classes apart: build it with classes=2 or more")
        total = hidden.masked_fill(~real[..., None], 0.0).sum(over)
        return self.classifier(total / real.sum(over).clamp_min(1)[..., None])

    def init_state(self, batch_size: int, *, channels: int) -> MVPFormerState:
        """What a stream carries before its first segment.

        Raises:
            InputError: the released rules count from the end of a window, and ``length`` does not say where that is.
            CapabilityError: the attention cannot stream.
        """
        states = []
        for block in self._blocks:
            options: dict[str, Any] = (
                {"channels": channels} if isinstance(block.attention, MultivariateAttention) else {}
            )
            states.append(block.attention.init_state(batch_size, **options))
        return MVPFormerState(tuple(states), channels)

    def step(
        self, x: Float[Tensor, "batch segments channels segment"], state: MVPFormerState
    ) -> tuple[Float[Tensor, "batch segments channels dim"], MVPFormerState]:
        """What the next segments of a stream become: equal to :meth:`hidden` of the whole, segment by segment."""
        if x.shape[2] != state.channels:
            raise InputError(f"the stream has {state.channels} channels, these segments {x.shape[2]}")
        tokens = self.encode(x)
        y, states = tokens.flatten(1, 2), []
        for block, before in zip(self._blocks, state.blocks, strict=True):
            y, after = block.step(y, before)
            states.append(after)
        return self.norm(y).view_as(tokens), MVPFormerState(tuple(states), state.channels)

    def adapted(self, rank: int = 8) -> MVPFormer:
        """A copy to fine-tune: low-rank updates of queries and values, and the classifier, are all that is trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = MVPFormer(replace(self.config, lora_rank=rank))
        made.load_state_dict(self.state_dict(), strict=False)
        made.requires_grad_(False)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(".updates." in name or name.startswith("classifier."))
        return made.train(self.training)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: MVPFormerConfig | None = None) -> Self:
        """Build from the released parameters: the base model, a classification head, or both in one dictionary.

        Without a config the sizes are read off the tensors and the released rules are taken (``lag_indexing`` is
        ``"upstream"``); updates by loralib are merged, and a head that they lack starts at zero.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        try:
            own = _own_names(state_dict)
            made = config or _read_off(own, state_dict)
            own.setdefault("head.weight", torch.zeros(made.dim, made.dim))
            if made.classes:
                own.setdefault("classifier.weight", torch.zeros(made.classes, made.dim))
            biases = (3, made.kv_heads, made.dim // made.heads)
            own = {n: w.reshape(biases) if n.endswith(".term_bias") else w for n, w in own.items()}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"not the parameters of an MVPFormer: {error}") from None
        return build(lambda: cls(made), own)


class WaveletEncoder(nn.Module):
    """Segments to tokens: wavelet coefficients, coarse to fine, normalised and projected."""

    def __init__(self, config: MVPFormerConfig):
        super().__init__()
        self.transform = WaveletTransform(config.segment, config.wavelet)
        self.norm = nn.RMSNorm(self.transform.coefficients, eps=config.norm_eps)
        self.proj = nn.Linear(self.transform.coefficients, config.dim, bias=False)
        self.power = nn.Linear(len(self.transform.sizes), config.dim) if config.amplitude else None

    def forward(self, x: Float[Tensor, "*batch segment"]) -> Float[Tensor, "*batch dim"]:
        coefficients = self.transform(x.float())
        tokens = self.proj(self.norm(coefficients.to(self.proj.weight.dtype)))
        if self.power is None:
            return tokens
        bands = coefficients.split(self.transform.sizes, -1)
        powers = torch.stack([band.square().mean(-1) for band in bands], -1)
        return tokens + self.power((powers + _FLOOR).log().to(tokens.dtype))


class ParallelBlock(nn.Module):
    """``x + attention(norm x) + ffn(norm x)``: both read the same normalised tokens."""

    def __init__(self, config: MVPFormerConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = _attention(config)
        self.ffn = SwiGLU(config.dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch positions dim"], *, mask: Tensor | None = None, grid: tuple[int, int]
    ) -> Float[Tensor, "batch positions dim"]:
        normed = self.norm(x)
        mixed = self.attention(normed, mask=mask, grid=grid if self.attention.capabilities.grid else None)
        return x + self.dropout(mixed) + self.dropout(self.ffn(normed))

    def step(self, x: Float[Tensor, "batch positions dim"], state: Any) -> tuple[Tensor, Any]:
        """The next positions of a stream, with the attention's state after them."""
        normed = self.norm(x)
        mixed, state = self.attention.step(normed, state)
        return x + mixed + self.ffn(normed), state


def _attention(config: MVPFormerConfig) -> Attention:
    c = config
    name, options = parse_attention(c.attention)
    if name == "multivariate":
        own = {
            "kv_heads": c.kv_heads,
            "content_window": c.content_window,
            "max_time": c.max_segments,
            "max_channels": c.max_channels,
            "lag_indexing": c.lag_indexing,
            "last_sees_all": c.last_sees_all,
            "length": c.length,
        }
        options = own | options
    return create_attention(name, dim=c.dim, heads=c.heads, causal=True, **options)


_NAMES = {
    "ln_1.weight": "norm.weight",
    "attn.q_attn.weight": "attention.q_proj.weight",
    "attn.c_attn.weight": "attention.kv_proj.weight",
    "attn.position_net.weight": "attention.time_proj.weight",
    "attn.channel_net.weight": "attention.channel_proj.weight",
    "attn.c_proj.weight": "attention.out_proj.weight",
    "attn.attn_bias": "attention.term_bias",
    "mlp.down_proj.weight": "ffn.down.weight",
}
_WHOLE = {
    "encoder.ln.weight": "encoder.norm.weight",
    "encoder.proj.weight": "encoder.proj.weight",
    "mvpformer.ln_f.weight": "norm.weight",
    "mvpformer.positional_embedding.weight": "blocks.0.attention.time_embedding",
    "mvpformer.channel_embedding.weight": "blocks.0.attention.channel_embedding",
}
# in the released model but in no path through it, or read elsewhere
_LEFT_OUT = ("ln_2.weight", "attn.bias", "attn.masked_bias", "mlp.gate_proj.weight", "mlp.up_proj.weight")


def _own_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """The released parameters under our names, in our layout."""
    own: dict[str, Any] = {}
    for name, tensor in state.items():
        if name in _WHOLE:
            own[_WHOLE[name]] = tensor
        elif name == "head.head.weight":
            own["head.weight" if tensor.shape[0] == tensor.shape[1] else "classifier.weight"] = tensor
        elif name.startswith("mvpformer.h."):
            layer, part = name.removeprefix("mvpformer.h.").split(".", 1)
            if part in _LEFT_OUT or part.endswith((".lora_A", ".lora_B")):
                continue
            own[f"blocks.{layer}.{_NAMES.get(part, part)}"] = tensor
        else:
            own[name] = tensor
    for layer in {name.split(".")[2] for name in state if name.startswith("mvpformer.h.")}:
        theirs = f"mvpformer.h.{layer}."
        gate_up = [state[f"{theirs}mlp.{part}_proj.weight"] for part in ("gate", "up")]
        own[f"blocks.{layer}.ffn.gate_up.weight"] = torch.cat(gate_up)
        for part in ("q_attn", "c_attn"):
            down, up = (state.get(f"{theirs}attn.{part}.lora_{kind}") for kind in "AB")
            if down is not None and up is not None:
                ours = f"blocks.{layer}.{_NAMES[f'attn.{part}.weight']}"
                update = _LORA_ALPHA / len(down) * up @ down  # of keys and values only the second half, the values
                own[ours] = own[ours] + F.pad(update, (0, 0, len(own[ours]) - len(update), 0))
    return own


def _read_off(own: Mapping[str, Any], state: Mapping[str, Any]) -> MVPFormerConfig:
    """The configuration of released weights, as far as their shapes tell."""
    max_segments, dim = own["blocks.0.attention.time_embedding"].shape
    kv_dim = own["blocks.0.attention.time_proj.weight"].shape[0]
    heads = {768: 12, 2048: 16}.get(dim)
    if heads is None:
        raise CheckpointError(f"weights of width {dim} do not tell how many heads there are: give a config")
    segment = own["encoder.proj.weight"].shape[1]
    segment = next(n for n in range(segment, 0, -1) if WaveletTransform(n).coefficients == segment)
    return MVPFormerConfig(
        segment=segment,
        dim=dim,
        layers=1 + max(int(name.split(".")[1]) for name in own if name.startswith("blocks.")),
        heads=heads,
        kv_heads=kv_dim // (dim // heads),
        hidden=own["blocks.0.ffn.down.weight"].shape[1],
        classes=len(own["classifier.weight"]) if "classifier.weight" in own else 2,
        max_segments=max_segments,
        max_channels=len(own["blocks.0.attention.channel_embedding"]),
        lag_indexing="upstream",
        last_sees_all=True,
    )
