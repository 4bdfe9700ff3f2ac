"""WERSA: linear-time attention on wavelet scales of queries and keys (arXiv 2507.08637)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, ProjectedAttention, precise
from harken.attention._chunked import (
    SEGMENT,
    Kernel,
    LinearState,
    checked_chunk_size,
    kernel_attention,
    kernel_cost,
    kernel_step,
    kernel_stream,
    kernel_weights,
    segments,
    whole_chunks,
)
from harken.attention._haar import causal_reference, haar, haar_reference, inverse_haar, weigh_past
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.observation import emit

_EPS = 1e-6
_LARGEST_EXPONENT = 60.0  # a product of two such features still is a float32


class WersaState(NamedTuple):
    """What a stream carries: the sums, in float32 at least, and the frames that wavelets and filters still need.

    Shape:
        - keys_values: ``(batch, heads, random_features, head_dim)``, the sum of ``f(k)^T v``
        - keys: ``(batch, heads, random_features)``, the sum of ``f(k)``
        - past_queries, past_keys: ``(batch, 2 ** levels - 1, dim)``, before they were filtered
        - past_inputs: ``(batch, filter_width - 1, dim)``
        - time: ``(batch,)``, how many positions went in
    """

    keys_values: Tensor
    keys: Tensor
    past_queries: Tensor
    past_keys: Tensor
    past_inputs: Tensor
    time: Tensor


class WersaAttention(ProjectedAttention):
    """Random-feature attention whose queries and keys are first weighed scale by scale in a Haar wavelet transform.

    ``gelu(q)`` and ``gelu(k)`` are cut along time into ``levels`` details and an approximation; each is multiplied by
    a learnt weight and by a gate in (0, 1) that a small network makes of the input; what is put together again goes
    through random features ``f(u) = relu(W u / b) / sqrt(R)`` with a learnt bandwidth ``b``, and linear attention
    ``f(q_t) sum_s f(k_s)^T v_s / (f(q_t) sum_s f(k_s) + 1e-6)`` is normalised over the channels of each head.

    **Read with care.** The authors have published no code and we had the abstract only: details follow an independent
    implementation or are ours. Ours: one matrix for queries and keys (independent matrices lose the angle between
    them); gates that sit where their wavelets do; the causal form, since a decimated wavelet transform mixes each
    position with later ones. It averages the last ``2 ** l`` positions instead of blocks of ``2 ** l``, and takes the
    first position for all before it. With relu features ``b`` cancels but for the 1e-6: it matters with softmax ones.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        levels: of the wavelet transform; 0 leaves queries and keys as they are (a plain random-feature attention).
        random_features: ``R``; time and memory are proportional to it.
        filters: gates for each ``"token"``, from its surroundings, or one set for the whole sequence (``"global"``).
        filter_width: positions a token's gates are made of.
        kernel: ``"relu"`` (arc-cosine kernel) or ``"softmax"`` (positive features of the exponential kernel).
        shared_features: one random matrix for queries and keys; False draws two, as the independent implementation.
        resample: where a scale takes its gates from: the first token of each ``"block"``, or the ``"nearest"`` one
            when the sequence is stretched to a power of two, as the independent implementation does; there a padded
            batch is not the same as its items alone.
        seed: of the random matrices, which are saved with the weights.
        chunk_size: positions that meet directly in the causal form; changes speed and memory, not the result.

    Raises:
        CapabilityError: causal with global filters, which would look ahead.
        InputError: an option out of range.

    >>> layer = WersaAttention(dim=16, heads=4, causal=True, random_features=32)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.keys_values.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 4, 32, 4]))
    """

    name: ClassVar[str] = "wersa"
    capabilities: ClassVar[Capabilities] = Capabilities(constant_state=True, normalized=False)
    state_type: ClassVar[type[tuple]] = WersaState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        levels: int = 4,
        random_features: int = 128,
        filters: Literal["token", "global"] = "token",
        filter_width: int = 33,
        kernel: Literal["relu", "softmax"] = "relu",
        shared_features: bool = True,
        resample: Literal["block", "nearest"] = "block",
        seed: int = 0,
        chunk_size: int = 64,
    ):
        super().__init__(dim, heads, causal=causal, bias=bias)
        if levels < 0 or random_features < 1:
            raise InputError(f"levels={levels} must be at least 0 and random_features={random_features} at least 1")
        if filter_width < 1 or filter_width % 2 == 0:
            raise InputError(f"filter_width={filter_width} must be odd")
        for option, value, known in (
            ("filters", filters, ("token", "global")),
            ("kernel", kernel, ("relu", "softmax")),
            ("resample", resample, ("block", "nearest")),
        ):
            if value not in known:
                raise InputError(f"{option}='{value}' must be one of {', '.join(known)}")
        if causal and filters == "global":
            raise CapabilityError("one filter for the whole sequence looks ahead: causal needs filters='token'")
        self.levels, self.random_features, self.filter_width = levels, random_features, filter_width
        self.kernel, self.resample = kernel, resample
        self.chunk_size = checked_chunk_size(chunk_size)
        self.surroundings = nn.Conv2d(dim, dim, (1, filter_width), groups=dim) if filters == "token" else None
        self.hidden = max(1, dim // 4)
        self.gates = nn.Sequential(
            nn.Linear(dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, levels + 1), nn.Sigmoid()
        )
        self.scale_weights = nn.Parameter(torch.full((levels + 1,), 0.5))
        self.log_bandwidth = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(self.head_dim)
        generator = torch.Generator().manual_seed(seed)
        shape = (1 if shared_features else 2, self.head_dim, random_features)
        self.register_buffer("features", torch.randn(shape, generator=generator) * self.head_dim**-0.5)
        self.features: Tensor

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        q, k, v = self.project(x, context, mask)
        emit(self, "weights", lambda: self.mix_weights(q, k, mask))
        return self.merge(self.mix(q, k, v, mask))

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        """The matrix that mixes the values, before the norm of each head; rows sum to 1 but for the 1e-6."""
        self._check(x, context, mask, grid)
        q, k, _ = self.project(x, context, mask)
        return self.mix_weights(q, k, mask)

    def project(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys after their filters, and values, ``(batch, heads, time, head_dim)``."""
        q, k, v = super().project(x, context)
        gates = self.scale_gates(x, mask if context is None else None)
        q = self.filtered(_merged(q), gates, mask if context is None else None)
        if context is not None:
            gates = self.scale_gates(context, mask)
        return self._split(q), self._split(self.filtered(_merged(k), gates, mask)), v

    def scale_gates(
        self, x: Tensor, mask: Tensor | None = None, past: Tensor | None = None
    ) -> Float[Tensor, "batch time scales"]:
        """The gates in (0, 1) that the input opens: column ``l`` is detail ``l``, finest first, the last the rest.

        A sequence goes through the convolution as an image of height 1 whose channels come last in memory: that is the
        layout it has already, and PyTorch is many times faster on it than on ``conv1d``'s.
        """
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0.0)
        if self.surroundings is None:
            count = x.shape[1] if mask is None else mask.sum(-1).clamp_min(1)[:, None, None]
            gates = self.gates(x.sum(1, keepdim=True) / count).expand(-1, x.shape[1], -1)
        else:
            around, time = self.filter_width - 1, x.shape[1]
            behind = around if self.causal else around // 2
            if past is not None:
                x, behind = torch.cat((past, x), 1), 0
            pieces = []
            for part in segments(time, SEGMENT):
                first, end = part.start - behind, part.stop + around - behind
                rows = F.pad(x[:, max(0, first) : end], (0, 0, max(0, -first), max(0, end - x.shape[1])))
                pooled = F.conv2d(
                    rows.transpose(1, 2).unsqueeze(2),
                    self.surroundings.weight,
                    self.surroundings.bias,
                    groups=self.dim,
                )
                pieces.append(self.gates(pooled.squeeze(2).transpose(1, 2)))
            gates = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        emit(self, "gate", gates)
        return gates

    def filtered(
        self, u: Tensor, gates: Tensor, mask: Tensor | None = None, past: Tensor | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """``gelu(u)``, its wavelet scales weighed by gates and learnt weights."""
        gains, time = gates * self.scale_weights, u.shape[1]
        whole = self.resample == "nearest" and not self.causal
        before = 2**self.levels - 1 if self.causal else 0
        pieces = []
        for part in segments(time, time if whole else whole_chunks(SEGMENT, 2**self.levels)):
            rows = slice(max(0, part.start - before), part.stop)
            active = F.gelu(u[:, rows])
            if mask is not None:
                active = active.masked_fill(~mask[:, rows, None], 0.0)
            if not self.causal:
                pieces.append(self._weigh_blocks(active, gains[:, part]))
                continue
            if part.start == 0:
                active = torch.cat((active[:, :1].expand(-1, before, -1) if past is None else past, active), 1)
            pieces.append(weigh_past(active, gains[:, part]))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def _weigh_blocks(self, x: Tensor, gains: Tensor) -> Tensor:
        time = x.shape[1]
        scales = haar(F.pad(x, (0, 0, 0, self.padded_length(time) - time)), self.levels)
        weighed = [
            scale * self._gains_at(gains[..., number], scale.shape[1]).unsqueeze(-1)
            for number, scale in enumerate(scales)
        ]
        return inverse_haar(weighed)[:, :time]

    def padded_length(self, time: int) -> int:
        """To which the wavelet transform fills a sequence up with zeros."""
        if self.resample == "nearest":
            return max(2**self.levels, 1 << (time - 1).bit_length())
        block = 2**self.levels
        return -(-time // block) * block

    def _gains_at(self, gains: Tensor, length: int) -> Tensor:
        """The gains ``(batch, time)`` of one scale for its ``length`` wavelets."""
        if self.resample == "nearest":
            return F.interpolate(gains.unsqueeze(1), size=length).squeeze(1)
        block = self.padded_length(gains.shape[1]) // length
        first = gains[:, ::block]
        return F.pad(first, (0, length - first.shape[1]))  # wavelets past the end are zero whatever their gain

    def random_kernel(self) -> Kernel:
        """The random features as they are now; both the bandwidth and ``1 / sqrt(R)`` are folded into the matrix."""
        bandwidth = F.softplus(precise(self.log_bandwidth)) + 0.1
        matrices = precise(self.features) / bandwidth
        root = self.random_features**-0.5
        segment = max(1, SEGMENT * 32 // self.random_features)  # the features of a segment stay in the cache
        if self.kernel == "relu":
            matrices = matrices * root
            to_q, to_k = matrices[0], matrices[-1]
            return Kernel(lambda u: (precise(u) @ to_q).relu(), lambda u: (precise(u) @ to_k).relu(), _divided, segment)
        matrices = matrices * self.head_dim**0.25
        to_q, to_k = matrices[0], matrices[-1]
        half = 0.5 * self.head_dim**-0.5 / bandwidth.square()
        return Kernel(
            lambda u: _positive(u, to_q, half) * root, lambda u: _positive(u, to_k, half) * root, _divided, segment
        )

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return kernel_attention(
            self.random_kernel(), q, k, v, causal=self.causal, mask=mask, chunk_size=self.chunk_size
        )

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return kernel_weights(self.random_kernel(), q, k, causal=self.causal, mask=mask).to(q.dtype)

    def merge(self, mixed: Tensor) -> Tensor:
        """Each head normalised over its channels, then all through the output projection."""
        return super().merge(self.norm(mixed))

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> WersaState:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        keys = torch.zeros(batch_size, self.heads, self.random_features, device=device, dtype=wide)
        past = torch.zeros(batch_size, 2**self.levels - 1, self.dim, device=device, dtype=dtype)
        return WersaState(
            keys_values=keys.new_zeros(*keys.shape, self.head_dim),
            keys=keys,
            past_queries=past,
            past_keys=past.clone(),
            past_inputs=past.new_zeros(batch_size, self.filter_width - 1, self.dim),
            time=torch.zeros(batch_size, device=device, dtype=torch.int64),
        )

    def step(self, x: Float[Tensor, "batch time dim"], state: Any) -> tuple[Float[Tensor, "batch time dim"], Any]:
        self._check_stream(x, state)
        gates = self.scale_gates(x, past=state.past_inputs)
        q, k, v = super().project(x)
        opening = (state.time == 0)[:, None, None]
        filtered, past = [], []
        for u, before in ((_merged(q), state.past_queries), (_merged(k), state.past_keys)):
            before = torch.where(opening, F.gelu(u[:, :1]), before)
            filtered.append(self._split(self.filtered(u, gates, past=before)))
            past.append(_last(before, F.gelu(u)))
        q, k = filtered
        sums, kernel = LinearState(state.keys_values, state.keys), self.random_kernel()
        if x.shape[1] == 1:
            mixed, sums = kernel_step(kernel, q, k, v, sums)
        else:
            mixed, sums = kernel_stream(kernel, q, k, v, None, sums, self.chunk_size)
        past_queries, past_keys = past
        past_inputs = _last(state.past_inputs, x)
        return self.merge(mixed), WersaState(*sums, past_queries, past_keys, past_inputs, state.time + x.shape[1])

    def mix_cost(self, batch: int, time: int) -> Cost:
        items, sequences = self._item_size, batch * self.heads
        cost = kernel_cost(
            sequences,
            time,
            self.random_features,
            self.head_dim,
            self.chunk_size,
            causal=self.causal,
            items=items,
        )
        cost += Cost(flops=4 * batch * time * self.dim * self.random_features, bytes=0)  # the features themselves
        rows = batch * time if self.surroundings is not None else batch
        filters = 2 * rows * self.hidden * (self.dim + self.levels + 1)
        if self.surroundings is not None:
            filters += 2 * rows * self.dim * self.filter_width
        state = 0
        if self.causal:
            state = batch * (self.dim * (2 * (2**self.levels - 1) + self.filter_width - 1) * items + 8)
        return cost + Cost(flops=filters, bytes=4 * batch * time * self.dim * items, state=state)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor], heads: int) -> Self:
        """The layer of the independent implementation with its parameters; the authors' own was never published.

        It knows no projections: ``in_proj`` and ``out_proj`` keep their initial values.

        Raises:
            CheckpointError: a parameter is missing or has another shape.
        """
        names = {
            "scale_weights": "scale_weights",
            "log_bandwidth": "log_bandwidth",
            "gates.0.weight": "filter_mlp.0.weight",
            "gates.0.bias": "filter_mlp.0.bias",
            "gates.2.weight": "filter_mlp.3.weight",
            "gates.2.bias": "filter_mlp.3.bias",
            "norm.weight": "attention_layer_norm.weight",
            "norm.bias": "attention_layer_norm.bias",
        }
        per_token = "local_pooler.weight" in state_dict
        if per_token:
            names |= {"surroundings.weight": "local_pooler.weight", "surroundings.bias": "local_pooler.bias"}
        try:
            ours = {name: state_dict[theirs] for name, theirs in names.items()}
            ours["features"] = torch.stack([state_dict[f"random_{part}_matrix"] for part in "qk"])
            if per_token:
                ours["surroundings.weight"] = ours["surroundings.weight"].unsqueeze(2)
            options: dict[str, Any] = {"filters": "token" if per_token else "global", "resample": "nearest"}
            if per_token:
                options["filter_width"] = state_dict["local_pooler.weight"].shape[-1]
            layer = cls(
                ours["gates.0.weight"].shape[1],
                heads,
                levels=len(ours["scale_weights"]) - 1,
                random_features=ours["features"].shape[-1],
                shared_features=False,
                **options,
            )
            kept = {name: tensor for name, tensor in layer.state_dict().items() if "_proj." in name}
            layer.load_state_dict(ours | kept)
        except KeyError as missing:
            raise CheckpointError(f"not a layer of WERSA: no parameter {missing} among {len(state_dict)}") from None
        except RuntimeError as problem:
            raise CheckpointError(f"not a layer of WERSA: {' '.join(str(problem).split())}") from None
        return layer


def _positive(u: Tensor, matrix: Tensor, half: Tensor) -> Tensor:
    u = precise(u)
    return (u @ matrix - half * u.square().sum(-1, keepdim=True)).clamp_max(_LARGEST_EXPONENT).exp()


def _merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _last(before: Tensor, x: Tensor) -> Tensor:
    """As many frames as ``before`` has, the latest."""
    return torch.cat((before, x), 1)[:, x.shape[1] :]


def _divided(mixed: Tensor, total: Tensor) -> Tensor:
    return mixed / (total + _EPS)


def _reference(layer: WersaAttention, x: Tensor) -> Tensor:
    """The whole layer on unpadded input, scale by scale and query by query."""
    time, out = x.shape[1], torch.zeros_like(x)
    for b in range(x.shape[0]):
        gates = layer.scale_gates(x[b : b + 1])[0] * layer.scale_weights
        q, k, v = (part[b] for part in ProjectedAttention.project(layer, x))
        heads = []
        for h in range(layer.heads):
            weigh = causal_reference if layer.causal else haar_reference
            features = [layer.features[0], layer.features[-1]]
            b_width = F.softplus(layer.log_bandwidth) + 0.1
            fq, fk = (
                (weigh(F.gelu(u), gates) / b_width @ matrix).relu() * layer.random_features**-0.5
                for u, matrix in zip((q[h], k[h]), features, strict=True)
            )
            rows = []
            for t in range(time):
                seen = t + 1 if layer.causal else time
                similarity = fk[:seen] @ fq[t]
                rows.append(similarity @ v[h, :seen] / (similarity.sum() + _EPS))
            heads.append(layer.norm(torch.stack(rows)))
        out[b] = layer.out_proj(torch.cat(heads, -1))
    return out
