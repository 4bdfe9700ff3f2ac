"""HiLo attention: some heads look closely inside small windows, the others far at pooled keys (arXiv 2205.13213)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Attention, Capabilities, Cost, squarest_grid
from harken.attention.softmax import softmax_weights
from harken.errors import CheckpointError, InputError
from harken.observation import emit

# heads * alpha is meant to be whole more often than floating point says so (0.7 * 10 = 6.999...)
_ROUNDING = 1e-6


class HiLoAttention(Attention):
    """Attention over a map of image tokens, with the heads in two groups that work at two frequencies.

    The first ``heads - int(heads * alpha)`` heads (Hi-Fi) attend inside windows of ``window_size x window_size``
    tokens; the others (Lo-Fi) let every token attend to the whole map, averaged window by window:
    ``softmax(q pool(k)^T / sqrt(head_dim)) pool(v)``. Each group has an output projection of its own, and the layer's
    output is the two side by side: nothing mixes the groups (section 3.2 of the paper). There is no causal form, since
    windows and averages look ahead, and therefore no stream.

    A map that does not divide into windows is padded at its right and lower border, and padded tokens, those of a
    ``mask`` too, take part neither in windows nor in averages. ``weights`` lists the Hi-Fi heads first; a Lo-Fi weight
    on a window is shared equally among its real tokens.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: must be False.
        bias: whether the input projections have one (the output projections always do).
        window_size: side of the windows, in tokens; 1 makes every head a Lo-Fi head that pools nothing, which is plain
            attention.
        alpha: share of the heads that are Lo-Fi; the paper's best is 0.9.
        zero_pad: let the zeros that pad an indivisible map take part as tokens, as the released detection code does.

    >>> layer = HiLoAttention(dim=16, heads=4)
    >>> layer(torch.randn(2, 6 * 8, 16), grid=(6, 8)).shape
    torch.Size([2, 48, 16])
    """

    name: ClassVar[str] = "hilo"
    capabilities: ClassVar[Capabilities] = Capabilities(causal=False, cross=False, step=False, grid=True)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        window_size: int = 2,
        alpha: float = 0.5,
        zero_pad: bool = False,
    ):
        super().__init__(dim, heads, causal=causal)
        if window_size < 1 or not 0 <= alpha <= 1:
            raise InputError(f"expected window_size >= 1 and 0 <= alpha <= 1, got {window_size} and {alpha}")
        self.window_size, self.alpha, self.zero_pad = window_size, alpha, zero_pad
        self.low_heads = heads if window_size == 1 else int(heads * alpha + _ROUNDING)
        self.high_heads = heads - self.low_heads
        self.low_dim, self.high_dim = self.low_heads * self.head_dim, self.high_heads * self.head_dim
        # both groups read the same tokens: one product gives Hi-Fi's q, k and v and Lo-Fi's q
        self.in_proj = nn.Linear(dim, 3 * self.high_dim + self.low_dim, bias=bias)
        self.low_kv = nn.Linear(dim, 2 * self.low_dim, bias=bias) if self.low_heads else None
        self.high_proj = nn.Linear(self.high_dim, self.high_dim) if self.high_heads else None
        self.low_proj = nn.Linear(self.low_dim, self.low_dim) if self.low_heads else None
        for layer in (self.in_proj, self.low_kv, self.high_proj, self.low_proj):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor], *, heads: int, window_size: int = 2) -> Self:
        """The layer of the released code (``h_qkv``, ``h_proj``, ``l_q``, ``l_kv``, ``l_proj``); sizes are read off.

        Raises:
            CheckpointError: parameters are missing, left over, or of sizes that do not fit each other.
        """
        dims = [state_dict[name].shape[0] for name in ("h_proj.weight", "l_proj.weight") if name in state_dict]
        if not dims or heads < 1 or sum(dims) % heads:
            raise CheckpointError(f"expected parameters of a HiLo layer with {heads} heads, got {sorted(state_dict)}")
        low = dims[-1] if "l_proj.weight" in state_dict else 0
        layer = cls(
            sum(dims),
            heads,
            bias=any(name in state_dict for name in ("h_qkv.bias", "l_q.bias")),
            window_size=window_size,
            alpha=low / sum(dims),
        )
        try:
            layer.load_state_dict(_authors_names(state_dict))
        except RuntimeError as error:
            raise CheckpointError(f"not the parameters of a HiLo layer: {' '.join(str(error).split())[:200]}") from None
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
        assert grid is not None
        emit(self, "weights", lambda: self._weights(x, mask, grid))
        maps, real = self._padded(x, mask, grid)
        projected = self.in_proj(maps)
        groups = []
        if self.high_proj is not None:
            mixed = _window_attention(projected[..., : 3 * self.high_dim], self.high_heads, self.window_size, real)
            groups.append(self.high_proj(mixed))
        if self.low_proj is not None:
            groups.append(self.low_proj(self._low(maps, projected[..., 3 * self.high_dim :], real)))
        y = groups[0] if len(groups) == 1 else torch.cat(groups, -1)
        return y[:, : grid[0], : grid[1]].reshape(x.shape)

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        self._check(x, context, mask, grid)
        assert grid is not None
        return self._weights(x, mask, grid)

    def cost(self, batch: int, time: int, grid: tuple[int, int] | None = None) -> Cost:
        """FLOPs, bytes and state; ``grid`` defaults to the squarest map of ``time`` tokens."""
        side = self.window_size
        height, width = grid or squarest_grid(time)
        windows = -(-height // side) * -(-width // side)
        tokens = windows * side**2
        products = tokens * self.dim * (3 * self.high_dim + self.low_dim) + windows * self.dim * 2 * self.low_dim
        products += tokens * (2 * side**2 * self.high_dim + self.high_dim**2)
        products += tokens * (2 * windows * self.low_dim + self.low_dim**2)
        # x in, projections out and in, both groups' mixed values out and in, y out; Hi-Fi's scores
        moved = tokens * (2 * self.dim + 6 * self.high_dim + 2 * self.low_dim + 2 * self.dim)
        moved += windows * (2 * self.dim + 4 * self.low_dim) + 2 * tokens * side**2 * self.high_heads
        weights = sum(parameter.numel() for parameter in self.parameters())
        return Cost(flops=2 * batch * products, bytes=self.in_proj.weight.element_size() * (batch * moved + weights))

    def extra_repr(self) -> str:
        """The sizes, and how the heads are shared."""
        return f"dim={self.dim}, heads={self.high_heads} high + {self.low_heads} low, window_size={self.window_size}"

    def _padded(self, x: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """The tokens as a map that divides into windows, and which of it is real (None: all of it)."""
        maps, real = x.unflatten(1, grid), None if mask is None else mask.unflatten(1, grid)
        below, right = -grid[0] % self.window_size, -grid[1] % self.window_size
        if below or right:
            maps = F.pad(maps, (0, 0, 0, right, 0, below))
            if real is None and not self.zero_pad:
                real = torch.ones(x.shape[0], *grid, dtype=torch.bool, device=x.device)
            if real is not None:
                real = F.pad(real, (0, right, 0, below), value=self.zero_pad)
        return maps, real

    def _low(self, maps: Tensor, q: Tensor, real: Tensor | None) -> Tensor:
        """Lo-Fi: queries of all tokens over keys and values of the averaged map."""
        assert self.low_kv is not None
        pooled, shares = _pooled(maps, self.window_size, real)
        q = q.flatten(1, 2).unflatten(-1, (self.low_heads, self.head_dim)).transpose(1, 2)
        k, v = self.low_kv(pooled).unflatten(-1, (2, self.low_heads, self.head_dim)).transpose(1, 3).unbind(2)
        allowed = None if shares is None else (shares > 0)[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return mixed.transpose(1, 2).flatten(2).unflatten(1, maps.shape[1:3])

    def _weights(self, x: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        maps, real = self._padded(x, mask, grid)
        height, width = maps.shape[1:3]
        side, columns = self.window_size, width // self.window_size
        rows = torch.arange(height, device=x.device) // side
        window = (rows[:, None] * columns + torch.arange(width, device=x.device) // side).flatten()
        projected, groups = self.in_proj(maps).flatten(1, 2), []
        if self.high_heads:
            q, k, _ = projected[..., : 3 * self.high_dim].unflatten(-1, (3, self.high_heads, -1)).unbind(2)
            allowed = (window[:, None] == window)[None, None]
            if real is not None:
                allowed = allowed & real.flatten(1)[:, None, None]
            groups.append(softmax_weights(q.transpose(1, 2), k.transpose(1, 2), allowed))
        if self.low_kv is not None:
            pooled, shares = _pooled(maps, side, real)
            q = projected[..., 3 * self.high_dim :].unflatten(-1, (self.low_heads, -1)).transpose(1, 2)
            k = self.low_kv(pooled)[..., : self.low_dim].unflatten(-1, (self.low_heads, -1)).transpose(1, 2)
            coarse = softmax_weights(q, k, None if shares is None else (shares > 0)[:, None, None])
            member = (torch.arange(pooled.shape[1], device=x.device)[:, None] == window).to(x.dtype)
            if real is None or shares is None:
                member = member / side**2
            else:
                member = (member * real.flatten(1)[:, None] / shares.clamp_min(1)[..., None])[:, None]
            groups.append(coarse @ member.to(x.dtype))
        inside = torch.zeros(height, width, dtype=torch.bool, device=x.device)
        inside[: grid[0], : grid[1]] = True
        kept = inside.flatten().nonzero().squeeze(1)
        return torch.cat(groups, 1)[:, :, kept[:, None], kept]


def _windows(x: Tensor, side: int) -> Tensor:
    """``(batch, H, W, ...)`` as ``(batch, rows, columns, side * side, ...)``."""
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return x.transpose(2, 3).flatten(3, 4)


def _window_attention(qkv: Tensor, heads: int, side: int, real: Tensor | None) -> Tensor:
    """Hi-Fi: ``(batch, H, W, 3 * heads * head_dim)`` to ``(batch, H, W, heads * head_dim)``, window by window."""
    batch, height, width, _ = qkv.shape
    rows, columns = height // side, width // side
    parts = qkv.view(batch, rows, side, columns, side, 3, heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = parts.reshape(3, batch * rows * columns * heads, side**2, -1).unbind(0)
    # the matrices are too small for the fused kernel to pay; the scale rides along with the product
    scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    if real is not None:
        hidden = ~_windows(real, side)[:, :, :, None, None].expand(-1, -1, -1, heads, -1, -1)
        scores = scores.masked_fill(hidden.reshape(-1, 1, side**2), torch.finfo(scores.dtype).min)
    mixed = torch.bmm(scores.softmax(-1), v).view(batch, rows, columns, heads, side, side, -1)
    return mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, -1)


def _pooled(maps: Tensor, side: int, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The mean of each window's real tokens, ``(batch, windows, dim)``, and their number (None: all are real)."""
    if side == 1:
        return maps.flatten(1, 2), None if real is None else real.flatten(1).to(maps.dtype)
    if real is None:
        return _window_means(maps, side), None
    present = real.to(maps.dtype)
    number = (_window_means(present[..., None], side) * side**2).squeeze(-1)
    total = _window_means(maps.masked_fill(~real[..., None], 0.0), side) * side**2
    return total / number.clamp_min(1)[..., None], number


def _window_means(maps: Tensor, side: int) -> Tensor:
    # a permuted map is one of PyTorch's own layouts (channels last): pooling takes it without a copy
    return F.avg_pool2d(maps.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1).flatten(1, 2)


def _authors_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released parameters under our names; Hi-Fi's ``q, k, v`` and Lo-Fi's ``q`` become one projection."""
    ours = {
        ours + part: state_dict[theirs + part]
        for ours, theirs in (("low_kv", "l_kv"), ("high_proj", "h_proj"), ("low_proj", "l_proj"))
        for part in (".weight", ".bias")
        if theirs + part in state_dict
    }
    for part in (".weight", ".bias"):
        stacked = [state_dict[name + part] for name in ("h_qkv", "l_q") if name + part in state_dict]
        if stacked:
            ours["in_proj" + part] = torch.cat(stacked)
    taken = {"h_qkv", "l_q", "l_kv", "h_proj", "l_proj"}
    return ours | {name: t for name, t in state_dict.items() if name.rpartition(".")[0] not in taken}


def _reference(layer: HiLoAttention, x: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Tensor:
    """Token by token and head by head, as the paper describes it; what the batched form is compared with."""
    (height, width), side = grid, layer.window_size
    groups = (3 * layer.high_dim, layer.low_dim)
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        windows: dict[tuple[int, int], list[int]] = {}
        for t in range(height * width):
            if mask is None or mask[b, t]:
                windows.setdefault((t // width // side, t % width // side), []).append(t)
        high, low_q = layer.in_proj(x[b]).split(groups, -1)
        low_k = low_v = x[b]
        if layer.low_kv is not None:
            low_k, low_v = layer.low_kv(torch.stack([x[b, ts].mean(0) for ts in windows.values()])).chunk(2, -1)
        for t in range(height * width):
            inside = windows.get((t // width // side, t % width // side), [])
            if mask is not None and not mask[b, t]:
                continue
            mixed = []
            for head in range(layer.heads):
                if head < layer.high_heads:
                    q, k, v = high.chunk(3, -1)
                    here = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
                    q, k, v = q[t, here], k[inside, here], v[inside, here]
                else:
                    start = (head - layer.high_heads) * layer.head_dim
                    here = slice(start, start + layer.head_dim)
                    q, k, v = low_q[t, here], low_k[:, here], low_v[:, here]
                mixed.append((k @ q / layer.head_dim**0.5).softmax(0) @ v)
            y = torch.cat(mixed)
            parts = [] if layer.high_proj is None else [layer.high_proj(y[: layer.high_dim])]
            parts += [] if layer.low_proj is None else [layer.low_proj(y[layer.high_dim :])]
            out[b, t] = torch.cat(parts)
    return out
