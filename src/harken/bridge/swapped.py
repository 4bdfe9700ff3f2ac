"""A harken mechanism in the place of a host's attention, on the host's own projections and positions."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention import Attention, ProjectedAttention, attention_class, create_attention, parse_attention
from harken.attention._base import Capabilities
from harken.attention.adaptive_lookahead import AdaptiveLookaheadAttention
from harken.attention.gated_linear import GatedLinearAttention
from harken.attention.minimal import MinimalAttention
from harken.attention.softmax import SoftmaxFamily
from harken.bridge.hosts import Host, padding
from harken.errors import CapabilityError, InputError
from harken.observation import is_observed

# options with which a mechanism keeps more of the host's weights than with its own defaults
_FITTING: dict[str, dict[str, Any]] = {"moh": {"router": "norm"}, "gated-linear": {"expand_key": 1.0}}
# variants of "deconstructed" whose queries and keys come from another sequence than the host gives
_ELSEWHERE = ("rnd-emb-qk", "fixed-seq-qk", "static-emb-qk")
# who counts positions from the first, padding or not: blocks, groups, what stands before the beginning
_COUNT_PADDING = ("relative", "shifted", "sink-shifted", "span", "wersa")


class SwappedAttention(nn.Module):
    """What stands in a ``transformers`` model after :func:`harken.bridge.swap`.

    The host's projections stay where they were, under their names, and the mechanism (``attention``) uses them: nothing
    is copied, checkpoints and adapters still find them, and :func:`harken.bridge.restore` has nothing to give back.
    Queries and keys are turned by position and scaled as the host did, and heads of keys and values that several heads
    of queries share are repeated where a mechanism has no such sharing.

    Args:
        host: what is replaced.
        text: the mechanism, perhaps with options.
        position: which of the model's layers this is.
        layers: how many there are.
        **options: of the mechanism.

    Raises:
        CapabilityError: the mechanism cannot do what the host does.
        InputError: an option that it does not have, or heads that do not fit.
    """

    def __init__(self, host: Host, text: str, position: int, layers: int, **options: Any):
        super().__init__()
        self.attention = _built(host, text, position, layers, options)
        self.__dict__["host"] = host  # not a part of this module: its parts are
        self.layer_idx, self.is_causal, self.name = host.index, host.causal, text
        for name, part in host.module.named_children():
            self.add_module(name, part)
        self.used = _connect(self, host, self.attention)
        self.grouped = isinstance(self.attention, SoftmaxFamily)
        self.counts_padding = parse_attention(text)[0] in _COUNT_PADDING
        self.steps = _can_stream(self.attention)
        self.steps_with_mask = isinstance(self.attention, SoftmaxFamily) and not self.counts_padding
        self._turn: tuple[Tensor, ...] | None = None
        self._turned = 0
        weight = host.weight
        self.attention.to(device=weight.device, dtype=weight.dtype)
        self.train(host.module.training)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch time dim"],
        attention_mask: Tensor | None = None,
        *,
        position_embeddings: tuple[Tensor, ...] | None = None,
        past_key_values: Any = None,
        encoder_hidden_states: Tensor | None = None,
        is_causal: bool | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """What the host's module would do with these arguments, by another mechanism; no attention maps return."""
        host = self.host
        if encoder_hidden_states is not None:
            raise CapabilityError(f"{host.path} was swapped as self-attention, and is asked for cross-attention")
        if is_causal is not None and is_causal != host.causal:
            raise CapabilityError(
                f"{host.path} was swapped with causal={host.causal}, and is asked for the other order"
            )
        if position_embeddings is not None and host.rotate is None:
            raise CapabilityError(f"{host.path} turns queries and keys in a way that is not known")
        mixed = self._mixed(hidden_states, attention_mask, position_embeddings, past_key_values)
        if host.family.after is not None:
            mixed = getattr(self, host.family.after)(mixed)
        return mixed, None

    def _mixed(self, x: Tensor, mask: Tensor | None, turn: tuple[Tensor, ...] | None, cache: Any) -> Tensor:
        time, causal = x.shape[1], self.host.causal
        if cache is None or not causal:
            return self._whole(x, padding(mask, time, time, causal=causal), turn)
        from harken.bridge.streams import Chunk, stream_layer

        stream = stream_layer(cache, self)
        keys = stream.length + time
        real = padding(mask, time, keys, causal=True)
        chunk = Chunk(x, None if real is None else real[:, keys - time :], turn)
        if stream.length or not (self.training or torch.is_grad_enabled() or is_observed() or not self.steps):
            return stream.advance(chunk)
        stream.defer(chunk)  # only the whole pass has losses, maps for who observes, and forms that are for training
        return self._whole(x, chunk.real, turn)

    def _whole(self, x: Tensor, real: Tensor | None, turn: tuple[Tensor, ...] | None) -> Tensor:
        """All positions at once; padding goes to the end for those to whom it makes a difference where it is."""
        if real is None or not self.counts_padding:
            self.turn_by(turn)
            return self.attention(x, mask=real)
        order = (~real).to(torch.uint8).argsort(dim=-1, stable=True)
        if turn is not None:
            turn = tuple(_taken(part.expand(len(x), -1, -1), order) for part in turn)
        self.turn_by(turn)
        return _taken(self.attention(_taken(x, order), mask=real.gather(1, order)), order.argsort(-1))

    @property
    def host(self) -> Host:
        """Where this layer sits."""
        return self.__dict__["host"]

    def turn_by(self, turn: tuple[Tensor, ...] | None) -> None:
        """Queries and keys are turned by these angles, until others come."""
        self._turn, self._turned = turn, 0

    def project(self, x: Tensor, parts: str) -> Tensor:
        """The parts (of ``qkv``) side by side, as the mechanism's own projection would give them."""
        host = self.host
        made = host.family.project(self, x)
        q, k, v = (part.unflatten(-1, (-1, host.head_dim)).transpose(1, 2) for part in made)
        if self._turn is not None and host.rotate is not None:
            q, k = host.rotate(q, k, *self._angles(x.shape[1]))
        if host.scale != 1.0:
            q = q * host.scale
        if host.kv_heads != host.heads and not self.grouped:
            k, v = (part.repeat_interleave(host.heads // host.kv_heads, 1) for part in (k, v))
        named = {"q": q, "k": k, "v": v}
        return torch.cat([named[part].transpose(1, 2).flatten(2) for part in parts], -1)

    def _angles(self, time: int) -> list[Tensor]:
        """Of the next rows: long sequences are projected piece by piece."""
        assert self._turn is not None
        total = self._turn[0].shape[-2]
        if time == total:
            return list(self._turn)
        start = self._turned
        self._turned = (start + time) % total
        return [part[..., start : start + time, :] for part in self._turn]

    def extra_repr(self) -> str:
        """Which mechanism it is."""
        return f"'{self.name}'"


class _Projection(nn.Module):
    """Stands where a mechanism has its input projection, and asks the swapped layer around it."""

    def __init__(self, layer: SwappedAttention, parts: str, width: int):
        super().__init__()
        self.__dict__["layer"] = layer
        self.parts, self.out_features = parts, width
        self.in_features = layer.host.dim
        self.bias = None

    @property
    def weight(self) -> Tensor:
        """Of the right size, kind and device, which is all that mechanisms read of it; the numbers are the host's."""
        return _size_only(self.__dict__["layer"].host.weight, self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Queries, keys and values as the host makes them."""
        return self.__dict__["layer"].project(x, self.parts)


class _Output(nn.Module):
    """Stands where a mechanism has its output projection."""

    def __init__(self, layer: SwappedAttention):
        super().__init__()
        self.__dict__["layer"] = layer
        self.in_features = layer.host.heads * layer.host.head_dim

    @property
    def weight(self) -> Tensor:
        """As :attr:`_Projection.weight`; of no size where the output projection is not the module's own."""
        host = self.__dict__["layer"].host
        return _size_only(host.weight, host.dim if host.family.output else 0, self.in_features)

    def forward(self, mixed: Tensor) -> Tensor:
        """Heads side by side to the host's output."""
        layer = self.__dict__["layer"]
        return layer.host.family.finish(layer, mixed)


def _taken(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def _size_only(like: Tensor, *shape: int) -> Tensor:
    return like.detach().new_full((), float("nan")).expand(shape)


def _built(host: Host, text: str, position: int, layers: int, options: dict[str, Any]) -> Attention:
    """The mechanism, with projections of its own that are about to go."""
    name, written = parse_attention(text)
    mechanism = attention_class(name)
    able: Capabilities = mechanism.capabilities
    if able.grid or able.block_causal:
        raise CapabilityError(
            f"'{name}' lives on a grid of image tokens or channels, which {host.path} does not pass on"
        )
    if name == "deconstructed" and {**written, **options}.get("variant") in _ELSEWHERE:
        raise CapabilityError(f"this variant takes queries and keys from another sequence, which {host.path} has not")
    given = {**_FITTING.get(name, {}), **options}
    wanted = inspect.signature(mechanism.__init__).parameters
    if {"layer", "layers"} <= wanted.keys():
        given = {"layer": position, "layers": layers, **given}
    if issubclass(mechanism, SoftmaxFamily):
        given |= {"head_dim": host.head_dim, "kv_heads": host.kv_heads}
    elif host.heads * host.head_dim != host.dim:
        raise InputError(
            f"{host.heads} heads of {host.head_dim} channels are not the {host.dim} of {host.path}, as '{name}' needs:"
            " use one of the softmax family (softmax, moh, span, shifted, sink-shifted)"
        )
    given = {key: value for key, value in given.items() if key not in written}
    return create_attention(text, dim=host.dim, heads=host.heads, causal=host.causal, **given)


def _can_stream(mechanism: Attention) -> bool:
    try:
        mechanism.init_state(1)
    except CapabilityError:
        return False
    return True


def _connect(layer: SwappedAttention, host: Host, mechanism: Attention) -> list[str]:
    """Put the host's projections behind the mechanism's, where they do the same; the names of those in use."""
    inputs, output = list(host.family.inputs), [host.family.output] if host.family.output else []
    if isinstance(mechanism, MinimalAttention):
        if host.rotate is not None and mechanism.query_key in ("collapsed", "cholesky"):
            raise CapabilityError(
                f"{host.path} turns queries and keys by position, and 'minimal' compares with the tokens themselves:"
                " pass query_key='symmetric' or 'separate'"
            )
        parts = "" if mechanism.query_key == "cholesky" else "qk" if mechanism.query_key == "separate" else "q"
        parts += "" if mechanism.value == "none" else "v"
        if mechanism.projection is not None:
            mechanism.projection = _Projection(layer, parts, len(parts) * host.dim)  # type: ignore[assignment]
        if mechanism.output is not None:
            mechanism.output = _Output(layer)  # type: ignore[assignment]
        used = inputs if len(inputs) == 1 and parts else [inputs["qkv".index(part)] for part in parts]
        return used + (output if mechanism.output is not None else [])
    if not isinstance(mechanism, ProjectedAttention | GatedLinearAttention | AdaptiveLookaheadAttention):
        return []
    width = mechanism.in_proj.out_features
    if not isinstance(mechanism, SoftmaxFamily) and width != 3 * host.dim:
        return []
    mechanism.in_proj = _Projection(layer, "qkv", width)  # type: ignore[assignment]
    mechanism.out_proj = _Output(layer)  # type: ignore[assignment]
    return inputs + output
