"""Adaptive look-ahead: each frame decides how much future to wait for (ANCAT, arXiv 2305.04159)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from harken.attention._base import Attention, Capabilities, Cost
from harken.errors import InputError
from harken.observation import emit

# queries that go through one product together, with the keys that any of them may see
_BLOCK = 64
# a shut gate still lets this much through while training, so that it has a gradient
_SMALLEST_GATE = 1e-6


class LookaheadState(NamedTuple):
    """What a stream carries: the past that its next output may see, and the frames that still wait for their future.

    Shape:
        - keys, values: ``(batch, heads, past + waiting, head_dim)``, zeros before the first position
        - queries: ``(batch, heads, waiting, head_dim)``
        - gates: ``(batch, waiting, lookahead)``
        - seen: ``(batch,)``, positions that have come in
    """

    keys: Tensor
    values: Tensor
    queries: Tensor
    gates: Tensor
    seen: Tensor


class AdaptiveLookaheadAttention(Attention):
    """Attention over the last ``past`` frames and as many of the next ``lookahead`` as the frame itself asks for.

    A small network reads frame ``i`` alone, so that deciding costs no waiting, and gives a gate for each of the next
    frames, ``p_r = sigmoid(s_r / temperature)``; with nested gates ``m_r = p_1 ... p_r``, since who waits for the
    second next frame has the next one anyway. The gates, shared by all heads, weigh the future in the softmax:

        ``a_ij = m_ij exp(q_i k_j) / sum_j' m_ij' exp(q_i k_j')``, ``m_ij = 1`` for ``i - past <= j <= i``

    While training they are soft and gradients reach the network; in evaluation a gate is open above 0.5 and shut
    otherwise, and a frame that waits for ``r`` others is known ``r`` frames late: that is its latency, between 0 and
    ``lookahead``. Latencies add up over layers (:func:`expected_ready`). What keeps look-ahead rare is emitted as
    ``loss``: ``latency_penalty`` times the mean expected wait in frames. The gates are emitted as ``gate``.

    A stream (:meth:`step`) returns frames in order and as soon as they are known, so a call may return none or several;
    :meth:`flush` returns the rest, at most ``lookahead``. The frames of a batch leave together, when all items have
    what they wait for. How many leave depends on the data, so ``step`` compiles only where nothing is adaptive:
    ``causal=True`` (the same layer without any look-ahead, and without the network).

    The paper's text was not at hand in full: gates, band and penalty follow its description, not its equations.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: no look-ahead at all.
        bias: whether the projections have one.
        past: frames before the own one that are always visible.
        lookahead: the most frames that one may wait for.
        schedule: ``"adaptive"``, or one of the rules it competes with: ``"fixed"`` (each frame waits for all
            ``lookahead``) and ``"chunked"`` (chunks of ``lookahead + 1`` frames see themselves whole).
        nested: whether a gate is shut behind a shut one; False leaves them independent.
        hidden: width of the network that decides.
        gate_bias: where its outputs start from; below 0, look-ahead starts rare.
        latency_penalty: weight of the emitted loss, in losses per frame waited; an attribute, to be warmed up.
        training_gates: ``"soft"``, or ``"straight-through"``: open or shut in the output, soft in the gradient.

    The buffer ``temperature`` starts at 1; training anneals it (``layer.temperature.fill_(0.1)``).

    Raises:
        InputError: a size is out of range, or an option unknown.

    >>> layer = AdaptiveLookaheadAttention(dim=16, heads=4, past=8, lookahead=2, schedule="fixed").eval()
    >>> y, state = layer.step(torch.randn(1, 5, 16), layer.init_state(1))
    >>> y.shape, layer.flush(state).shape
    (torch.Size([1, 3, 16]), torch.Size([1, 2, 16]))
    """

    name: ClassVar[str] = "adaptive-lookahead"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False, constant_state=True, lookahead=True)
    state_type: ClassVar[type[tuple]] = LookaheadState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        past: int = 64,
        lookahead: int = 8,
        schedule: Literal["adaptive", "fixed", "chunked"] = "adaptive",
        nested: bool = True,
        hidden: int = 64,
        gate_bias: float = -1.0,
        latency_penalty: float = 0.01,
        training_gates: Literal["soft", "straight-through"] = "soft",
    ):
        super().__init__(dim, heads, causal=causal)
        if past < 0 or lookahead < 0 or hidden < 1:
            raise InputError(f"past={past} and lookahead={lookahead} must be at least 0, hidden={hidden} at least 1")
        if schedule not in ("adaptive", "fixed", "chunked"):
            raise InputError(f"schedule={schedule!r}: one of 'adaptive', 'fixed', 'chunked'")
        if training_gates not in ("soft", "straight-through"):
            raise InputError(f"training_gates={training_gates!r}: one of 'soft', 'straight-through'")
        self.past, self.lookahead = past, 0 if causal else lookahead
        self.schedule, self.nested, self.hidden = schedule, nested, hidden
        self.latency_penalty, self.training_gates = latency_penalty, training_gates
        self.in_proj = nn.Linear(dim, 3 * dim, bias=bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)
        nn.init.xavier_uniform_(self.in_proj.weight)
        if bias:
            nn.init.zeros_(self.in_proj.bias)
            nn.init.zeros_(self.out_proj.bias)
        self.scheduler: nn.Sequential | None = None
        if schedule == "adaptive" and self.lookahead:
            last = nn.Linear(hidden, self.lookahead)
            nn.init.constant_(last.bias, gate_bias)
            self.scheduler = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.ReLU(), last)
            self.temperature: Tensor
            self.register_buffer("temperature", torch.ones(()))

    def gates(
        self, x: Float[Tensor, "batch time dim"], *, mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time lookahead"]:
        """How far each of the next frames is let in, in [0, 1]; 0 where there is none: after the end, or padding."""
        gates = self._gates(x, torch.zeros(x.shape[0], dtype=torch.long, device=x.device))
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        after = F.pad(real, (0, self.lookahead + 1))[:, 1:].unfold(1, max(1, self.lookahead), 1)
        return gates * (after[:, : x.shape[1], : self.lookahead] & real.unsqueeze(-1))

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: tuple[int, int] | None = None,
        gates: Float[Tensor, "batch time lookahead"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """As :meth:`Attention.forward`.

        ``gates`` are those of :meth:`gates`, for callers that penalise the latency of a whole stack of layers
        themselves (:func:`expected_ready`); no ``loss`` is emitted then.
        """
        self._check(x, context, mask)
        q, k, v = self._project(x)
        penalised = gates is None and self.scheduler is not None and self.latency_penalty > 0
        if gates is None:
            gates = self.gates(x, mask=mask)
        emit(self, "weights", lambda: self._matrix(q, k, gates, mask))
        if self.lookahead:
            emit(self, "gate", gates)
        if penalised:
            emit(self, "loss", lambda: self.latency_penalty * self._mean_wait(gates, mask))
        mixed = lookahead_attention(q, k, v, gates, past=self.past, mask=mask, hard=self._hard)
        return self._merge(mixed)

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time time"]:
        self._check(x, context, mask)
        q, k, _ = self._project(x)
        return self._matrix(q, k, self.gates(x, mask=mask), mask)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LookaheadState:
        weight = self.in_proj.weight
        like = torch.zeros(0, device=device or weight.device, dtype=dtype or weight.dtype)
        keys = like.new_zeros(batch_size, self.heads, self.past, self.head_dim)
        return LookaheadState(
            keys,
            keys,
            like.new_zeros(batch_size, self.heads, 0, self.head_dim),
            like.new_zeros(batch_size, 0, self.lookahead),
            torch.zeros(batch_size, dtype=torch.long, device=like.device),
        )

    def step(self, x: Float[Tensor, "batch time dim"], state: Any) -> tuple[Float[Tensor, "batch ready dim"], Any]:
        """The next frames of a stream: returns those that have become known, in order, and perhaps none.

        With ``causal=True`` these are the frames of ``x``. The gates are hard here, whatever the mode of the layer.
        """
        self._check_stream(x, state)
        gates = self._gates(x, state.seen, hard=True)
        q, k, v = self._project(x)
        state = LookaheadState(
            torch.cat((state.keys, k), 2),
            torch.cat((state.values, v), 2),
            torch.cat((state.queries, q), 2),
            torch.cat((state.gates, gates.to(state.gates.dtype)), 1),
            state.seen + x.shape[1],
        )
        return self._leave(state, self._ready(state.gates) if self.lookahead else x.shape[1])

    def flush(self, state: Any) -> Float[Tensor, "batch waiting dim"]:
        """The frames that still wait when a stream ends; what they waited for does not come."""
        if not isinstance(state, LookaheadState):
            raise InputError(f"expected a state of '{self.name}', got {type(state).__name__}: make one with init_state")
        return self._leave(state, state.queries.shape[2])[0]

    def cost(self, batch: int, time: int) -> Cost:
        """Projections, the network that decides, and blocks of queries with all the keys of their bands."""
        frames, item = batch * time, self.in_proj.weight.element_size()
        block, past = min(_BLOCK, time), min(self.past, time - 1)
        pairs = -(-time // block) * block * (block + past + self.lookahead)
        flops = 8 * frames * self.dim**2 + 4 * batch * pairs * self.dim
        if self.scheduler is not None:
            flops += 2 * frames * self.hidden * (self.dim + self.lookahead)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        # x, q, k, v, the mixed values twice and y; keys and values are laid out once more, block by block
        strips = 2 * self.dim * pairs // block
        moved = 7 * frames * self.dim + batch * (strips + pairs) + parameters
        state = batch * (2 * self.dim * self.past * item + 8)
        if not self.causal:  # at most
            state += batch * item * self.lookahead * (3 * self.dim + self.lookahead)
        return Cost(flops=flops, bytes=item * moved, state=state)

    def extra_repr(self) -> str:
        """The sizes, and how far ahead is seen and why."""
        return f"{super().extra_repr()}, past={self.past}, lookahead={self.lookahead}, schedule={self.schedule!r}"

    @property
    def _hard(self) -> bool:
        return self.scheduler is None or not self.training

    def _gates(self, x: Tensor, start: Tensor, *, hard: bool = False) -> Tensor:
        """Gates as if the sequence went on for ever; ``start`` is the position of the first frame, by item."""
        if self.scheduler is None:
            position = start[:, None] + torch.arange(x.shape[1], device=x.device)
            waits = torch.full_like(position, self.lookahead)
            if self.schedule == "chunked":
                waits = self.lookahead - position % (self.lookahead + 1)
            ahead = torch.arange(1, self.lookahead + 1, device=x.device)
            return (ahead <= waits.unsqueeze(-1)).to(x.dtype)
        soft = (self.scheduler(x).float() / self.temperature.float()).sigmoid()
        if self.nested:
            soft = soft.cumprod(-1)
        if self.training and not hard and self.training_gates == "soft":
            return soft.to(x.dtype)
        shut_or_open = (soft > 0.5).to(soft)
        if self.training and not hard:
            shut_or_open = shut_or_open + soft - soft.detach()
        return shut_or_open.to(x.dtype)

    def _mean_wait(self, gates: Tensor, mask: Tensor | None) -> Tensor:
        index = torch.arange(gates.shape[1], device=gates.device, dtype=torch.float32).expand(gates.shape[:2])
        wait = expected_ready(gates, index, past=self.past, nested=self.nested) - index
        return wait.mean() if mask is None else (wait * mask).sum() / mask.sum().clamp_min(1)

    @staticmethod
    def _ready(gates: Tensor) -> int:
        """How many of the waiting frames, from the first on, have all that they wait for in every item of the batch."""
        waiting = gates.shape[1]
        ahead = torch.arange(1, gates.shape[2] + 1, device=gates.device)
        waits = ((gates > 0.5) * ahead).amax(-1)
        known = (torch.arange(waiting, device=gates.device) + waits < waiting).all(0)
        return int(known.cumprod(0).sum())

    def _leave(self, state: LookaheadState, count: int) -> tuple[Tensor, LookaheadState]:
        """The outputs of the first ``count`` waiting frames, and the state without them."""
        keys, values, queries, gates, seen = state
        if not count:
            return queries.new_zeros(queries.shape[0], 0, self.dim), state
        end = self.past + count + self.lookahead
        real = torch.arange(keys.shape[2], device=keys.device) >= keys.shape[2] - seen[:, None]
        missing = max(0, end - keys.shape[2])
        k, v = (F.pad(part, (0, 0, 0, missing))[:, :, :end] for part in (keys, values))
        band = _band(gates[:, :count], F.pad(real, (0, missing))[:, :end], self.past, hard=True)
        mixed = _mix(queries[:, :, :count], k, v, band)
        keys, values, queries = (part[:, :, count:].clone() for part in (keys, values, queries))  # lets go of the rest
        return self._merge(mixed), LookaheadState(keys, values, queries, gates[:, count:].clone(), seen)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.in_proj(x).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        return q, k, v

    def _merge(self, mixed: Tensor) -> Tensor:
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _matrix(self, q: Tensor, k: Tensor, gates: Tensor, mask: Tensor | None) -> Tensor:
        time, past = q.shape[2], min(self.past, q.shape[2] - 1)
        band = _band(gates, _real(q, past, self.lookahead, mask), past, hard=self._hard)
        bias = _skewed(band)[..., past : past + time].unsqueeze(1)
        weights = (q @ k.transpose(-1, -2) * self.head_dim**-0.5 + bias).softmax(-1)
        return weights.masked_fill(bias == _floor(bias), 0.0)


def lookahead_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads time head_dim"],
    v: Float[Tensor, "batch heads time value_dim"],
    gates: Float[Tensor, "batch time lookahead"],
    *,
    past: int,
    mask: Bool[Tensor, "batch time"] | None = None,
    hard: bool = False,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Softmax over the last ``past`` positions, the own one and the gated next ones; linear in length.

    ``hard``: gates above 0.5 are open, the others shut; else they weigh their keys.

    >>> q = k = v = torch.randn(1, 2, 5, 4)
    >>> torch.allclose(lookahead_attention(q, k, v, torch.zeros(1, 5, 3), past=0, hard=True), v)
    True
    """
    past, ahead = min(past, q.shape[2] - 1), gates.shape[2]
    k, v = (F.pad(part, (0, 0, past, ahead)) for part in (k, v))
    return _mix(q, k, v, _band(gates, _real(q, past, ahead, mask), past, hard=hard))


def expected_ready(
    gates: Float[Tensor, "batch time lookahead"],
    ready: Float[Tensor, "batch time"],
    *,
    past: int,
    nested: bool = True,
) -> Float[Tensor, "batch time"]:
    """The input position at which each output is known, expected over gates that open with their probability.

    ``ready`` says the same of each input frame; its own index before the first layer. An output is known with the last
    of what it sees, so waits add up from layer to layer, and ``(expected_ready(...) - index).mean()`` after the last is
    the mean latency of a stack: the quantity to penalise. With gates of 0 and 1 it is the latency itself.

    Nested gates give ``M_0 + sum_r m_r (M_r - M_(r-1))``, where ``M_r`` is the latest of the past and the next ``r``;
    independent ones the expected maximum. Differentiable in both arguments; ``O(time lookahead log lookahead)``.

    >>> gates = torch.tensor([[[1.0, 0.5], [0.0, 0.0], [0.0, 0.0]]])
    >>> expected_ready(gates, torch.arange(3.0)[None], past=4)
    tensor([[1.5000, 1.0000, 2.0000]])
    """
    time, ahead = gates.shape[1:]
    never = torch.finfo(ready.dtype).min
    own = F.max_pool1d(F.pad(ready, (min(past, time), 0), value=never), min(past, time) + 1, 1)
    if not ahead:
        return own
    # frames after the end have shut gates; any number will do for them
    future = F.pad(ready, (0, ahead))[:, 1:].unfold(1, ahead, 1)
    later = torch.maximum(future, own.unsqueeze(-1))
    gates = gates.to(ready.dtype)
    if nested:
        latest = later.cummax(-1).values
        before = torch.cat((own.unsqueeze(-1), latest[..., :-1]), -1)
        return own + (gates * (latest - before)).sum(-1)
    later, order = later.sort(-1, descending=True)
    gates = gates.gather(-1, order)
    none_later = torch.cat((torch.ones_like(gates[..., :1]), (1 - gates[..., :-1]).cumprod(-1)), -1)
    return own + ((later - own.unsqueeze(-1)) * gates * none_later).sum(-1)


def _real(q: Tensor, past: int, ahead: int, mask: Tensor | None) -> Tensor:
    """Which keys exist, with ``past`` places before the first and ``ahead`` behind the last, which do not."""
    if mask is None:
        mask = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
    return F.pad(mask, (past, ahead))


def _band(gates: Tensor, real: Tensor, past: int, *, hard: bool) -> Tensor:
    """What is added to the scores of each query, ``(batch, time, past + 1 + lookahead)``, its own place at ``past``."""
    if hard:
        future = torch.zeros_like(gates).masked_fill(gates <= 0.5, _floor(gates))
    else:
        precise = gates.to(torch.promote_types(gates.dtype, torch.float32))
        future = (precise + _SMALLEST_GATE).log().to(gates)
    band = F.pad(future, (past + 1, 0))
    return band.masked_fill(~real.unfold(1, band.shape[-1], 1), _floor(band))


def _floor(x: Tensor) -> float:
    """Low enough for a weight of zero, high enough that adding a score does not make it infinite."""
    return torch.finfo(x.dtype).min / 2


def _mix(q: Tensor, k: Tensor, v: Tensor, band: Tensor) -> Tensor:
    """Query ``i`` over the keys from ``i`` to ``i + width`` of ``band``: blocks of queries, folded into the batch."""
    batch, _, time, _ = q.shape
    block = min(_BLOCK, time)
    blocks = -(-time // block)
    missing = blocks * block - time
    if missing:
        q, k, v = (F.pad(part, (0, 0, 0, missing)) for part in (q, k, v))
        band = F.pad(band, (0, 0, 0, missing), value=_floor(band))
    width = block + band.shape[-1] - 1
    queries = q.unflatten(2, (blocks, block)).transpose(1, 2).flatten(0, 1)
    keys, values = (part.unfold(2, width, block).permute(0, 2, 1, 4, 3).flatten(0, 1) for part in (k, v))
    bias = _skewed(band.unflatten(1, (blocks, block)).flatten(0, 1))
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias.unsqueeze(1))
    return mixed.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :time]


def _skewed(band: Shaped[Tensor, "batch rows band"]) -> Shaped[Tensor, "batch rows width"]:
    """Row ``i`` moved ``i`` places to the right, ``width = rows + band - 1``: one padding, no index."""
    rows, width = band.shape[1], band.shape[1] + band.shape[2] - 1
    wide = F.pad(band, (0, rows), value=_floor(band))  # one place longer than the row it becomes
    return wide.flatten(1)[:, : rows * width].unflatten(1, (rows, width))


def _reference(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, *, past: int, mask: Tensor | None = None, hard: bool = False
) -> Tensor:
    """The weighted softmax as it is written, one query of one head at a time."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                total, mixed = torch.zeros((), dtype=q.dtype), torch.zeros(v.shape[-1], dtype=q.dtype)
                for j in range(max(0, i - past), min(q.shape[2], i + gates.shape[2] + 1)):
                    gate = torch.ones((), dtype=q.dtype) if j <= i else gates[b, i, j - i - 1]
                    if hard:
                        gate = (gate > 0.5).to(q.dtype)
                    elif j > i:
                        gate = gate + _SMALLEST_GATE
                    if mask is None or mask[b, j]:
                        weight = gate * (q[b, h, i] @ k[b, h, j] / q.shape[-1] ** 0.5).exp()
                        total, mixed = total + weight, mixed + weight * v[b, h, j]
                out[b, h, i] = mixed / total if total > 0 else mixed
    return out
