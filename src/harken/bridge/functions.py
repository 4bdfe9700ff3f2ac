"""Mechanisms that are functions of queries, keys and values, as attention implementations of ``transformers``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.attention import attention_class, parse_attention
from harken.attention.linear import linear_attention
from harken.attention.mala import mala_attention
from harken.attention.taylor import taylor_attention
from harken.bridge import _mixing
from harken.errors import CapabilityError, InputError, MissingExtraError
from harken.observation import emit

# what a model may ask of an attention function beyond masks, and no function here does
_UNKNOWN_REQUESTS = ("softcap", "sliding_window", "s_aux", "position_bias", "cache")


def register(*names: str) -> list[str]:
    """Make mechanisms known to ``transformers`` as ``harken-<name>``, and return those names.

    Afterwards ``model.set_attn_implementation("harken-mala")`` and ``attn_implementation="harken-mala"`` work in every
    model that calls attention through ``AttentionInterface``. Calling it again changes nothing.

    Args:
        *names: mechanisms, perhaps with options (``"span:span_size=64"`` becomes ``harken-span:span_size=64``); all
            that are functions of queries, keys and values, with the options they have alone, when none is given.

    Raises:
        MissingExtraError: ``transformers`` is not installed.
        InputError: no such mechanism, or an option it does not have.
        CapabilityError: the mechanism has weights of its own: :func:`harken.bridge.swap` puts it into a model.

    >>> "harken-mala" in register()
    True
    """
    check_transformers()
    from transformers import AttentionInterface, AttentionMaskInterface

    registered = []
    for text in names or tuple(FUNCTIONS):
        function = mixing_function(text)
        AttentionInterface.register(f"harken-{text}", function)
        AttentionMaskInterface.register(f"harken-{text}", function.mask)
        registered.append(f"harken-{text}")
    return registered


def check_transformers() -> None:
    """Raise the line that installs ``transformers`` where it is missing."""
    if find_spec("transformers") is None:
        raise MissingExtraError("transformers", extra="text")


@dataclass(frozen=True)
class MixingFunction:
    """A mechanism as ``transformers`` calls it, and what it needs to know about the call.

    Args:
        name: as it is registered, without ``harken-``.
        mix: ``(q, k, v, causal=, mask=, training=, **options)`` to the mixed values, ``(batch, heads, time, dim)``.
        options: of the mechanism, for ``mix``.
        aligns: takes fewer queries than keys, the last ones, in causal order; others get the missing rows as zeros.
        needs_queries: earlier queries count, too: with a cache of keys and values alone there is no answer.
        grouped: takes fewer heads of keys and values than of queries.
        patterns: takes any boolean mask of pairs.
        finish: what is done to the mixed values, beyond what a matrix does.
    """

    name: str
    mix: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    aligns: bool = False
    needs_queries: bool = False
    grouped: bool = False
    patterns: bool = False
    finish: Callable[[Tensor], Tensor] | None = None

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **requests: Any,
    ) -> tuple[Tensor, None]:
        """Attention as ``AttentionInterface`` asks for it.

        ``module`` gets what is emitted: ``weights``, the matrix that is explicit or implied, and from softmax also
        ``scores`` (scaled, before mask and softmax) and ``context`` (the mixed values, heads side by side).

        Shape:
            - query: ``(batch, heads, time, head_dim)``; key, value: ``(batch, kv_heads, keys, head_dim)``
            - the mixed values that return: ``(batch, time, heads, head_dim)``

        Raises:
            CapabilityError: the model asks for what the mechanism cannot do.
        """
        for request in _UNKNOWN_REQUESTS:
            if requests.get(request) is not None:
                raise CapabilityError(f"'harken-{self.name}' cannot do what this model asks for with '{request}'")
        if dropout:
            warnings.warn(
                f"'harken-{self.name}' drops no attention weights: dropout={dropout} is left out", stacklevel=2
            )
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        mask, key, value, causal = self._unpacked(attention_mask, query, key, value, causal)
        self._check_order(module, query, key, causal)
        if scaling is not None and scaling != query.shape[-1] ** -0.5:
            query = query * (scaling * query.shape[-1] ** 0.5)
        if key.shape[1] != query.shape[1] and not self.grouped:
            key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))

        def mixed(values: Tensor) -> Tensor:
            return self._mixed(query, key, values, causal, mask, module.training)

        emit(module, "weights", lambda: mixed(_identity(value)))
        out = mixed(value)
        out = (out if self.finish is None else self.finish(out)).transpose(1, 2).contiguous()
        if self.name == "softmax":
            emit(module, "scores", lambda: _scores(query, key))
            emit(module, "context", lambda: out.flatten(2))
        return out, None

    def mask(
        self,
        batch_size: int,
        q_length: int,
        kv_length: int,
        q_offset: int = 0,
        kv_offset: int = 0,
        mask_function: Callable[..., Any] | None = None,
        attention_mask: Tensor | None = None,
        device: torch.device | str = "cpu",
        **others: Any,
    ) -> Tensor | None:
        """What ``AttentionMaskInterface`` hands to the function: padding alone, no matrix of pairs.

        ``(batch, keys)``, True where a key is real (None: all are), says causal order; ``(batch, 1, 1, keys)`` none.
        Any other pattern is a whole matrix, ``(batch, 1, time, keys)``, for those that can use one.
        """
        from transformers import masking_utils

        if mask_function is masking_utils.bidirectional_mask_function:
            if attention_mask is None:
                return torch.ones(batch_size, 1, 1, kv_length, dtype=torch.bool, device=device)
            missing = max(0, kv_offset + kv_length - attention_mask.shape[1])
            real = F.pad(attention_mask.bool(), (0, missing), value=False)
            return real[:, None, None, kv_offset : kv_offset + kv_length]
        if mask_function in (None, masking_utils.causal_mask_function) and not kv_offset:
            seen = int(q_offset) + q_length  # a cache of fixed size has room behind them
            if attention_mask is None:
                whole = seen == kv_length
                return None if whole else torch.ones(batch_size, seen, dtype=torch.bool, device=device)
            real = attention_mask.bool()[:, :seen]
            return F.pad(real, (0, seen - real.shape[1]), value=False)
        if not self.patterns:
            raise CapabilityError(
                f"'harken-{self.name}' knows causal order and padding: this model asks for another pattern of pairs"
                " (a sliding window, packed sequences ...)"
            )
        others["allow_is_causal_skip"] = others["allow_is_bidirectional_skip"] = False
        return masking_utils.sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function or masking_utils.causal_mask_function,
            attention_mask=attention_mask,
            device=device,
            **others,
        )

    def _unpacked(
        self, mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor, causal: bool
    ) -> tuple[Tensor | None, Tensor, Tensor, bool]:
        """The mask as ``mix`` takes it, keys and values that there are, and whether order counts."""
        if mask is None:
            return None, k, v, causal
        if mask.ndim == 2:
            real = mask.shape[1]
            return mask.bool(), k[:, :, :real], v[:, :, :real], causal
        mask = mask[..., : k.shape[2]]
        if mask.dtype == torch.bool and mask.shape[1:3] == (1, 1):
            return mask[:, 0, 0], k, v, False
        if not self.patterns:
            raise CapabilityError(f"'harken-{self.name}' takes a mask of keys (batch, keys), got one of pairs")
        return mask, k, v, False

    def _check_order(self, module: nn.Module, q: Tensor, k: Tensor, causal: bool) -> None:
        able, name = attention_class(parse_attention(self.name)[0]).capabilities, f"'harken-{self.name}'"
        if not (able.causal if causal else able.bidirectional):
            order = "causal" if causal else "bidirectional"
            raise CapabilityError(f"{name} has no {order} form, which this model asks for")
        crosses = getattr(module, "is_cross_attention", False) or (not causal and q.shape[2] != k.shape[2])
        if crosses and (not able.cross or self.needs_queries):
            raise CapabilityError(f"{name} has no cross-attention, which this model asks for")
        if causal and self.needs_queries and q.shape[2] != k.shape[2]:
            raise CapabilityError(f"{name} needs all queries, a cache has keys and values only: pass use_cache=False")

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None, training: bool) -> Tensor:
        missing = k.shape[2] - q.shape[2] if causal and not self.aligns else 0
        if missing:
            q = F.pad(q, (0, 0, missing, 0))
        return self.mix(q, k, v, causal=causal, mask=mask, training=training, **self.options)[:, :, missing:]


def mixing_function(text: str) -> MixingFunction:
    """The function behind a mechanism's name, with the options written behind it.

    Raises:
        InputError: no such mechanism, or an option it does not have.
        CapabilityError: the mechanism is no function of queries, keys and values.
    """
    name, options = parse_attention(text)
    attention_class(name)
    kind = FUNCTIONS.get(text) or FUNCTIONS.get(name)
    if kind is None:
        raise CapabilityError(
            f"'{name}' is more than a function of queries, keys and values: put it into a model with harken.bridge.swap"
        )
    if kind.name == text:
        return kind
    known = set(inspect.signature(kind.mix).parameters) - {"q", "k", "v", "causal", "mask", "training"}
    if unknown := options.keys() - known:
        raise InputError(f"'{name}' as a function has no option {', '.join(sorted(unknown))}: {_listed(known)}")
    function = replace(kind, name=text, options=options)
    try:  # values that are out of range answer here, not in the middle of a model
        some = torch.zeros(1, 2, 4, 4)
        function._mixed(some, some, some, True, None, True)
    except TypeError as problem:
        raise InputError(f"'{text}' cannot be used: {problem}") from None
    return function


def _listed(names: set[str]) -> str:
    return f"it knows {', '.join(sorted(names))}" if names else "it knows none"


def _identity(v: Tensor) -> Tensor:
    """Values of which each is its own place, so that the mixed ones are the matrix itself."""
    keys = v.shape[2]
    return torch.eye(keys, device=v.device, dtype=v.dtype).expand(*v.shape[:2], keys, keys)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5


FUNCTIONS: dict[str, MixingFunction] = {
    kind.name: kind
    for kind in (
        MixingFunction("softmax", _mixing.softmax, aligns=True, grouped=True, patterns=True),
        MixingFunction("linear", _mixing.without_training(linear_attention)),
        MixingFunction("mala", _mixing.without_training(mala_attention)),
        MixingFunction("lightning", _mixing.lightning, finish=_mixing.root_mean_square),
        MixingFunction("flow", _mixing.flow, needs_queries=True),
        MixingFunction("span", _mixing.span, aligns=True, grouped=True),
        MixingFunction("shifted", _mixing.shifted, aligns=True, grouped=True),
        MixingFunction("sink-shifted", _mixing.sink_shifted, aligns=True, grouped=True),
        MixingFunction("deconstructed:variant=approximate", _mixing.without_training(taylor_attention)),
        MixingFunction("deconstructed:variant=non-approximate", _mixing.non_approximate, needs_queries=True),
    )
}
