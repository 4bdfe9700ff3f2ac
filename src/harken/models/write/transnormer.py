"""TransNormerLLM: a language model on lightning attention and gated linear units (arXiv 2405.17381)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from harken.attention.lightning import LightningAttention, LightningState, rename_mixer
from harken.errors import CheckpointError, InputError
from harken.layers.transformer import make_norm
from harken.models._base import Model, build


@dataclass(frozen=True)
class TransNormerConfig:
    """Sizes and choices of :class:`TransNormer`; the defaults are those of the released 385M model.

    Attributes:
        vocabulary: tokens; 256 reads plain bytes.
        dim, layers, heads, glu_dim: width, blocks, heads a block, inner width of the gated unit.
        bias: whether the linear layers have one.
        lrpe_layers: which layers have relative positions beside the decay; the paper: the first only.
        decay, gate: whether the attention forgets and is gated, for ablations.
        tied: the output reads the embedding's own matrix.
        scaled_embedding: embeddings times ``sqrt(dim)``, as in the released code (not the first author's compact one).
        chunk_size: positions that meet directly; changes speed and memory, not the result.
    """

    vocabulary: int = 64000
    dim: int = 1024
    layers: int = 24
    heads: int = 8
    glu_dim: int = 2816
    bias: bool = False
    lrpe_layers: tuple[int, ...] = (0,)
    decay: bool = True
    gate: bool = True
    tied: bool = False
    scaled_embedding: bool = True
    chunk_size: int = 64

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.dim, self.layers, self.heads, self.glu_dim) < 1 or self.layers > 1000:
            raise InputError("vocabulary, dim, layers (at most 1000), heads and glu_dim must be positive")
        if any(not 0 <= layer < self.layers for layer in self.lrpe_layers):
            raise InputError(f"lrpe_layers {self.lrpe_layers} must name layers from 0 to {self.layers - 1}")

    @classmethod
    def small(cls) -> Self:
        """Reads bytes and trains in minutes on a laptop: 0.7 M parameters."""
        return cls(256, 128, 4, 4, 256, tied=True, scaled_embedding=False)


class TransNormerState(NamedTuple):
    """What a stream of tokens carries: one state per layer, none of which grows."""

    layers: tuple[LightningState, ...]


class TransNormer(Model):
    """Tokens to the logits of the next token; in :meth:`step` at a cost that does not depend on how many came before.

    Shape:
        - tokens: ``(batch, time)``, integers below ``vocabulary``
        - logits: ``(batch, time, vocabulary)``

    >>> model = TransNormer(TransNormer.Config.small())
    >>> logits, state = model.step(torch.zeros(1, 5, dtype=torch.long), model.init_state(1))
    >>> logits.shape
    torch.Size([1, 5, 256])
    """

    slug: ClassVar[str] = "lightning-attention"
    Config: ClassVar[type[TransNormerConfig]] = TransNormerConfig

    def __init__(self, config: TransNormerConfig | None = None):
        super().__init__(config)
        c = self.config
        self.embedding = nn.Embedding(c.vocabulary, c.dim)
        self.blocks = nn.ModuleList(TransNormerBlock(c, layer) for layer in range(c.layers))
        self.norm = make_norm("simple-rms", c.dim)
        self.head = None if c.tied else nn.Linear(c.dim, c.vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Int[Tensor, "batch time"], *, mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time vocabulary"]:
        x = self._embed(tokens)
        for block in self.blocks:
            x = block(x, mask=mask)
        return self._logits(x)

    def init_state(self, batch_size: int) -> TransNormerState:
        """The state before the first token."""
        weight = self.embedding.weight
        return TransNormerState(
            tuple(
                block.attention.init_state(batch_size, device=weight.device, dtype=weight.dtype)  # type: ignore[union-attr, operator]
                for block in self.blocks
            )
        )

    def step(
        self, tokens: Int[Tensor, "batch time"], state: TransNormerState
    ) -> tuple[Float[Tensor, "batch time vocabulary"], TransNormerState]:
        """Logits after the next tokens, one or many, and the state after them; equals :meth:`forward` in one go."""
        x = self._embed(tokens)
        layers = []
        for block, before in zip(self.blocks, state.layers, strict=True):
            x, after = block.step(x, before)  # type: ignore[operator]
            layers.append(after)
        return self._logits(x), TransNormerState(tuple(layers))

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: TransNormerConfig | None = None) -> Self:
        """Build from the weights of the released models or of the first author's compact code, told apart by names.

        Without a ``config`` sizes are read from the weights; what these do not hold is taken as released: embeddings
        are scaled (not in the compact code), heads have 128 channels unless relative positions say otherwise.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        foreign = [str(name) for name, tensor in state_dict.items() if not isinstance(tensor, Tensor)]
        compact = "transnormer.wte.weight" in state_dict
        embedding = state_dict.get("transnormer.wte.weight" if compact else "model.embed_tokens.weight")
        if foreign or embedding is None or embedding.ndim != 2:
            raise CheckpointError("expected TransNormerLLM's weights, with 'transnormer.wte' or 'model.embed_tokens'")
        try:
            head = state_dict.get("lm_head.weight", embedding)
            tied = torch.equal(head, embedding) if config is None else config.tied
            ours = _renamed(state_dict, tied)
            made = config or _config_of(ours, scaled_embedding=not compact)
            return build(lambda: cls(made), ours)
        except InputError as problem:
            raise CheckpointError(f"these weights do not make a TransNormerLLM: {problem}") from None

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return x * self.config.dim**0.5 if self.config.scaled_embedding else x

    def _logits(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return nn.functional.linear(x, self.embedding.weight) if self.head is None else self.head(x)


class TransNormerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + glu(norm(x))``; the norms have no parameters."""

    def __init__(self, config: TransNormerConfig, layer: int):
        super().__init__()
        c = config
        self.norm = make_norm("simple-rms", c.dim)
        self.attention = LightningAttention(
            c.dim,
            c.heads,
            causal=True,
            bias=c.bias,
            layer=layer,
            layers=c.layers,
            decay=c.decay,
            lrpe=layer in c.lrpe_layers,
            gate="linear" if c.gate else "none",
            chunk_size=c.chunk_size,
        )
        self.glu = SimpleGLU(c.dim, c.glu_dim, bias=c.bias)

    def forward(
        self, x: Float[Tensor, "batch time dim"], *, mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        x = x + self.attention(self.norm(x), mask=mask)
        return x + self.glu(self.norm(x))

    def step(
        self, x: Float[Tensor, "batch time dim"], state: LightningState
    ) -> tuple[Float[Tensor, "batch time dim"], LightningState]:
        """The next positions of a stream, with the attention's state after them."""
        mixed, state = self.attention.step(self.norm(x), state)
        x = x + mixed
        return x + self.glu(self.norm(x)), state


class SimpleGLU(nn.Module):
    """``W_o ((W_v x) * (W_u x))``: a gated linear unit whose product is its only non-linearity (SGLU)."""

    def __init__(self, dim: int, hidden: int, *, bias: bool = False):
        super().__init__()
        self.value_proj = nn.Linear(dim, hidden, bias=bias)
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.out_proj = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        return self.out_proj(self.value_proj(x) * self.gate_proj(x))


_OTHERS = {
    "transnormer.wte.weight": "embedding.weight",
    "model.embed_tokens.weight": "embedding.weight",
    "lm_head.weight": "head.weight",
}
_GLU = {"l1": "value_proj", "l2": "gate_proj", "l3": "out_proj"}
_PART = re.compile(r"(?:transnormer\.h|model\.layers)\.(\d{1,4})\.(token_mixer|channel_mixer)\.(.+)")


def _renamed(state_dict: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """The authors' parameters under our names; unknown names stay, for :func:`build` to name."""
    ours: dict[str, Tensor] = {}
    mixers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state_dict.items():
        match = _PART.fullmatch(str(name))
        if match is None:
            if not (tied and name == "lm_head.weight"):  # there it is the embedding again
                ours[_OTHERS.get(name, str(name))] = tensor
        elif match[2] == "token_mixer":
            mixers.setdefault(match[1], {})[match[3]] = tensor
        else:
            layer, _, part = match[3].partition(".")
            ours[f"blocks.{match[1]}.glu.{_GLU.get(layer, layer)}.{part}"] = tensor
    for layer, mixer in mixers.items():
        ours |= {f"blocks.{layer}.attention.{name}": tensor for name, tensor in rename_mixer(mixer).items()}
    return ours


def _config_of(ours: Mapping[str, Tensor], *, scaled_embedding: bool) -> TransNormerConfig:
    vocabulary, dim = ours["embedding.weight"].shape
    layers = [int(name.split(".")[1]) for name in ours if name.startswith("blocks.")]
    thetas = {int(name.split(".")[1]): theta for name, theta in ours.items() if name.endswith("attention.theta")}
    glu = ours.get("blocks.0.glu.value_proj.weight")
    return TransNormerConfig(
        vocabulary=vocabulary,
        dim=dim,
        layers=1 + max(layers, default=0),
        heads=next((theta.shape[0] for theta in thetas.values() if theta.ndim), max(1, dim // 128)),
        glu_dim=1 if glu is None else glu.shape[0],
        bias="blocks.0.attention.out_proj.bias" in ours,
        lrpe_layers=tuple(sorted(thetas)),
        tied="head.weight" not in ours,
        scaled_embedding=scaled_embedding,
    )
