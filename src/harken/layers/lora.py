"""Low-rank adaptation of linear layers (LoRA, arXiv 2106.09685), merged into their weights and taken out again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CapabilityError, InputError


class LoRALinear(nn.Linear):
    """A linear layer with low-rank updates of some of its outputs, ``y = W x + alpha / rank * B A dropout(x)``.

    ``A`` begins at random and ``B`` at zero, so that the layer begins as the one it was made of. A layer that stacks
    several projections (query, key and value, say) can have an update for each range of its outputs. Weight and bias
    keep their names, so that weights of the plain layer load into it; they are frozen.

    Args:
        base: the layer to adapt, whose parameters are taken over.
        rank: of each update.
        alpha: updates are scaled by ``alpha / rank``.
        dropout: on the input of the updates, in training.
        rows: ``(start, stop)`` of the outputs that each update reaches; one for all outputs when None.

    Raises:
        InputError: a rank below 1, or rows that the layer does not have.

    >>> base = nn.Linear(8, 24)
    >>> layer = LoRALinear(base, rank=2, rows=[(0, 8), (16, 24)])  # query and value of a stacked projection
    >>> x = torch.randn(3, 8)
    >>> bool((layer(x) == base(x)).all()), [tuple(update.up.shape) for update in layer.updates]
    (True, [(8, 2), (8, 2)])
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int = 8,
        *,
        alpha: float = 16.0,
        dropout: float = 0.0,
        rows: Sequence[tuple[int, int]] | None = None,
    ):
        ranges = [(0, base.out_features)] if rows is None else list(rows)
        if rank < 1 or not 0 <= dropout < 1:
            raise InputError(f"expected a rank of at least 1 and dropout in [0, 1), got {rank} and {dropout}")
        if not ranges or any(not 0 <= start < stop <= base.out_features for start, stop in ranges):
            raise InputError(f"expected ranges of the layer's {base.out_features} outputs, got {ranges}")
        with torch.device("meta"):
            super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        for frozen in (self.weight, self.bias):
            if frozen is not None:
                frozen.requires_grad_(False)
        place = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.updates = nn.ModuleList(
            Update(base.in_features, start, stop, rank, alpha, **place) for start, stop in ranges
        )
        self.dropout = nn.Dropout(dropout)
        self.merged = False

    def forward(self, input: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        y = super().forward(input)
        if self.merged:
            return y
        x = self.dropout(input)
        if len(self.updates) == 1 and self._updates[0].reaches(self.out_features):
            return y + self._updates[0](x)
        parts, at = [], 0
        for update in sorted(self._updates, key=lambda update: update.start):
            parts += [y[..., at : update.start], y[..., update.start : update.stop] + update(x)]
            at = update.stop
        return torch.cat((*parts, y[..., at:]), -1)

    def merge(self) -> Self:
        """Add the updates to the weight, which then costs what the plain layer costs; trained no further."""
        if not self.merged:
            self._add(1)
        self.merged = True
        return self

    def unmerge(self) -> Self:
        """Take the updates out of the weight again (up to rounding)."""
        if self.merged:
            self._add(-1)
        self.merged = False
        return self

    def plain(self) -> nn.Linear:
        """An ordinary layer that does the same."""
        made = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=self.weight.device)
        state = {"weight": self.weight if self.merged else self._with_updates(1)}
        made.load_state_dict(state if self.bias is None else {**state, "bias": self.bias})
        return made.to(self.weight.dtype)

    @property
    def _updates(self) -> list[Update]:
        return [update for update in self.updates if isinstance(update, Update)]

    def _with_updates(self, sign: int) -> Tensor:
        weight = self.weight.detach().clone()
        for update in self._updates:
            weight[update.start : update.stop] += sign * update.delta().detach()
        return weight

    def _add(self, sign: int) -> None:
        with torch.no_grad():
            self.weight.copy_(self._with_updates(sign))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # what is saved is always the layer unmerged: one that is loaded would add its updates a second time
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.merged:
            destination[f"{prefix}weight"] = self._with_updates(-1)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        self.merged = False
        super()._load_from_state_dict(*arguments, **keywords)

    def extra_repr(self) -> str:
        """Sizes, and what the updates reach."""
        reach = ", ".join(f"{update.start}:{update.stop}" for update in self._updates)
        return f"{super().extra_repr()}, updates of {reach}, merged={self.merged}"


class Update(nn.Module):
    """``alpha / rank * up down x`` for one range of outputs."""

    def __init__(self, dim: int, start: int, stop: int, rank: int, alpha: float, **place: Any):
        super().__init__()
        self.start, self.stop, self.scale = start, stop, alpha / rank
        self.down = nn.Parameter(torch.empty(rank, dim, **place).uniform_(-(dim**-0.5), dim**-0.5))
        self.up = nn.Parameter(torch.zeros(stop - start, rank, **place))

    def reaches(self, outputs: int) -> bool:
        """Whether it is for all outputs."""
        return (self.start, self.stop) == (0, outputs)

    def delta(self) -> Float[Tensor, "rows dim"]:
        """What it adds to the weight."""
        return self.scale * self.up @ self.down

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch rows"]:
        return self.scale * F.linear(F.linear(x, self.down), self.up)


def adapt_query_and_value(
    attention: nn.Module, rank: int = 8, *, alpha: float = 16.0, dropout: float = 0.0
) -> list[LoRALinear]:
    """Give an attention layer updates of its queries and values, in place, and freeze the projections they belong to.

    Raises:
        CapabilityError: it has neither a stacked ``in_proj`` of three equal parts nor ``q_proj`` with ``kv_proj``.
    """
    options: dict[str, Any] = {"alpha": alpha, "dropout": dropout}
    stacked: Any = getattr(attention, "in_proj", None)
    query: Any = getattr(attention, "q_proj", None)
    pair: Any = getattr(attention, "kv_proj", None)
    if isinstance(stacked, nn.Linear) and stacked.out_features == 3 * stacked.in_features:
        dim = stacked.in_features
        attention.in_proj = LoRALinear(stacked, rank, rows=[(0, dim), (2 * dim, 3 * dim)], **options)
        return [attention.in_proj]
    if isinstance(query, nn.Linear) and isinstance(pair, nn.Linear):
        width = pair.out_features
        attention.q_proj = LoRALinear(query, rank, **options)
        attention.kv_proj = LoRALinear(pair, rank, rows=[(width // 2, width)], **options)
        return [attention.q_proj, attention.kv_proj]
    raise CapabilityError(f"{type(attention).__name__} has no projections to queries and values that LoRA can adapt")


def adapted_layers(model: nn.Module) -> Iterator[LoRALinear]:
    """The adapted layers of a model."""
    return (module for module in model.modules() if isinstance(module, LoRALinear))


def merge_updates(model: nn.Module) -> None:
    """Add all updates of a model to its weights, for inference at the cost of the plain model."""
    for layer in adapted_layers(model):
        layer.merge()


def unmerge_updates(model: nn.Module) -> None:
    """Take all updates out of the weights again."""
    for layer in adapted_layers(model):
        layer.unmerge()
