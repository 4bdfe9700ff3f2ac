"""Lightning Attention: linear attention that fades with distance, in tiles (arXiv 2405.17381, 2401.04658)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, ProjectedAttention, State
from harken.attention._decayed import PIECE, decayed_attention, decayed_flops, decayed_step
from harken.errors import CheckpointError, InputError
from harken.layers.transformer import Norm, make_norm
from harken.observation import emit

Gate = Literal["linear", "lowrank", "none"]


class LightningState(NamedTuple):
    """What a stream has summed up, in float32 at least, and how far it is.

    Shape:
        - keys_values: ``(batch, heads, key_dim, head_dim)``, the faded sum of ``k^T v``; ``key_dim`` is ``head_dim``,
          twice that with relative positions
        - position: ``(batch,)``, positions so far
    """

    keys_values: Tensor
    position: Tensor


class LightningAttention(ProjectedAttention):
    """Attention without softmax that fades by a constant rate per head, then a norm and a gate.

    ``y_t = sum over s <= t of exp(-slope (t - s)) (f(q_t) . f(k_s)) v_s`` with ``f = SiLU``, heads side by side, goes
    through a norm over all channels, is multiplied by a gate made from ``x``, and projected. The causal form meets
    pairs directly inside a tile and everything before it through one ``head_dim x head_dim`` state (section 3 of
    2401.04658), so the cost per position does not depend on length. The bidirectional form does not fade:
    ``q (k^T v)``. On CUDA the kernels of flash-linear-attention do the causal form, where installed (extra ``cuda``).

    ``slope`` is ALiBi's table over heads times ``1 - layer / (layers - 1) + 1e-5``, as in the authors' code and
    released weights, so that late layers look far back; the paper writes ``8 (head / heads) (1 - layer / layers)``.

    The rows of :meth:`weights` are the faded scores: they do not sum to 1, and may be negative.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        layer, layers: which layer of how many this is; decides how fast it forgets.
        decay: whether it forgets at all.
        lrpe: linearised relative positions: scores are weighted by ``cos(theta (t - s))`` with a learned angle per
            channel. The paper has them in the first layer only.
        gate: ``"linear"``, a projection of ``x`` as it is (the language model's); ``"lowrank"``, the sigmoid of one
            of rank ``head_dim`` (the authors' example layer); ``"none"``.
        norm: ``"simple-rms"`` (SRMSNorm: root mean square, no parameters), ``"rms"``, or ``"layer"`` (the example
            layer's).
        value_activation: values also go through SiLU (the example layer's).
        chunk_size: positions that meet directly in the causal form; changes speed and memory, not the result.

    >>> layer = LightningAttention(dim=16, heads=4, causal=True)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.keys_values.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 4, 4, 4]))
    """

    name: ClassVar[str] = "lightning"
    capabilities: ClassVar[Capabilities] = Capabilities(constant_state=True, normalized=False)
    state_type: ClassVar[type[tuple]] = LightningState
    slope_exponents: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = False,
        layer: int = 0,
        layers: int = 1,
        decay: bool = True,
        lrpe: bool = False,
        gate: Gate = "linear",
        norm: Norm = "simple-rms",
        value_activation: bool = False,
        chunk_size: int = 64,
    ):
        super().__init__(dim, heads, causal=causal, bias=bias)
        if chunk_size < 1:
            raise InputError(f"chunk_size={chunk_size} must be at least 1")
        if not 0 <= layer < layers:
            raise InputError(f"layer={layer} of layers={layers}: expected 0 <= layer < layers")
        if gate not in get_args(Gate):
            raise InputError(f"gate must be one of {', '.join(get_args(Gate))}, got {gate!r}")
        self.value_activation, self.chunk_size = value_activation, chunk_size
        self.rate = (1 - layer / max(1, layers - 1) + 1e-5) if decay else 0.0
        # small fractions of 8, exact even when the layer is cast to half precision; their powers would not be
        self.register_buffer("slope_exponents", _slope_exponents(heads), persistent=False)
        if lrpe:
            index = torch.arange(dim).view(heads, 1, self.head_dim)
            self.theta = nn.Parameter(10000.0 ** (-2.0 * index / dim))
        else:
            self.register_parameter("theta", None)
        self.norm = make_norm(norm, dim)
        self.gate_proj: nn.Module | None = None
        if gate == "linear":
            self.gate_proj = nn.Linear(dim, dim, bias=bias)
        elif gate == "lowrank":
            down, up = nn.Linear(dim, self.head_dim, bias=bias), nn.Linear(self.head_dim, dim, bias=bias)
            self.gate_proj = nn.Sequential(down, up, nn.Sigmoid())

    @classmethod
    def from_authors(
        cls,
        state_dict: Mapping[str, Tensor],
        heads: int,
        *,
        causal: bool = True,
        layer: int = 0,
        layers: int = 1,
        chunk_size: int = 64,
    ) -> Self:
        """The layer with the authors' weights, of either kind: TransNormerLLM's mixer or the example ``TnlAttention``.

        Args:
            state_dict: ``qkvu_proj.*``, ``out_proj.*`` and perhaps ``lrpe.theta``; or ``q_proj.*``, ``k_proj.*``,
                ``v_proj.*``, ``o_proj.*``, ``norm.*`` and ``output_gate.*``.
            heads: of the layer; nothing in the weights of the first kind tells without ``lrpe.theta``.
            causal, layer, layers, chunk_size: as for the class.

        Raises:
            CheckpointError: the names or sizes are not those of such a layer.
        """
        ours = rename_mixer(state_dict)
        example = "norm.weight" in ours
        if "in_proj.weight" not in ours or ours["in_proj.weight"].ndim != 2:
            raise CheckpointError("expected the weights of one layer, with 'qkvu_proj.weight' or 'q_proj.weight'")
        made = cls(
            ours["in_proj.weight"].shape[1],
            heads,
            causal=causal,
            bias="out_proj.bias" in ours,
            layer=layer,
            layers=layers,
            lrpe="theta" in ours,
            gate="lowrank" if example else "linear",
            norm="layer" if example else "simple-rms",
            value_activation=example,
            chunk_size=chunk_size,
        )
        try:
            made.load_state_dict(ours)
        except RuntimeError as problem:
            what = " ".join(str(problem).split())[:200]
            raise CheckpointError(f"these are not the weights of one such layer of {heads} heads: {what}") from None
        return made

    @property
    def slopes(self) -> Float[Tensor, " heads"]:
        """How fast each head forgets: by ``exp(-slope)`` per position."""
        exponents = self.slope_exponents
        return self.rate * torch.exp2(-exponents.to(torch.promote_types(exponents.dtype, torch.float32)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k = self._features(q), self._features(k)
        slopes = self.slopes if self.causal else None
        v = F.silu(v) if self.value_activation else v
        return lightning_attention(q, k, v, slopes, causal=self.causal, mask=mask, chunk_size=self.chunk_size)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        slopes = self.slopes if self.causal else None
        weights = _weights(self._features(q), self._features(k), slopes, causal=self.causal, mask=mask)
        return weights.to(q.dtype)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        emit(self, "weights", lambda: self.weights(x, context, mask=mask))
        if self.gate_proj is not None:
            emit(self, "gate", lambda: self.gate_proj(x))  # type: ignore[misc]
        if self.causal and x.shape[1] > PIECE and not x.is_cuda:
            return self._go_on(x, self.init_state(x.shape[0], device=x.device), mask)[0]
        return self._gated(x, self.mix(*self.project(x, context), mask))

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LightningState:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        device, dtype = device or weight.device, torch.promote_types(dtype or weight.dtype, torch.float32)
        keys_values = torch.zeros(batch_size, self.heads, self._key_dim, self.head_dim, device=device, dtype=dtype)
        return LightningState(keys_values, torch.zeros(batch_size, device=device, dtype=torch.int64))

    def step(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        self._check_stream(x, state)
        before: Any = state
        y, after = self._go_on(x, before)
        return y, cast(State, after)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: LightningState) -> tuple[Tensor, LightningState]:
        q, k = self._features(q, state.position), self._features(k, state.position)
        v = F.silu(v) if self.value_activation else v
        if q.shape[2] == 1:
            decay = (-self.slopes).exp().view(1, -1, 1, 1)
            mixed, keys_values = decayed_step(q, k, v, decay, state.keys_values)
        else:
            mixed, keys_values = decayed_attention(q, k, v, self.slopes, state.keys_values, chunk_size=self.chunk_size)
        return mixed, LightningState(keys_values, state.position + q.shape[2])

    def cost(self, batch: int, time: int) -> Cost:
        """The projections, the gate and :meth:`mix_cost`."""
        gate = sum(weight.numel() for weight in self.gate_proj.parameters() if weight.ndim > 1) if self.gate_proj else 0
        moved = 2 * batch * time * self.dim if self.gate_proj else 0
        return super().cost(batch, time) + Cost(flops=2 * batch * time * gate, bytes=moved * self._item_size)

    def mix_cost(self, batch: int, time: int) -> Cost:
        values, sums = batch * time * self.dim, batch * self.dim * self._key_dim
        keys = values // self.head_dim * self._key_dim
        if not self.causal:
            return Cost(flops=4 * values * self._key_dim, bytes=(2 * values + 2 * keys + sums) * self._item_size)
        if time <= self.chunk_size:
            flops, stored = 2 * (values + keys) * time, values // self.head_dim * time
        else:
            flops = decayed_flops(batch, self.heads, time, self._key_dim, self.head_dim, self.chunk_size)
            stored = values // self.head_dim * self.chunk_size + -(-time // self.chunk_size) * sums
        return Cost(
            flops=flops,
            bytes=(2 * values + 2 * keys + stored) * self._item_size,
            state=max(4, self._item_size) * sums + 8 * batch,
        )

    @property
    def _key_dim(self) -> int:
        return self.head_dim if self.theta is None else 2 * self.head_dim

    def _features(self, x: Tensor, position: Int[Tensor, " batch"] | None = None) -> Tensor:
        """SiLU; with relative positions doubled to ``(x cos, x sin)``, whose products hold ``cos(theta (t - s))``."""
        x = F.silu(x)
        if self.theta is None:
            return x
        index = torch.arange(x.shape[2], device=x.device)[:, None]
        if position is not None:
            index = index + position[:, None, None, None]
        angle = self.theta.to(torch.promote_types(self.theta.dtype, torch.float32)) * index
        return torch.cat((x * angle.cos(), x * angle.sin()), -1).to(x.dtype)

    def _go_on(self, x: Tensor, state: LightningState, mask: Tensor | None = None) -> tuple[Tensor, LightningState]:
        """The next positions, on a CPU piece by piece."""
        made, size = [], x.shape[1] if x.is_cuda else PIECE
        masks = [None] * -(-x.shape[1] // size) if mask is None else mask.split(size, 1)
        # split, since the gradient of each slice would be as long as the whole
        for piece, real in zip(x.split(size, 1), masks, strict=True):
            q, k, v = self.project(piece)
            if real is not None:
                v = v.masked_fill(~real[:, None, :, None], 0.0)
            mixed, state = self.mix_step(q, k, v, state)
            made.append(self._gated(piece, mixed))
        return made[0] if len(made) == 1 else torch.cat(made, 1), state

    def _gated(self, x: Tensor, mixed: Tensor) -> Tensor:
        mixed = self.norm(mixed.transpose(1, 2).flatten(2))
        if self.gate_proj is not None:
            mixed = mixed * self.gate_proj(x)
        return self.out_proj(mixed)


def rename_mixer(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' parameters of one layer, of either kind, under the names of :class:`LightningAttention`."""
    renamed = {"output_gate": "gate_proj", "o_proj": "out_proj", "lrpe": ""}
    ours: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        module, _, part = name.partition(".")
        if module == "qkvu_proj":
            dim = tensor.shape[0] // 4
            ours[f"in_proj.{part}"], ours[f"gate_proj.{part}"] = tensor[: 3 * dim], tensor[3 * dim :]
        elif module not in ("q_proj", "k_proj", "v_proj"):
            ours[f"{renamed.get(module, module)}.{part}".lstrip(".")] = tensor
    for part in ("weight", "bias"):
        if stacked := [state_dict[f"{which}_proj.{part}"] for which in "qkv" if f"{which}_proj.{part}" in state_dict]:
            ours[f"in_proj.{part}"] = torch.cat(stacked)
    return ours


def lightning_attention(
    q: Float[Tensor, "batch heads time key_dim"],
    k: Float[Tensor, "batch heads keys key_dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    slopes: Float[Tensor, " heads"] | None = None,
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    chunk_size: int = 64,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Values summed by ``(q_t . k_s) exp(-slope (t - s))``, neither scaled nor normalised; summed in float32 at least.

    Put an activation before and a norm behind it: the sums grow with length. Without ``slopes`` nothing fades. The
    bidirectional form, which takes none, is ``q (k^T v)``.

    >>> q = k = v = torch.ones(1, 2, 3, 1)
    >>> lightning_attention(q, k, v, head_slopes(2) * 0, causal=True)[0, 0, :, 0]
    tensor([1., 2., 3.])

    Raises:
        InputError: slopes without a direction to fade in.
    """
    if not causal and slopes is not None:
        raise InputError("slopes need an order: pass causal=True, or leave them out")
    if mask is not None:
        v = v.masked_fill(~mask[:, None, :, None], 0.0)
    if causal and q.shape[2] > chunk_size:
        slopes = torch.zeros(q.shape[1], device=q.device) if slopes is None else slopes
        return decayed_attention(q, k, v, slopes, chunk_size=chunk_size)[0]
    precise = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        if causal:
            return (_weights(q, k, slopes, causal=True, mask=None) @ v.to(precise)).to(v.dtype)
        return (q.to(precise) @ (k.to(precise).transpose(-1, -2) @ v.to(precise))).to(v.dtype)


def head_slopes(heads: int) -> Float[Tensor, " heads"]:
    """How fast each head forgets, before the layer's own factor: ALiBi's table, ``2 ** (-8 (head + 1) / heads)``.

    Where ``heads`` is no power of two: the table of the power below, then every other entry of the one above.

    >>> head_slopes(4)
    tensor([0.2500, 0.0625, 0.0156, 0.0039])
    """
    return torch.exp2(-_slope_exponents(heads))


def _slope_exponents(heads: int) -> Tensor:
    below = 1 << (heads.bit_length() - 1)
    table = 8 / below * torch.arange(1, below + 1)
    return torch.cat((table, 4 / below * torch.arange(1, 2 * below, 2)[: heads - below]))


def _weights(q: Tensor, k: Tensor, slopes: Tensor | None, *, causal: bool, mask: Tensor | None) -> Tensor:
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(precise) @ k.to(precise).transpose(-1, -2)
    if causal:
        scores = scores.tril()
    if slopes is not None:
        position = torch.arange(q.shape[2], device=q.device)
        distance = (position[:, None] - position).clamp_min(0)
        scores = scores * (-slopes[:, None, None] * distance).exp()
    return scores if mask is None else scores.masked_fill(~mask[:, None, None, :], 0.0)


def _reference(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The recurrence as it stands: one state per head that fades, takes in a position, and is read."""
    batch, heads, time, key_dim = q.shape
    out = torch.zeros(batch, heads, time, v.shape[-1], dtype=v.dtype)
    state = torch.zeros(batch, heads, key_dim, v.shape[-1], dtype=v.dtype) if state is None else state.clone()
    for b in range(batch):
        for h in range(heads):
            for t in range(time):
                state[b, h] = torch.exp(-slopes[h]) * state[b, h] + torch.outer(k[b, h, t], v[b, h, t])
                out[b, h, t] = q[b, h, t] @ state[b, h]
    return out, state
