"""Multi-variate parallel attention: time, channels and content in one map (MVPFormer, arXiv 2506.20354)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Attention, Capabilities, Cost
from harken.attention._grid_terms import GridRules, RelativeTerms, block_weights, blocks, multivariate_attention
from harken.attention._growing import grown, latest
from harken.errors import CheckpointError, InputError
from harken.observation import emit


class MultivariateState(NamedTuple):
    """What a stream carries: the values of every moment, and the keys that later content terms can still meet.

    Shape:
        - keys: ``(batch, kv_heads, recent, channels * head_dim)``, the last ``content_window`` moments at most
        - values: ``(batch, kv_heads, time, channels * head_dim)``
    """

    keys: Tensor
    values: Tensor


class MultivariateAttention(Attention):
    """Attention over the moments and channels of a recording, by content, by lag and by distance at once.

    A position is one channel at one moment. Query ``(t, c)`` and key ``(t', c')`` score

        ``[ near(t, t') <q + u, k> + <q + v, T[lag]> + <q + w, C[distance]> ] / sqrt(head_dim)``

    with ``lag = |t - t'|``, ``distance = |c - c'|``, learned tables ``T`` and ``C``, and ``near`` 1 up to a lag of
    ``content_window``. Farther keys lose their content, not their place: the other two terms still reach them. One
    softmax runs over all keys; causal means that moments after ``t`` are hidden and all channels of ``t`` visible.
    The two tables are the same for any number of channels, so recordings of different montages share one layer.

    Positions are listed moment by moment (position ``t * channels + c``, so that a stream's positions come in order)
    and ``grid=(channels, time)`` says how many there are of each; a mask that hides whole channels lets recordings of
    different width share a batch.

    The two published forms differ. The paper indexes the tables by lag and distance. The released code counts from the
    end of what it is given (row ``time - 1 - lag``, ``channels - 1 - distance``), and lets the last moment see the
    content of all keys, so a position's output depends on how many follow. ``lag_indexing`` and ``last_sees_all``
    choose; the defaults are the paper's, :meth:`from_authors` builds the released one. To stream with either of the
    released rules, give the ``length`` that the stream will have. The released code has no bidirectional form.

    Args:
        dim: channels of input and output (features of one position, not electrodes).
        heads: parallel heads; ``dim`` must divide by it.
        causal: a moment sees only moments up to it.
        kv_heads: heads of keys and values, each shared by ``heads / kv_heads`` queries; ``heads`` when None.
        content_window: the largest lag at which content counts; None for all.
        max_time: rows of the time table; in ``"lag"`` indexing, greater lags share its last row.
        max_channels: rows of the channel table, the most channels a recording may have.
        lag_indexing: ``"lag"``, or ``"upstream"``, as the released weights were trained.
        last_sees_all: the last moment meets the content of all keys.
        length: moments that the last two count from; those of the input when None.

    Raises:
        InputError: ``heads`` does not divide by ``kv_heads``, or a size is out of range.

    >>> layer = MultivariateAttention(dim=16, heads=4, causal=True, kv_heads=2)
    >>> layer(torch.randn(2, 3 * 20, 16), grid=(3, 20)).shape
    torch.Size([2, 60, 16])
    >>> y, state = layer.step(torch.randn(2, 3, 16), layer.init_state(2, channels=3))  # one moment of three channels
    >>> y.shape, state.values.shape
    (torch.Size([2, 3, 16]), torch.Size([2, 2, 1, 12]))
    """

    name: ClassVar[str] = "multivariate"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False, grid=True, block_causal=True)
    state_type: ClassVar[type[tuple]] = MultivariateState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        kv_heads: int | None = None,
        content_window: int | None = 10,
        max_time: int = 110,
        max_channels: int = 128,
        lag_indexing: Literal["lag", "upstream"] = "lag",
        last_sees_all: bool = False,
        length: int | None = None,
    ):
        super().__init__(dim, heads, causal=causal)
        self.kv_heads = heads if kv_heads is None else kv_heads
        if self.kv_heads < 1 or heads % self.kv_heads:
            raise InputError(f"heads={heads} must be a multiple of kv_heads={kv_heads}")
        if content_window is not None and content_window < 0:
            raise InputError(f"content_window={content_window} must be at least 0, or None for no limit")
        if min(max_time, max_channels) < 1 or (length is not None and not 1 <= length <= max_time):
            raise InputError(
                f"max_time={max_time} and max_channels={max_channels} must be at least 1, length={length} <= max_time"
            )
        if lag_indexing not in ("lag", "upstream"):
            raise InputError(f"lag_indexing={lag_indexing!r}: one of 'lag', 'upstream'")
        self.content_window, self.max_time, self.max_channels = content_window, max_time, max_channels
        self.lag_indexing, self.last_sees_all, self.length = lag_indexing, last_sees_all, length
        kv_dim = self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.kv_proj = nn.Linear(dim, 2 * kv_dim, bias=False)
        self.time_proj = nn.Linear(dim, kv_dim, bias=False)
        self.channel_proj = nn.Linear(dim, kv_dim, bias=False)
        self.out_proj = nn.Linear(dim, dim, bias=False)
        self.time_embedding = nn.Parameter(torch.empty(max_time, dim))
        self.channel_embedding = nn.Parameter(torch.empty(max_channels, dim))
        self.term_bias = nn.Parameter(torch.empty(3, self.kv_heads, self.head_dim))  # u, v, w of the class docstring
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def share_tables(self, owner: MultivariateAttention) -> None:
        """Read the two tables of another layer from now on, as the layers of MVPFormer do; they are saved with it.

        Raises:
            InputError: the tables have other sizes.
        """
        for name in ("time_embedding", "channel_embedding"):
            table: Tensor = getattr(owner, name)
            if table.shape != getattr(self, name).shape:
                expected = tuple(getattr(self, name).shape)
                raise InputError(f"expected a {name} of shape {expected} to share, got {tuple(table.shape)}")
            delattr(self, name)
            self.__dict__[name] = table  # outside the parameters: moved, trained and saved by its owner alone

    @classmethod
    def from_authors(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        heads: int,
        layer: int = 0,
        content_window: int | None = 10,
        length: int | None = None,
    ) -> MultivariateAttention:
        """The attention of one layer of the authors' MVPFormer, in the form of their code.

        ``state_dict`` is that of the whole model, since the two tables belong to all layers; ``heads`` is the one size
        that the weights do not tell.

        Raises:
            CheckpointError: a tensor is missing or does not fit.
        """
        prefix = "mvpformer." if any(name.startswith("mvpformer.") for name in state_dict) else ""
        attention = f"{prefix}h.{layer}.attn."
        names = {
            "q_proj.weight": f"{attention}q_attn.weight",
            "kv_proj.weight": f"{attention}c_attn.weight",
            "time_proj.weight": f"{attention}position_net.weight",
            "channel_proj.weight": f"{attention}channel_net.weight",
            "out_proj.weight": f"{attention}c_proj.weight",
            "term_bias": f"{attention}attn_bias",
            "time_embedding": f"{prefix}positional_embedding.weight",
            "channel_embedding": f"{prefix}channel_embedding.weight",
        }
        missing = [theirs for theirs in names.values() if theirs not in state_dict]
        if missing:
            raise CheckpointError(f"expected the weights of an MVPFormer with a layer {layer}: {missing[0]} is missing")
        ours = {name: state_dict[theirs] for name, theirs in names.items()}
        (max_time, dim), max_channels = ours["time_embedding"].shape, len(ours["channel_embedding"])
        kv_dim = len(ours["time_proj.weight"])
        if dim % heads or kv_dim % (dim // heads):
            raise CheckpointError(f"heads={heads} does not fit weights of {dim} channels, {kv_dim} of them keys")
        made = cls(
            dim,
            heads,
            causal=True,
            kv_heads=kv_dim // (dim // heads),
            content_window=content_window,
            max_time=max_time,
            max_channels=max_channels,
            lag_indexing="upstream",
            last_sees_all=True,
            length=length,
        )
        ours["term_bias"] = ours["term_bias"].reshape(3, made.kv_heads, made.head_dim)
        try:
            made.load_state_dict(ours)
        except RuntimeError as problem:
            raise CheckpointError(f"the weights are not an MVPFormer's: {' '.join(str(problem).split())}") from problem
        return made

    def forward(
        self,
        x: Float[Tensor, "batch positions dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch positions"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch positions dim"]:
        q, k, v, terms, rules = self._prepare(x, context, mask, grid)
        emit(self, "weights", lambda: self._matrix(q, k, terms, rules, mask))
        return self._merge(multivariate_attention(q, k, v, terms, rules, mask=mask))

    def weights(
        self,
        x: Float[Tensor, "batch positions dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch positions"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads positions positions"]:
        q, k, _, terms, rules = self._prepare(x, context, mask, grid)
        return self._matrix(q, k, terms, rules, mask)

    def init_state(
        self,
        batch_size: int,
        *,
        channels: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> MultivariateState:
        """What a stream of ``channels`` carries before its first moment.

        Raises:
            InputError: a rule counts from the end, and ``length`` does not say where that is.
        """
        if not self.causal:
            raise self._lacks_step()
        if self.length is None and (self.last_sees_all or self.lag_indexing == "upstream"):
            raise InputError("a stream's end is not known: build the layer with length=, or with the paper's rules")
        self._check_channels(channels)
        weight = self.q_proj.weight
        shape = (batch_size, self.kv_heads, 0, channels * self.head_dim)
        empty = torch.zeros(shape, device=device or weight.device, dtype=dtype or weight.dtype)
        return MultivariateState(empty, empty)

    def step(
        self, x: Float[Tensor, "batch positions dim"], state: Any
    ) -> tuple[Float[Tensor, "batch positions dim"], Any]:
        """The next moments of a stream, all channels of each: equals ``forward``, moment by moment."""
        self._check_stream(x, state)
        channels, before = state.values.shape[3] // self.head_dim, state.values.shape[2]
        if x.shape[1] % channels:
            raise InputError(f"a step takes whole moments of {channels} channels, got {x.shape[1]} positions")
        time = before + x.shape[1] // channels
        rules = self._rules(channels, time)
        q, k, v = self._project(x, channels)
        keys, values = grown(state.keys, k.flatten(3)), grown(state.values, v.flatten(3))
        k, v = (part.unflatten(3, (channels, self.head_dim)) for part in (keys, values))
        y = multivariate_attention(q, k, v, self._terms(rules), rules)
        if self.content_window is not None and not self.last_sees_all:
            keys = latest(keys, min(keys.shape[2], self.content_window))
        return self._merge(y), MultivariateState(keys, values)

    def cost(self, batch: int, time: int, *, grid: tuple[int, int] | None = None) -> Cost:
        """What one pass over ``time`` positions costs, laid out as ``grid=(channels, time)``; one channel when None."""
        channels, moments = grid or (1, time)
        rules = self._rules(channels, moments)
        kv_dim = self.kv_heads * self.head_dim
        rows = rules.time_rows + rules.channel_rows
        flops = 4 * batch * time * self.dim * (self.dim + kv_dim) + 2 * rows * self.dim * kv_dim
        stored = 0
        for block in blocks(rules, 0):
            pairs = batch * self.dim * (block.stop - block.start) * channels
            flops += (
                2
                * pairs
                * (block.time_rows + rules.channel_rows + channels * (block.keys + block.near_stop - block.near))
            )
            stored += pairs // self.head_dim * block.keys * channels
        parameters = sum(parameter.numel() for parameter in self.parameters())
        # x, q, k, v, the mixed values twice and y; of the scores one block at a time is written and read
        moved = batch * time * (5 * self.dim + 2 * kv_dim) + 2 * stored + parameters
        recent = moments if self.content_window is None or self.last_sees_all else min(moments, self.content_window)
        state = batch * kv_dim * channels * (moments + recent) if self.causal else 0
        item = self.q_proj.weight.element_size()
        return Cost(flops=flops, bytes=item * moved, state=item * state)

    def extra_repr(self) -> str:
        """The sizes, and the rules where they are not the paper's."""
        rules = f", lag_indexing={self.lag_indexing!r}, last_sees_all={self.last_sees_all}"
        return f"{super().extra_repr()}, kv_heads={self.kv_heads}, content_window={self.content_window}{rules}"

    def _prepare(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, grid: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor, Tensor, RelativeTerms, GridRules]:
        self._check(x, context, mask, grid)
        assert grid is not None  # the check above
        self._check_channels(grid[0])
        rules = self._rules(*grid)
        return *self._project(x, grid[0]), self._terms(rules), rules

    def _check_channels(self, channels: int) -> None:
        if not 1 <= channels <= self.max_channels:
            raise InputError(f"{channels} channels, but the table has {self.max_channels} rows: raise max_channels")

    def _rules(self, channels: int, time: int) -> GridRules:
        if time > (self.length or time) or (self.lag_indexing == "upstream" and time > self.max_time):
            limit = self.length or self.max_time
            raise InputError(f"{time} moments, but the layer counts from the end of {limit}: shorten the input")
        return GridRules(
            channels,
            time,
            causal=self.causal,
            content_window=self.content_window,
            reverse=self.lag_indexing == "upstream",
            last_sees_all=self.last_sees_all,
            length=self.length,
            max_time=self.max_time,
        )

    def _terms(self, rules: GridRules) -> RelativeTerms:
        time_keys = self._rows(self.time_embedding, self.time_proj, rules.time_rows)
        channel_keys = self._rows(self.channel_embedding, self.channel_proj, rules.channel_rows)
        return RelativeTerms(time_keys, channel_keys, *self.term_bias.unbind(0))

    def _rows(self, table: Tensor, projection: nn.Linear, rows: int) -> Tensor:
        """The first rows of a table as keys, ``(kv_heads, rows, head_dim)``."""
        keys = nn.functional.linear(table[:rows], projection.weight)
        return keys.unflatten(-1, (self.kv_heads, self.head_dim)).transpose(0, 1)

    def _project(self, x: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(batch, heads, time, channels, head_dim)``, keys and values with ``kv_heads`` instead."""
        batch, grid = x.shape[0], (x.shape[1] // channels, channels)
        q = self.q_proj(x).view(batch, *grid, self.heads, self.head_dim).permute(0, 3, 1, 2, 4)
        kv = self.kv_proj(x).view(batch, *grid, 2, self.kv_heads, self.head_dim)
        k, v = kv.permute(3, 0, 4, 1, 2, 5).unbind(0)
        return q, k, v

    def _merge(self, mixed: Tensor) -> Tensor:
        return self.out_proj(mixed.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2))

    def _matrix(self, q: Tensor, k: Tensor, terms: RelativeTerms, rules: GridRules, mask: Tensor | None) -> Tensor:
        positions = rules.channels * rules.time
        parts = []
        for block in blocks(rules, 0, has_mask=mask is not None):
            weights = block_weights(q, k, terms, rules, block, mask)
            parts.append(nn.functional.pad(weights, (0, positions - weights.shape[-1])))
        return torch.cat(parts, 3).unflatten(2, (-1, positions)).flatten(1, 2).to(q.dtype)
