"""Put harken's attention into a loaded ``transformers`` model, and take it out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from harken.bridge.functions import check_transformers, register
from harken.bridge.hosts import Host, find_hosts
from harken.bridge.swapped import SwappedAttention
from harken.errors import InputError

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class SwappedLayer:
    """What became of one layer's weights.

    Args:
        index: which layer of the model.
        path: where it is.
        attention: the mechanism.
        kept: the host's projections that it uses as they are, trained or not.
        aside: those it does not use; they come back with :func:`restore`.
        new: parameters of the mechanism's own, which start untrained, and their sizes.
    """

    index: int
    path: str
    attention: str
    kept: tuple[str, ...]
    aside: tuple[str, ...]
    new: dict[str, int]


@dataclass(frozen=True)
class SwapReport:
    """What a swap did, layer by layer; printed, a line for each."""

    layers: tuple[SwappedLayer, ...]

    @property
    def new_parameters(self) -> int:
        """Numbers that nobody has trained yet."""
        return sum(sum(layer.new.values()) for layer in self.layers)

    def __str__(self) -> str:
        lines = []
        for layer in self.layers:
            line = f"{layer.index}: {layer.path} -> {layer.attention}; keeps {', '.join(layer.kept) or 'nothing'}"
            line += f"; does not use {', '.join(layer.aside)}" if layer.aside else ""
            line += f"; new: {', '.join(layer.new)} ({sum(layer.new.values())})" if layer.new else ""
            lines.append(line)
        return "\n".join(lines)


def swap(
    model: Model,
    attention: str | None = None,
    *,
    layers: Sequence[int] | Mapping[int, str] | None = None,
    **options: Any,
) -> tuple[Model, SwapReport]:
    """Replace self-attention in a loaded model, in place, keeping its weights where they map.

    The host's projections to queries, keys, values and output stay the same modules under the same names, with its
    biases, number of heads (shared ones too), rotary positions and scale. What a mechanism has beyond them starts
    untrained, and even one without anything new sees other inputs than its weights were trained on: **expect poor
    results before further training**, except from ``softmax``, which reproduces the model.

    Known are attention modules built like those of LLaMA (Mistral, ViT ...), GPT-2, BERT and CLIP. ``generate`` works
    with and without a cache; in the cache a swapped layer keeps its own state, of constant size where the mechanism's
    is. Dropout of attention weights is left out, as are attention maps among the outputs: use ``harken.observe(model,
    "weights")``, where a layer's maps are under its path and ``.attention``. A layer may be swapped again.

    Some options have other defaults here: ``moh`` is routed by the length of its queries (``router="norm"``), which has
    no new parameters, ``gated-linear`` has keys as wide as the host's (``expand_key=1``), and ``lightning`` is told
    which layer of how many it is.

    Args:
        model: of ``transformers``, perhaps inside a ``peft`` model.
        attention: the mechanism, perhaps with options (``"span:span_size=64"``).
        layers: which ones, counted from 0, negative from the end; or the mechanism of each; all when None.
        **options: of the mechanism.

    Returns:
        The model, and a report of what was kept, set aside and newly initialised.

    Raises:
        MissingExtraError: ``transformers`` is not installed.
        InputError: no such layer, mechanism or option.
        CapabilityError: the model or the mechanism has what the other cannot do.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=10, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    ...                      num_attention_heads=2)
    >>> model, report = swap(LlamaForCausalLM(config), "mala", layers=[1])
    >>> print(report)
    1: model.layers.1.self_attn -> mala; keeps q_proj, k_proj, v_proj, o_proj
    """
    check_transformers()
    hosts = find_hosts(model)
    chosen = _chosen(attention, layers, len(hosts))
    if options and isinstance(layers, Mapping):
        raise InputError("with a mechanism for each layer, write options behind its name: {0: 'span:span_size=64'}")
    for index in chosen:
        _original(model.get_submodule(hosts[index].path))
    made = {index: SwappedAttention(hosts[index], text, index, len(hosts), **options) for index, text in chosen.items()}
    for index, layer in made.items():
        _put(model, hosts[index].path, layer)
    _use_masks_of_keys(model)
    return model, SwapReport(tuple(_described(index, hosts[index], layer) for index, layer in made.items()))


def restore(model: Model, *, layers: Sequence[int] | None = None) -> Model:
    """Put the model's own attention back, in place, with its projections as they are now (trained, or with adapters).

    Args:
        model: with swapped layers, or none.
        layers: which ones, as for :func:`swap`; all when None.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=10, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    ...                      num_attention_heads=2)
    >>> model, _ = swap(LlamaForCausalLM(config), "mala")
    >>> type(restore(model).model.layers[0].self_attn).__name__
    'LlamaAttention'
    """
    hosts = find_hosts(model)
    chosen = range(len(hosts)) if layers is None else _indices(layers, len(hosts))
    for index in chosen:
        path = hosts[index].path
        layer = model.get_submodule(path)
        original = _original(layer)
        if original is not layer:
            _put(model, path, original.train(layer.training))
    _use_masks_of_keys(model)
    return model


def swapped_layers(model: nn.Module) -> dict[str, SwappedAttention]:
    """The swapped layers of a model, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, SwappedAttention)}


def _chosen(attention: str | None, layers: Sequence[int] | Mapping[int, str] | None, count: int) -> dict[int, str]:
    if isinstance(layers, Mapping):
        if attention is not None:
            raise InputError("pass one mechanism, or one for each layer, not both")
        return dict(zip(_indices(list(layers), count), layers.values(), strict=True))
    if attention is None:
        raise InputError("which mechanism? pass its name, or layers={0: 'mala', 1: 'softmax'}")
    return dict.fromkeys(range(count) if layers is None else _indices(layers, count), attention)


def _indices(layers: Sequence[int], count: int) -> list[int]:
    if wrong := [index for index in layers if not -count <= index < count]:
        raise InputError(f"no layer {wrong[0]}: the model has {count} layers of attention, 0 to {count - 1}")
    return [index % count for index in layers]


def _original(module: nn.Module) -> nn.Module:
    """The host's module, with its parts as they are by now: adapters may have taken their places."""
    if not isinstance(module, SwappedAttention):
        return module
    original = module.host.module
    for name, _ in list(original.named_children()):
        setattr(original, name, getattr(module, name))
    return original


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _described(index: int, host: Host, layer: SwappedAttention) -> SwappedLayer:
    projections = [*host.family.inputs, *([host.family.output] if host.family.output else [])]
    return SwappedLayer(
        index=index,
        path=host.path,
        attention=layer.name,
        kept=tuple(layer.used),
        aside=tuple(name for name in projections if name not in layer.used),
        new={name: parameter.numel() for name, parameter in layer.attention.named_parameters()},
    )


def _use_masks_of_keys(model: nn.Module) -> None:
    """Where every layer is swapped no matrix of pairs is needed: ask ``transformers`` for masks of keys alone."""
    from transformers import PreTrainedModel

    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None:
        return
    swapped = all("host" in model.get_submodule(host.path).__dict__ for host in find_hosts(model))
    used = inner.config._attn_implementation
    if swapped and used != _MASKS:
        register("softmax")
        inner.__dict__["_masks_before_swap"] = used  # not in the configuration, which is saved
        inner.set_attn_implementation(_MASKS)
    elif not swapped and "_masks_before_swap" in inner.__dict__:
        before = inner.__dict__.pop("_masks_before_swap")
        if used == _MASKS:  # else somebody has chosen another since
            inner.set_attn_implementation(before)


_MASKS = "harken-softmax"
