"""The attention modules of ``transformers`` models: where they are, and where they keep their weights."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from harken.errors import CapabilityError, InputError


@dataclass(frozen=True)
class Family:
    """How the attention modules of a family of models name their parts.

    Args:
        name: of the family.
        inputs: the projections to queries, keys and values, or the one that makes all three side by side.
        output: the projection behind the heads; None where the module around it holds that.
        after: what the output goes through then.
        others: further parts that need nothing done.
    """

    name: str
    inputs: tuple[str, ...]
    output: str | None
    after: str | None = None
    others: tuple[str, ...] = ()

    def fits(self, module: nn.Module) -> bool:
        """Whether a module has the projections of this family."""
        wanted = (*self.inputs, *([self.output] if self.output else []))
        return all(isinstance(getattr(module, part, None), nn.Module) for part in wanted)

    def project(self, module: nn.Module, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, heads side by side."""
        made = [getattr(module, part)(x) for part in self.inputs]
        return list(made[0].chunk(3, -1)) if len(made) == 1 else made

    def finish(self, module: nn.Module, mixed: Tensor) -> Tensor:
        """The mixed values through the host's output projection, where the host has it."""
        return mixed if self.output is None else getattr(module, self.output)(mixed)


FAMILIES = (
    Family("LLaMA", ("q_proj", "k_proj", "v_proj"), "o_proj", others=("rotary_emb",)),
    Family("CLIP", ("q_proj", "k_proj", "v_proj"), "out_proj"),
    Family("GPT-2", ("c_attn",), "c_proj", after="resid_dropout", others=("attn_dropout",)),
    Family("BERT", ("query", "key", "value"), None, others=("dropout",)),
)


@dataclass(frozen=True)
class Host:
    """One attention module of a model.

    Args:
        path: where it is, as ``model.get_submodule`` takes it.
        module: the module.
        family: how it names its parts.
        dim: channels of input and output.
        heads, kv_heads: of queries, and of keys and values.
        head_dim: channels of a head.
        causal: whether it sees earlier positions only.
        scale: the host's factor on scores over ``1 / sqrt(head_dim)``, which is the mechanisms' own.
        index: which layer of the cache is its own.
    """

    path: str
    module: nn.Module
    family: Family
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    scale: float
    index: int

    @property
    def weight(self) -> Tensor:
        """One of its weights, for their device and precision."""
        return getattr(self.module, self.family.inputs[0]).weight

    @property
    def rotate(self) -> Callable[..., tuple[Tensor, Tensor]] | None:
        """How its model turns queries and keys by position, if it does."""
        return getattr(sys.modules.get(type(self.module).__module__), "apply_rotary_pos_emb", None)


def find_hosts(model: nn.Module) -> list[Host]:
    """The self-attention modules of a model, in its order; cross-attention stays out.

    Raises:
        InputError: none is of a family that is known.
        CapabilityError: one has parts that are not.
    """
    hosts: list[Host] = []
    for path, module in model.named_modules():
        if "host" in module.__dict__:  # a swapped layer remembers where it sits
            hosts.append(replace(module.__dict__["host"], path=path))
            continue
        family = next((family for family in FAMILIES if family.fits(module)), None)
        if family is not None and not _crosses(module):
            hosts.append(_host(path, module, family, len(hosts)))
    if not hosts:
        names = ", ".join(f"{family.name} ({', '.join(family.inputs)})" for family in FAMILIES)
        raise InputError(f"found no attention module in this {type(model).__name__} of the kinds known: {names}")
    return hosts


def _crosses(module: nn.Module) -> bool:
    if getattr(module, "is_cross_attention", False):
        return True
    asked = inspect.signature(module.forward).parameters
    return "key_value_states" in asked or ("encoder_hidden_states" in asked and not hasattr(module, "c_attn"))


def _host(path: str, module: nn.Module, family: Family, index: int) -> Host:
    known = {*family.inputs, family.output, family.after, *family.others}
    unknown = [name for name, _ in module.named_children() if name not in known]
    unknown += [name for name, _ in module.named_parameters(recurse=False)]
    config = getattr(module, "config", None)
    window = getattr(module, "sliding_window", getattr(config, "sliding_window", None))
    unknown += ["sliding_window"] if window is not None else []
    unknown += ["attn_logit_softcapping"] if getattr(module, "attn_logit_softcapping", None) else []
    if unknown:
        raise CapabilityError(
            f"{path} ({type(module).__name__}) has {', '.join(unknown)}, which a swap would lose: use harken.bridge."
            "register and set_attn_implementation if the model allows, or leave this model as it is"
        )
    fused = len(family.inputs) == 1
    widths = [_width(getattr(module, part)) for part in family.inputs]
    widths = [widths[0] // 3] * 3 if fused else widths
    head_dim = getattr(module, "head_dim", None) or getattr(module, "attention_head_size", None)
    if not isinstance(head_dim, int):
        raise InputError(f"{path} ({type(module).__name__}) does not say how wide its heads are (head_dim)")
    scaling: Any = getattr(module, "scaling", getattr(module, "scale", head_dim**-0.5))
    first = getattr(module, family.inputs[0])
    return Host(
        path=path,
        module=module,
        family=family,
        dim=first.nx if hasattr(first, "nx") else first.in_features,
        heads=widths[0] // head_dim,
        kv_heads=widths[1] // head_dim,
        head_dim=head_dim,
        causal=bool(getattr(module, "is_causal", False)),
        scale=float(scaling) * head_dim**0.5,
        index=index if getattr(module, "layer_idx", None) is None else int(module.layer_idx),  # type: ignore[arg-type]
    )


def _width(projection: nn.Module) -> int:
    width: Any = getattr(projection, "nf", None) or projection.out_features  # Conv1D of GPT-2, or a linear layer
    return width


def padding(mask: Tensor | None, time: int, keys: int, *, causal: bool) -> Tensor | None:
    """Which keys are real, ``(batch, keys)``, from a mask as any attention implementation has it; None when all are.

    Raises:
        CapabilityError: the mask is not causal order (or none) and padding alone.
    """
    if mask is None:
        return None
    if mask.ndim == 2:
        return mask[:, :keys].bool()
    pairs = mask[..., :keys]
    if pairs.dtype != torch.bool:
        pairs = pairs > torch.finfo(pairs.dtype).min / 2
    real = pairs[:, 0, -1]
    if pairs.shape[2] > 1 and not torch.compiler.is_compiling():
        expected = real[:, None]
        if causal:
            order = torch.ones(time, keys, dtype=torch.bool, device=mask.device).tril(keys - time)
            expected = expected & order
        if not torch.equal(pairs[:, 0], expected.expand_as(pairs[:, 0])):
            raise CapabilityError(
                "the model masks pairs beyond causal order and padding (packed sequences, a window, a prefix ...),"
                " which a swapped layer does not know: leave those out, or restore the model"
            )
    return real
