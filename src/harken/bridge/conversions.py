"""The papers' ways to convert a trained model: MASFormer, SinkLoRA and SEA; MoH needs no more than a swap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.attention.sea import Lesson, SeaAttention
from harken.bridge.functions import check_transformers, register
from harken.bridge.hosts import find_hosts
from harken.bridge.swapping import swap, swapped_layers
from harken.errors import InputError, MissingExtraError
from harken.observation import observe

Placement = Literal["bottom", "top", "middle", "interleaved"]


def masformer_layers(layers: int, *, full: int | Sequence[int], placement: Placement = "bottom") -> list[int]:
    """The layers that get a short span when a model becomes a MASFormer, the others keeping full attention.

    What it costs is ``full / layers + (1 - full / layers) span_size / time`` of full attention: a quarter of it with 4
    of 24 layers full, blocks of 1024 and 8192 positions (arXiv 2310.12442). Train on after the swap.

    Args:
        layers: how many the model has.
        full: how many layers stay full, or which.
        placement: where they are, when ``full`` is a number: the paper's at the ``bottom``.

    Raises:
        InputError: more full layers than there are, or an unknown placement.

    >>> masformer_layers(6, full=2), masformer_layers(6, full=2, placement="interleaved"), masformer_layers(4, full=[3])
    ([2, 3, 4, 5], [1, 2, 4, 5], [0, 1, 2])
    """
    if isinstance(full, int):
        if not 0 <= full <= layers:
            raise InputError(f"full={full} of {layers} layers: expected 0 to {layers}")
        places = {
            "bottom": range(full),
            "top": range(layers - full, layers),
            "middle": range((layers - full) // 2, (layers - full) // 2 + full),
            "interleaved": [index * layers // full for index in range(full)],
        }
        if placement not in places:
            raise InputError(f"placement='{placement}' is unknown: one of {', '.join(places)}")
        chosen = set(places[placement])
    else:
        if wrong := [index for index in full if not -layers <= index < layers]:
            raise InputError(f"no layer {wrong[0]} of {layers}")
        chosen = {index % layers for index in full}
    return [index for index in range(layers) if index not in chosen]


def interpolate_positions(model: nn.Module, length: int) -> int:
    """Squeeze a model's rotary positions, in place, so that ``length`` of them fit into those it was trained on.

    Positions are divided by ``ceil(length / max_position_embeddings)`` (arXiv 2306.15595), and the configuration says
    so from then on: a saved model loads with them.

    Returns:
        The divisor; 1 where nothing had to change.

    Raises:
        InputError: the model has no plain rotary positions.
    """
    config: Any = getattr(model, "config", None)
    rotary = [
        path for path, module in model.named_modules() if hasattr(module, "inv_freq") and hasattr(module, "config")
    ]
    parameters = getattr(config, "rope_parameters", None)
    if not rotary or not isinstance(parameters, dict):
        raise InputError(f"{type(model).__name__} has no rotary positions to squeeze")
    if parameters.get("rope_type", "default") != "default":
        raise InputError(f"the positions of this model are scaled already, by '{parameters['rope_type']}'")
    factor = math.ceil(length / config.max_position_embeddings)
    if factor == 1:
        return 1
    config.rope_parameters = {**parameters, "rope_type": "linear", "factor": float(factor)}
    config.max_position_embeddings = length
    for path in rotary:
        parent, _, name = path.rpartition(".")
        old: Any = model.get_submodule(path)
        setattr(model.get_submodule(parent), name, type(old)(config).to(old.inv_freq.device))
    return factor


def lora_sinklora(
    model: nn.Module,
    *,
    length: int | None = None,
    attention: str = "sink-shifted",
    rank: int = 8,
    alpha: float = 16.0,
    **options: Any,
) -> Any:
    """Ready a model for SinkLoRA (arXiv 2406.05678): shifted groups in training, adapters, squeezed positions.

    Attention is swapped for groups with sinks (``attention="shifted"`` is LongLoRA's S2-Attn), which hold in training
    only: in ``eval`` mode the layers are full attention, on the same weights, and after :func:`harken.bridge.restore`
    the model's own. Trained are LoRA adapters on the projections to queries, keys, values and output, without dropout
    or biases, and, as in LongLoRA, all norms and embeddings.

    Args:
        model: of ``transformers``; changed in place.
        length: positions to train on, which the rotary ones are squeezed to fit; as they are when None.
        attention: ``sink-shifted`` or ``shifted``, perhaps with options.
        rank, alpha: of the adapters.
        **options: of the mechanism, such as ``group_size``; a quarter of the length when it is not given.

    Returns:
        A ``peft`` model; ``save_pretrained`` saves adapters, norms and embeddings.

    Raises:
        MissingExtraError: ``transformers`` or ``peft`` is not installed.
        InputError: the model has no rotary positions to squeeze.
    """
    check_transformers()
    if find_spec("peft") is None:
        raise MissingExtraError("peft", extra="text")
    from peft import LoraConfig, get_peft_model

    if length is not None:
        interpolate_positions(model, length)
    _, report = swap(model, attention, **options)
    tied = bool(getattr(getattr(model, "config", None), "tie_word_embeddings", False))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        bias="none",
        target_modules=[f"{layer.path}.{name}" for layer in report.layers for name in layer.kept],
        modules_to_save=[path for path, module in model.named_modules() if _is_norm_or_embedding(module)],
        ensure_weight_tying=tied,
    )
    return get_peft_model(model, config)


def _is_norm_or_embedding(module: nn.Module) -> bool:
    own = any(True for _ in module.parameters(recurse=False))
    return own and (isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower())


def distill_sea(
    teacher: nn.Module,
    student: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    learning_rate: float = 1e-5,
    hidden_weight: float = 5.0,
    logits_weight: float = 0.2,
    task_weight: float = 0.1,
) -> list[float]:
    """Train a student with SEA on what its softmax teacher attends to, layer by layer (arXiv 2310.01777).

    The loss of a batch is the mean over layers of :meth:`~harken.attention.sea.SeaAttention.distillation` (estimate and
    scores against the teacher's attention, mixed values against the teacher's), and, weighted, the mean squared
    difference of hidden states over layers, the divergence of the logits, and the student's own loss where the batches
    have ``labels``. Weights and rates are those of the authors' OPT runs (BERT: 10, 0.1, 0.1). It compares whole
    matrices, so training is quadratic in length; what it trains is not.

    Args:
        teacher: the model as it was; left as it is.
        student: a copy, with SEA swapped into some or all layers; trained in place and left in ``eval`` mode.
        batches: what ``model(**batch)`` takes.
        optimizer: AdamW when None, with ``10 learning_rate`` for what is new and ``0.2 learning_rate`` for the rest.
        learning_rate: for that optimiser.
        hidden_weight, logits_weight, task_weight: of the terms beyond attention.

    Returns:
        The loss of each batch.

    Raises:
        InputError: the student has no SEA layers, or its teacher other ones.
    """
    layers = {
        path: layer for path, layer in swapped_layers(student).items() if isinstance(layer.attention, SeaAttention)
    }
    if not layers:
        raise InputError("the student has no layers with SEA: student, _ = swap(copy.deepcopy(teacher), 'sea')")
    if missing := layers.keys() - {host.path for host in find_hosts(teacher)}:
        raise InputError(
            f"the teacher has no attention at {min(missing)}: pass the model that the student was copied from"
        )
    if optimizer is None:
        optimizer = _optimizer(student, layers.values(), learning_rate)
    inner: Any = teacher
    used, training = inner.config._attn_implementation, teacher.training
    register("softmax")
    inner.set_attn_implementation("harken-softmax")
    teacher.eval()
    student.train()
    losses = []
    try:
        for batch in batches:
            loss = _sea_loss(teacher, student, layers, batch, (hidden_weight, logits_weight, task_weight))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    finally:
        inner.set_attn_implementation(used)
        teacher.train(training)
        student.eval()
        for layer in layers.values():
            _set_lesson(layer.attention, None)
    return losses


def _optimizer(student: nn.Module, layers: Iterable[nn.Module], rate: float) -> torch.optim.Optimizer:
    new = {id(parameter) for layer in layers for parameter in layer.get_submodule("attention").parameters()}
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if id(parameter) in new], "lr": 10 * rate},
        {"params": [parameter for parameter in trained if id(parameter) not in new], "lr": 0.2 * rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=1e-2)


def _sea_loss(
    teacher: nn.Module,
    student: nn.Module,
    layers: Mapping[str, nn.Module],
    batch: Mapping[str, Tensor],
    weights: tuple[float, float, float],
) -> Tensor:
    asked: dict[str, Any] = {"output_hidden_states": True}
    if any(host.causal for host in find_hosts(teacher)):
        asked["use_cache"] = False
    with torch.no_grad(), observe(teacher, "scores", "context") as taught:
        theirs = teacher(**{name: part for name, part in batch.items() if name != "labels"}, **asked)
    scores, contexts = taught["scores"], taught["context"]
    for path, layer in layers.items():
        _set_lesson(layer.get_submodule("attention"), Lesson(scores[path], contexts[path]))
    with observe(student, "loss") as seen:
        ours = student(**batch, **asked)
    hidden_weight, logits_weight, task_weight = weights
    loss = torch.as_tensor(seen.total("loss")) / len(layers)
    real = batch.get("attention_mask")
    if real is not None:
        real = real.bool()
    pairs = list(zip(ours.hidden_states, theirs.hidden_states, strict=True))
    for own, given in pairs:
        rows = slice(None) if real is None or real.shape != own.shape[:2] else real
        loss = loss + hidden_weight * F.mse_loss(own[rows], given[rows]) / len(pairs)
    rows = slice(None) if real is None or real.shape != ours.logits.shape[:2] else real
    own, given = (part.logits[rows].flatten(0, -2).log_softmax(-1) for part in (ours, theirs))
    loss = loss + logits_weight * F.kl_div(own, given, reduction="batchmean", log_target=True)
    if ours.loss is not None:
        loss = loss + task_weight * ours.loss
    return loss


def _set_lesson(attention: nn.Module, lesson: Lesson | None) -> None:
    assert isinstance(attention, SeaAttention)
    attention.lesson = lesson
