"""TransNormerLLM: the authors' tensors, both kinds of their weights, and decoding from a state that does not grow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harken.errors import CheckpointError, InputError
from harken.models.write.generation import generate
from harken.models.write.transnormer import TransNormer, TransNormerConfig
from harken.papers.parity import check_parity, load_case

CASE = Path(__file__).parents[2] / "parity/lightning-attention"
TINY = TransNormerConfig(vocabulary=11, dim=8, layers=2, heads=2, glu_dim=12, tied=True, chunk_size=4)


def test_the_authors_tensors() -> None:
    report = check_parity(CASE)
    assert report.passed, [tensor for tensor in report.tensors if not tensor.passed]
    assert report.not_compared == ("tokens",)


def test_tokens_in_pieces_equal_tokens_at_once() -> None:
    model, tokens = TransNormer(TINY).eval(), torch.arange(22).view(2, 11) % 11
    state, parts = model.init_state(2), []
    for part in tokens.split([6, 1, 1, 3], 1):
        logits, state = model.step(part, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=1e-5, rtol=1e-4)


def test_two_streams_through_one_model_do_not_meet() -> None:
    """The authors keep the position of a stream on the module; here it is in the state."""
    model, tokens = TransNormer(TINY).eval(), torch.arange(10)[None]
    alone, _ = model.step(tokens[:, 5:], model.step(tokens[:, :5], model.init_state(1))[1])
    _, state = model.step(tokens[:, :5], model.init_state(1))
    model.step(tokens[:, :3], model.init_state(1))
    assert torch.equal(model.step(tokens[:, 5:], state)[0], alone)


def test_it_generates_from_a_state_of_constant_size() -> None:
    model, prompt = TransNormer(TINY).eval(), torch.tensor([[1, 2, 3]])
    tokens = torch.stack(list(generate(model, prompt, 5, temperature=0.0)), 1)
    whole = prompt
    for _ in range(5):
        whole = torch.cat((whole, model(whole)[:, -1:].argmax(-1)), 1)
    assert torch.equal(tokens, whole[:, 3:])


def test_left_padding_changes_nothing() -> None:
    model, tokens = TransNormer(replace(TINY, lrpe_layers=())).eval(), torch.tensor([[1, 2, 3, 4, 5]])
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), tokens), 1)
    logits = model(padded, mask=torch.arange(8)[None] >= 3)
    torch.testing.assert_close(logits[:, 3:], model(tokens), atol=1e-5, rtol=1e-4)


def test_sizes_are_read_from_the_weights_of_either_kind() -> None:
    theirs = load_case(CASE).weights
    compact = TransNormer.from_authors(theirs)
    assert (compact.config.layers, compact.config.heads, compact.config.glu_dim) == (3, 2, 32)
    released = {
        name.replace("transnormer.wte", "model.embed_tokens").replace("transnormer.h", "model.layers"): tensor
        for name, tensor in theirs.items()
    } | {"lm_head.weight": torch.randn(61, 16)}
    model = TransNormer.from_authors(released)
    assert model.config == replace(compact.config, tied=False, scaled_embedding=True)
    assert torch.equal(model.blocks[1].glu.out_proj.weight, theirs["transnormer.h.1.channel_mixer.l3.weight"])


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"x": torch.zeros(1)},
        {"transnormer.wte.weight": 3},
        {"transnormer.wte.weight": torch.ones(3, 5), "transnormer.h.9999.token_mixer.out_proj.weight": torch.ones(1)},
    ],
)
def test_foreign_weights_are_refused_in_one_line(state: dict) -> None:
    with pytest.raises(CheckpointError) as refusal:
        TransNormer.from_authors(state)
    assert "\n" not in str(refusal.value)


def test_it_learns_to_repeat() -> None:
    model, tokens = TransNormer(TINY), torch.arange(32).view(1, 32) % 7
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(InputError, match="lrpe_layers"):
        replace(TINY, lrpe_layers=(2,))
    with pytest.raises(InputError, match="must be positive"):
        replace(TINY, vocabulary=0)
