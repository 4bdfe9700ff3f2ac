"""Tiny randomly built models of the four families."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

VOCABULARY, DIM, LAYERS, HEADS = 50, 32, 2, 4


def llama(layers: int = LAYERS, kv_heads: int = 2, **options) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIM,
        intermediate_size=2 * DIM,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        **options,
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=64,
        initializer_range=0.3,
        scale_attn_by_inverse_layer_idx=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIM,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * DIM,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return BertForMaskedLM(config).eval()


def vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=DIM,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * DIM,
        image_size=12,
        patch_size=4,
        num_labels=3,
        initializer_range=0.3,
    )
    return ViTForImageClassification(config).eval()


FAMILIES = {"llama": llama, "gpt2": gpt2, "bert": bert, "vit": vit}


def sample(family: str, time: int = 12) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs with padding where the family knows it (on the left of decoders), and which positions are real."""
    generator = torch.Generator().manual_seed(1)
    if family == "vit":
        images = torch.randn(2, 3, 12, 12, generator=generator)
        return {"pixel_values": images}, torch.ones(2, dtype=torch.bool)
    tokens = torch.randint(3, VOCABULARY, (2, time), generator=generator)
    real = torch.ones(2, time, dtype=torch.bool)
    if family == "bert":
        real[1, -4:] = False
    else:
        real[1, :4] = False
    inputs = {"input_ids": tokens.masked_fill(~real, 0), "attention_mask": real.long()}
    if family != "bert":
        inputs["position_ids"] = (real.long().cumsum(-1) - 1).clamp_min(0)
    return inputs, real


def logits(model: PreTrainedModel, inputs: dict[str, Tensor], **options) -> Tensor:
    with torch.no_grad():
        return model(**inputs, **options).logits


def greedy(model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int = 4, **options) -> Tensor:
    """What the model generates behind the prompt."""
    given = {name: value for name, value in inputs.items() if name != "position_ids"}
    return model.generate(**given, max_new_tokens=tokens, do_sample=False, **options)


def by_hand(model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int = 4) -> Tensor:
    """The same with a whole forward pass for every token, and no cache."""
    ids, real = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(tokens):
        places = (real.cumsum(-1) - 1).clamp_min(0)
        given = {"input_ids": ids, "attention_mask": real, "position_ids": places}
        best = logits(model, given, use_cache=False)[:, -1].argmax(-1, keepdim=True)
        ids, real = torch.cat((ids, best), 1), torch.cat((real, torch.ones_like(best)), 1)
    return ids
