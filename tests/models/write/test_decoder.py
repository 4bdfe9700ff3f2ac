"""The decoder language model: causal, streaming, any mechanism in any layer."""

from dataclasses import replace

import pytest
import torch

from harken.attention import select_state
from harken.errors import InputError
from harken.models.write.decoder import Decoder, DecoderConfig
from harken.models.write.generation import generate, sample

TINY = DecoderConfig(vocabulary=11, dim=16, layers=3, heads=2)


def decoder(**changes: object) -> Decoder:
    torch.manual_seed(0)
    return Decoder(replace(TINY, **changes)).eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": ("linear:chunk_size=4", "softmax")},
        {"norm": "rms", "ffn": "swiglu", "tied": False},
        {"norm": "simple-rms", "ffn": "none", "positions": "learned", "longest": 20},
        {"positions": "none", "attention": ("linear",)},
    ],
)
def test_a_stream_in_any_cuts_equals_the_whole(changes):
    model, text = decoder(**changes), tokens(2, 13)
    state, parts = model.init_state(2), []
    for part in text.split([5, 1, 1, 6], 1):
        logits, state = model.step(part, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), model(text), atol=1e-5, rtol=1e-4)


def test_the_future_does_not_exist():
    model, text = decoder(), tokens(1, 9)
    changed = text.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    torch.testing.assert_close(model(changed)[:, :5], model(text)[:, :5])


def test_mechanisms_take_turns_through_the_layers():
    model = decoder(attention=("linear", "softmax"))
    assert [block.attention.name for block in model.blocks] == ["linear", "softmax", "linear"]


def test_beams_can_be_chosen_in_the_middle():
    model, text, chosen = decoder(), tokens(3, 8), torch.tensor([2, 0])
    _, state = model.step(text[:, :5], model.init_state(3))
    logits, _ = model.step(text[chosen, 5:], select_state(state, chosen))
    torch.testing.assert_close(logits, model(text[chosen])[:, 5:], atol=1e-5, rtol=1e-4)


def test_greedy_tokens_are_the_likeliest_of_the_whole_model():
    model, text = decoder(), tokens(2, 4)
    made = torch.stack(list(generate(model, text, 5, temperature=0.0)), 1)
    for i in range(5):
        whole = torch.cat((text, made[:, :i]), 1)
        assert torch.equal(model(whole)[:, -1].argmax(-1), made[:, i])


def test_top_k_and_top_p_leave_the_unlikely_out():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(400, -1)
    drawn = {
        name: set(sample(logits, generator=torch.Generator().manual_seed(0), **settings).tolist())
        for name, settings in {"k": {"top_k": 2}, "p": {"top_p": 0.7}, "tiny": {"top_p": 0.01}, "all": {}}.items()
    }
    assert drawn == {"k": {0, 1}, "p": {0, 1}, "tiny": {0}, "all": {0, 1, 2, 3}}


def test_a_generator_decides_what_is_drawn():
    model, text = decoder(), tokens(1, 3)
    one, other, third = (
        torch.cat(list(generate(model, text, 12, generator=torch.Generator().manual_seed(seed)))) for seed in (1, 1, 2)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_tied_weights_are_one_matrix():
    assert decoder().head is None
    untied = decoder(tied=False)
    assert untied.head.weight.shape == untied.embedding.weight.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": ()}, "expected 1 to 3 mechanisms"),
        ({"attention": ("softmax",) * 4}, "expected 1 to 3 mechanisms"),
        ({"attention": ("nope",)}, "no attention mechanism named 'nope'"),
        ({"attention": ("softmax:window",)}, "expected options such as"),
        ({"positions": "none", "heads": 3}, "multiple of heads=3"),
        ({"norm": "batch"}, "norm must be layer, rms or simple-rms"),
        ({"ffn": "relu"}, "ffn must be gelu, swiglu or none"),
    ],
)
@pytest.mark.border
def test_what_cannot_be_is_one_line(changes, message):
    with pytest.raises(InputError, match=message):
        decoder(**changes)


def test_a_learned_table_ends_with_a_word():
    with pytest.raises(InputError, match="21 tokens are more than the 20 positions"):
        decoder(positions="learned", longest=20)(tokens(1, 21))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": -1.0}, "temperature"), ({"top_k": 0}, "top_k"), ({"top_p": 0.0}, "top_p")],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        next(generate(decoder(), tokens(1, 2), 3, **settings))


def test_an_empty_prompt_is_refused():
    with pytest.raises(InputError, match="at least one token"):
        next(generate(decoder(), tokens(1, 0), 3))
