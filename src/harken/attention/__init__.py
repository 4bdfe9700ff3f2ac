"""Attention mechanisms: one file each, one contract (``Attention``), built by name with :func:`create_attention`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from harken.attention._base import (
    Attention,
    Capabilities,
    Cost,
    KeyValueCache,
    ProjectedAttention,
    move_state,
    select_state,
)
from harken.errors import InputError

__all__ = [
    "Attention",
    "Capabilities",
    "Cost",
    "KeyValueCache",
    "ProjectedAttention",
    "attention_class",
    "create_attention",
    "list_attention",
    "move_state",
    "parse_attention",
    "register_attention",
    "select_state",
    "take_turns",
]

# name -> where its class lives ("module:class"), so that naming the mechanisms imports none of them
_MECHANISMS: dict[str, str | type[Attention]] = {
    "flow": "harken.attention.flow:FlowAttention",
    "adaptive-lookahead": "harken.attention.adaptive_lookahead:AdaptiveLookaheadAttention",
    "deconstructed": "harken.attention.deconstructed:DeconstructedAttention",
    "hilo": "harken.attention.hilo:HiLoAttention",
    "gated-linear": "harken.attention.gated_linear:GatedLinearAttention",
    "lightning": "harken.attention.lightning:LightningAttention",
    "longvq": "harken.attention.longvq:LongVqAttention",
    "mala": "harken.attention.mala:MalaAttention",
    "minimal": "harken.attention.minimal:MinimalAttention",
    "moh": "harken.attention.moh:MoHAttention",
    "multivariate": "harken.attention.multivariate:MultivariateAttention",
    "relative": "harken.attention.relative:RelativeAttention",
    "sea": "harken.attention.sea:SeaAttention",
    "softmax": "harken.attention.softmax:SoftmaxAttention",
    "sparsifiner": "harken.attention.sparsifiner:SparsifinerAttention",
    "shifted": "harken.attention.shifted:ShiftedAttention",
    "sink-shifted": "harken.attention.shifted:SinkShiftedAttention",
    "span": "harken.attention.span:SpanAttention",
    "linear": "harken.attention.linear:LinearAttention",
    "wersa": "harken.attention.wersa:WersaAttention",
}


def register_attention(mechanism: type[Attention]) -> type[Attention]:
    """Add a mechanism of your own under its ``name``; usable as a class decorator.

    Running a notebook cell again replaces the class it defined before.

    Raises:
        InputError: the class has no name, or another mechanism has it.
    """
    if not isinstance(getattr(mechanism, "name", None), str):
        raise InputError(f"{mechanism.__name__} has no name: give the class a line like name = 'my-attention'")
    known = _MECHANISMS.get(mechanism.name)
    if known is not None and _address(known) != _address(mechanism):
        raise InputError(f"an attention mechanism named '{mechanism.name}' exists already: choose another name")
    _MECHANISMS[mechanism.name] = mechanism
    return mechanism


def _address(mechanism: str | type[Attention]) -> str:
    return mechanism if isinstance(mechanism, str) else f"{mechanism.__module__}:{mechanism.__qualname__}"


def attention_class(name: str) -> type[Attention]:
    """The class behind a mechanism's name.

    Raises:
        InputError: no mechanism has that name.
    """
    try:
        entry = _MECHANISMS[name]
    except KeyError:
        raise InputError(f"no attention mechanism named '{name}': one of {', '.join(sorted(_MECHANISMS))}") from None
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        return getattr(import_module(module), attribute)
    return entry


def create_attention(name: str, *, dim: int, heads: int, causal: bool = False, **options: Any) -> Attention:
    """Build an attention mechanism by name.

    Args:
        name: one of :func:`list_attention`, perhaps with options behind a colon, as :func:`parse_attention` reads them.
        dim: channels of input and output.
        heads: parallel heads.
        causal: position ``t`` sees only positions up to ``t``.
        **options: the mechanism's own options, as its class documents them; an unknown one is a ``TypeError``.

    >>> import torch
    >>> create_attention("linear", dim=8, heads=2, causal=True)(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """
    name, written = parse_attention(name)
    mechanism = attention_class(name)
    try:
        return mechanism(dim, heads, causal=causal, **written, **options)
    except TypeError as error:
        if not written:
            raise
        raise InputError(f"'{name}' cannot be built with these options: {error}") from None


def parse_attention(text: str) -> tuple[str, dict[str, Any]]:
    """A mechanism's name and options as one writes them in a configuration or a command: ``"span:span_size=64"``.

    Options are separated by commas; values are numbers, ``true``, ``false``, ``none`` or words.

    Raises:
        InputError: an option without a name or value.

    >>> parse_attention("span:span_size=64,cache=none,kind=full")
    ('span', {'span_size': 64, 'cache': None, 'kind': 'full'})
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key.isidentifier() and equals and value):
            raise InputError(f"expected options such as 'span:span_size=64,sinks=4', got '{text}'")
        options[key] = _value(value)
    return name.strip(), options


def take_turns(mechanisms: Sequence[str], layers: int) -> list[str]:
    """The mechanism of each of so many layers, where those that are given take turns.

    Raises:
        InputError: none is given, or more than there are layers.

    >>> take_turns(("span:span_size=64", "softmax"), 3)
    ['span:span_size=64', 'softmax', 'span:span_size=64']
    """
    if not 1 <= len(mechanisms) <= layers:
        raise InputError(f"expected 1 to {layers} mechanisms for {layers} layers, got {len(mechanisms)}")
    return [mechanisms[layer % len(mechanisms)] for layer in range(layers)]


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def list_attention(**capabilities: bool) -> list[str]:
    """Names of the mechanisms, optionally only those with the given capabilities.

    >>> "softmax" in list_attention(causal=True, step=True)
    True
    """
    unknown = capabilities.keys() - Capabilities.__dataclass_fields__.keys()
    if unknown:
        raise InputError(
            f"no such capability: {', '.join(sorted(unknown))}; known: {', '.join(Capabilities.__dataclass_fields__)}"
        )
    if not capabilities:
        return sorted(_MECHANISMS)
    return [
        name
        for name in sorted(_MECHANISMS)
        if all(getattr(attention_class(name).capabilities, key) is value for key, value in capabilities.items())
    ]
