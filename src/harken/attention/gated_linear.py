"""Gated linear attention: a state whose channels forget as the data says, as Lina-Speech uses it (arXiv 2410.23320)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Attention, Capabilities, Cost, State
from harken.attention._decayed import PIECE, decayed_step, gated_attention, gated_flops, gated_weights
from harken.errors import CheckpointError, InputError
from harken.observation import emit


class GatedLinearState(NamedTuple):
    """What a stream carries; its size does not grow.

    Shape:
        - keys_values: ``(batch, heads, key_dim, value_dim)``, in float32 at least. Another start than zeros is how
          Lina-Speech holds a voice.
        - window: ``(batch, conv_size - 1, channels)``, the last projected queries, keys and values
    """

    keys_values: Tensor
    window: Tensor


class GatedLinearAttention(Attention):
    """A ``key_dim x value_dim`` state per head, each key channel of which forgets at a rate made from the data.

    ``S_t = diag(a_t) S_(t-1) + k_t^T v_t`` and ``o_t = (q_t / sqrt(key_dim)) S_t``, with
    ``a_t = sigmoid(W2 W1 x_t + b) ** (1 / temperature)``; then ``y = W (RMSNorm(o) * SiLU(gate))``, the norm per head.
    Queries, keys and values each pass a short causal convolution per channel and SiLU. Causal only. Pairs meet
    directly inside a chunk, everything before it is met through the state, so time and memory are linear in length.
    On CUDA the kernels of flash-linear-attention do it, where installed (extra ``cuda``).

    The rows of :meth:`weights` are the decayed scores: they do not sum to 1, and may be negative.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: must be True.
        expand_key, expand_value: channels of a head's keys and values, as a share of ``dim / heads``. Half and whole
            are gated linear attention's own; Lina-Speech's code has 1 and 2 when nothing is said.
        conv_size: length of the short convolution (4 in Lina-Speech's release); 0 leaves it and its SiLU out.
        gate_rank: inner width of the projection behind ``a``.
        temperature: the larger, the slower the forgetting; at 16 a fresh layer keeps about 0.96 per position.
        chunk_size: positions that meet directly, a power of two; changes speed and memory, not the result.

    Raises:
        CapabilityError: ``causal`` is False.

    >>> layer = GatedLinearAttention(dim=16, heads=2, causal=True)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.keys_values.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 2, 4, 8]))
    """

    name: ClassVar[str] = "gated-linear"
    capabilities: ClassVar[Capabilities] = Capabilities(
        bidirectional=False, cross=False, constant_state=True, normalized=False
    )
    state_type: ClassVar[type[tuple]] = GatedLinearState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        expand_key: float = 0.5,
        expand_value: float = 1.0,
        conv_size: int = 4,
        gate_rank: int = 16,
        temperature: float = 16.0,
        chunk_size: int = 64,
    ):
        super().__init__(dim, heads, causal=causal)
        if chunk_size < 1 or chunk_size & (chunk_size - 1):
            raise InputError(f"chunk_size={chunk_size} must be a power of two")
        if not (expand_key > 0 and expand_value > 0 and conv_size >= 0 and gate_rank >= 1 and temperature > 0):
            raise InputError("expand_key, expand_value, gate_rank and temperature must be positive, conv_size not less")
        self.temperature, self.chunk_size, self.conv_size = temperature, chunk_size, conv_size
        self.key_dim, self.value_dim = (max(1, int(self.head_dim * part)) for part in (expand_key, expand_value))
        keys, values = heads * self.key_dim, heads * self.value_dim
        self.in_proj = nn.Linear(dim, 2 * keys + values, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(2 * keys + values, conv_size)) if conv_size else None
        narrow, wide = nn.Linear(dim, gate_rank, bias=False), nn.Linear(gate_rank, keys)
        self.forget_proj = nn.Sequential(narrow, wide)
        self.gate_proj = nn.Linear(dim, values, bias=False)
        self.norm = nn.RMSNorm(self.value_dim, eps=1e-5)
        self.out_proj = nn.Linear(values, dim, bias=False)
        for linear in (self.in_proj, narrow, wide, self.gate_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)
        nn.init.zeros_(wide.bias)
        if self.conv_weight is not None:
            nn.init.uniform_(self.conv_weight, -(conv_size**-0.5), conv_size**-0.5)

    @classmethod
    def from_authors(
        cls, state_dict: Mapping[str, Tensor], heads: int, *, temperature: float = 16.0, chunk_size: int = 64
    ) -> Self:
        """The layer with the weights of Lina-Speech's time mixer (``tmix.*``, without that prefix).

        Raises:
            CheckpointError: the names or sizes are not those of such a layer.
        """
        renamed = {
            "g_proj.weight": "gate_proj.weight",
            "g_norm_swish_gate.weight": "norm.weight",
            "gk_proj.0.weight": "forget_proj.0.weight",
            "gk_proj.1.weight": "forget_proj.1.weight",
            "gk_proj.1.bias": "forget_proj.1.bias",
            "o_proj.weight": "out_proj.weight",
        }
        stacked = [f"{which}_{part}.weight" for part in ("proj", "conv1d") for which in "qkv"]
        conv_size = state_dict["q_conv1d.weight"].shape[-1] if "q_conv1d.weight" in state_dict else 0
        if missing := [name for name in (*renamed, *stacked[: 6 if conv_size else 3]) if name not in state_dict]:
            raise CheckpointError(f"these are not the weights of one time mixer: '{missing[0]}' is missing")
        ours = {ours: state_dict[theirs] for theirs, ours in renamed.items()}
        ours |= {name: tensor for name, tensor in state_dict.items() if name not in renamed and name not in stacked}
        ours["in_proj.weight"] = torch.cat([state_dict[name] for name in stacked[:3]])
        if conv_size:
            ours["conv_weight"] = torch.cat([state_dict[name] for name in stacked[3:]]).squeeze(1)
        keys, dim = state_dict["q_proj.weight"].shape
        layer = cls(
            dim,
            heads,
            causal=True,
            expand_key=keys / dim,
            expand_value=state_dict["v_proj.weight"].shape[0] / dim,
            conv_size=conv_size,
            gate_rank=state_dict["gk_proj.0.weight"].shape[0],
            temperature=temperature,
            chunk_size=chunk_size,
        )
        try:
            layer.load_state_dict(ours)
        except RuntimeError as problem:
            what = " ".join(str(problem).split())[:200]
            raise CheckpointError(f"these are not the weights of a time mixer of {heads} heads: {what}") from None
        return layer

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        emit(self, "weights", lambda: self.weights(x, mask=mask))
        emit(self, "gate", lambda: self.log_decay(x, mask))
        if x.shape[1] > self.chunk_size:
            return self._go_on(x, self.init_state(x.shape[0], device=x.device), mask)[0]
        q, k, v, _ = self._project(x, mask, None)  # one chunk: every pair meets directly
        weights = gated_weights(q, k, self.log_decay(x, mask))
        return self._merge(x, (weights @ v.to(weights.dtype)).to(v.dtype))

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> GatedLinearState:
        weight = self.in_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        precise = torch.promote_types(dtype, torch.float32)
        return GatedLinearState(
            torch.zeros(batch_size, self.heads, self.key_dim, self.value_dim, device=device, dtype=precise),
            torch.zeros(batch_size, self._before, weight.shape[0], device=device, dtype=dtype),
        )

    def step(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        self._check_stream(x, state)
        y, after = self._go_on(x, GatedLinearState(*state))
        return y, cast(State, after)

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        self._check(x, context, mask, grid)
        q, k, _, _ = self._project(x, mask, None)
        return gated_weights(q, k, self.log_decay(x, mask)).to(x.dtype)

    def log_decay(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch heads time key_dim"]:
        """``log a``, at most 0, in float32 at least: a bfloat16 cannot tell 0.999 from 1. Padding forgets nothing."""
        gates = self.forget_proj(x)
        gates = F.logsigmoid(gates.to(torch.promote_types(gates.dtype, torch.float32))) / self.temperature
        if mask is not None:
            gates = gates.masked_fill(~mask.unsqueeze(-1), 0.0)
        return gates.unflatten(2, (self.heads, self.key_dim)).transpose(1, 2)

    def cost(self, batch: int, time: int) -> Cost:
        item, positions, sums = self.in_proj.weight.element_size(), batch * time, self.heads * self.key_dim
        matrices = [self.in_proj, *self.forget_proj, self.gate_proj, self.out_proj]
        projections = 2 * positions * sum(matrix.weight.numel() for matrix in matrices)
        if time <= self.chunk_size:
            size = max(2, 1 << (time - 1).bit_length())
            pairs = size * (size - 1) * self.key_dim + 2 * time**2 * self.value_dim
            mixing, stored = batch * self.heads * pairs, batch * self.heads * size**2
        else:
            mixing = gated_flops(batch, self.heads, time, self.key_dim, self.value_dim, self.chunk_size)
            chunks = -(-time // self.chunk_size)
            stored = positions * self.heads * self.chunk_size + batch * chunks * sums * self.value_dim
        channels = self.in_proj.out_features
        moved = positions * (2 * self.dim + 3 * channels + 2 * sums + 2 * self.gate_proj.out_features)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        state = max(4, item) * sums * self.value_dim + item * self._before * channels
        return Cost(flops=projections + mixing, bytes=item * (parameters + moved + stored), state=batch * state)

    @property
    def _before(self) -> int:
        return max(0, self.conv_size - 1)

    def _go_on(self, x: Tensor, state: GatedLinearState, mask: Tensor | None = None) -> tuple[Tensor, GatedLinearState]:
        """The next positions, on a CPU piece by piece."""
        keys_values, window = state
        made, size = [], x.shape[1] if x.is_cuda else PIECE
        masks = [None] * -(-x.shape[1] // size) if mask is None else mask.split(size, 1)
        for piece, real in zip(x.split(size, 1), masks, strict=True):  # each slice's gradient would be as long as x
            q, k, v, window = self._project(piece, real, window)
            log_decay = self.log_decay(piece, real)
            if piece.shape[1] == 1:
                mixed, keys_values = decayed_step(q, k, v, log_decay.exp().transpose(-1, -2), keys_values)
            else:
                mixed, keys_values = gated_attention(q, k, v, log_decay, keys_values, chunk_size=self.chunk_size)
            made.append(self._merge(piece, mixed))
        return made[0] if len(made) == 1 else torch.cat(made, 1), GatedLinearState(keys_values, window)

    def _project(self, x: Tensor, mask: Tensor | None, window: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values by heads, and the window that the next position's convolution will need."""
        projected = self.in_proj(x)
        if mask is not None:
            projected = projected.masked_fill(~mask.unsqueeze(-1), 0.0)
        if window is None:
            window = projected.new_zeros(x.shape[0], self._before, projected.shape[-1])
        if self.conv_weight is not None:
            extended = torch.cat((window.to(projected.dtype), projected), 1)
            window = extended[:, x.shape[1] :].clone()  # a copy, so that a state does not hold the whole chunk alive
            projected = F.silu(_short_convolution(extended, self.conv_weight))
            if mask is not None:
                projected = projected.masked_fill(~mask.unsqueeze(-1), 0.0)
        keys = self.heads * self.key_dim
        q, k, v = projected.split((keys, keys, self.heads * self.value_dim), -1)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return q * self.key_dim**-0.5, k, v, window

    def _merge(self, x: Tensor, mixed: Tensor) -> Tensor:
        mixed = self.norm(mixed.transpose(1, 2)).flatten(2)
        return self.out_proj(mixed * F.silu(self.gate_proj(x)))


def _short_convolution(extended: Tensor, weight: Tensor) -> Tensor:
    """One filter per channel, as a sum of shifted copies: quicker on a CPU than a grouped convolution."""
    size = weight.shape[1]
    time = extended.shape[1] - size + 1
    mixed = extended[:, :time] * weight[:, 0]
    for delay in range(1, size):
        mixed = torch.addcmul(mixed, extended[:, delay : delay + time], weight[:, delay])
    return mixed


def _reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence as it stands: channels of the state forget, take in a position, and are read."""
    batch, heads, time, key_dim = q.shape
    out = torch.zeros(batch, heads, time, v.shape[-1], dtype=v.dtype)
    state = torch.zeros(batch, heads, key_dim, v.shape[-1], dtype=v.dtype) if state is None else state.clone()
    for b in range(batch):
        for h in range(heads):
            for t in range(time):
                kept = log_decay[b, h, t].exp()[:, None] * state[b, h]
                state[b, h] = kept + torch.outer(k[b, h, t], v[b, h, t])
                out[b, h, t] = q[b, h, t] @ state[b, h]
    return out, state
