"""Look Once to Hear: a stream is the whole, nothing ahead is heard, and a state is all there is to know."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harken.errors import CheckpointError, InputError
from harken.models.separate.filterbank import ShortFilterbank
from harken.models.separate.look_once import LookOnceConfig, LookOnceToHear
from harken.models.separate.look_once_stream import PackedBiLSTM, RealTimeStep

TINY = LookOnceConfig(embedding_dim=8, hop_length=16, look_ahead=8, channels=8, blocks=2, hidden=6, heads=2, memory=5)
VARIANTS = [
    {},
    {"synthesis": "authors", "masked_start": False},
    {"output": "mask", "stride": 2},
    {"blocks": 3, "heads": 4, "memory": 1},
    {"look_ahead": 16},
]


def build(**changes):
    torch.manual_seed(0)
    return LookOnceToHear(replace(TINY, **changes)).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pushed(model, x, embedding, sizes, **options):
    stream, made, at, turn = model.stream(embedding, batch=len(x), **options), [], 0, 0
    while at < x.shape[-1]:
        made.append(stream.push(x[..., at : at + sizes[turn % len(sizes)]]))
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return torch.cat((*made, stream.flush()), -1)


def test_the_papers_size():
    with torch.device("meta"):
        model = LookOnceToHear(LookOnceConfig.paper())
        state = model.initial_state()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(2.04, abs=0.01)
    sizes = [t.numel() for t in (*state[:3], *(part for block in state.blocks for part in block))]
    assert sum(sizes) / 1e6 == pytest.approx(1.31, abs=0.01)
    assert model.latency == 192


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize(("sizes", "real_time"), [((5, 40), True), ((5, 40), False)])
def test_a_stream_in_any_pieces_is_the_whole(changes, sizes, real_time):
    model, x, e = build(**changes), noise(1, 2, 203), noise(1, 8)
    with torch.inference_mode():
        whole = model(x, e)
        torch.testing.assert_close(pushed(model, x, e, sizes, real_time=real_time), whole, atol=1e-5, rtol=1e-4)
    assert whole.abs().max() > 0.01


def test_long_streams_go_around_their_rings():
    model, x, e = build(), noise(1, 2, 16 * 22), noise(1, 8)
    with torch.inference_mode():
        torch.testing.assert_close(pushed(model, x, e, (16,)), model(x, e), atol=1e-5, rtol=1e-4)


def test_several_streams_side_by_side():
    model, x, e = build(), noise(3, 2, 200), noise(3, 8)
    with torch.inference_mode():
        torch.testing.assert_close(pushed(model, x, e, (50,)), model(x, e), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS)
def test_nothing_after_the_look_ahead_is_heard(changes):
    model, e = build(**changes), noise(1, 8)
    x, changed = noise(1, 2, 320), noise(1, 2, 320)
    edge = 10 * 16 + model.config.look_ahead
    changed[..., edge:] += 1
    with torch.inference_mode():
        assert torch.equal(model(x, e)[..., : 10 * 16], model(changed, e)[..., : 10 * 16])
        assert not torch.allclose(model(x, e)[..., 10 * 16 :], model(changed, e)[..., 10 * 16 :])


def test_only_the_last_frames_are_attended_to():
    model = build().double()
    attention = model.blocks[0].attention
    x, changed = (noise(1, 20, 13, 8).double() for _ in range(2))
    changed[:, 7] += 1
    empty = model.blocks[0].initial_state(1)
    first, other = (attention(y, empty.keys, empty.values, torch.zeros(1, dtype=torch.int64))[0] for y in (x, changed))
    assert (first - other).abs().amax((0, 2, 3)).nonzero().flatten().tolist() == list(range(7, 7 + TINY.memory))


def test_a_state_can_branch_and_go_on():
    model, e, x = build(), noise(1, 8), noise(1, 2, 16 * 9)
    stream = model.stream(e)
    stream.push(x[..., : 16 * 4 + 8])
    kept = stream.state
    first = stream.push(x[..., 16 * 4 + 8 :])
    again = model.stream(e)
    again.push(noise(1, 2, 8))  # the look-ahead waits outside the state
    again._held = x[..., 16 * 4 : 16 * 4 + 8].clone()
    again.state = kept
    torch.testing.assert_close(again.push(x[..., 16 * 4 + 8 :]), first)
    with torch.inference_mode():
        plain, _ = model.step(x[..., 16 * 4 : 16 * 8 + 8], model.talker_scale(e), kept)
    torch.testing.assert_close(plain, first, atol=1e-5, rtol=1e-4)


def test_a_step_leaves_the_state_it_was_given():
    model, scale = build(), build().talker_scale(noise(2, 8))
    state = model.initial_state(2)
    before = state.clone()
    _, after = model.step(noise(2, 2, 24), scale, state)
    for old, kept in zip(before.blocks, state.blocks, strict=True):
        assert all(map(torch.equal, old, kept))
    assert after.frames.tolist() == [1, 1] and state.frames.tolist() == [0, 0]


def test_a_row_of_a_state_goes_on_alone():
    model, x = build(), noise(2, 2, 24 + 16)
    scale = model.talker_scale(noise(2, 8))
    with torch.inference_mode():
        _, state = model.step(x[..., :24], scale, model.initial_state(2))
        both, _ = model.step(x[..., 16:], scale, state)
        alone, _ = model.step(x[1:, :, 16:], scale[1:], state.map(lambda tensor: tensor[1:]))
    torch.testing.assert_close(alone, both[1:], atol=1e-6, rtol=1e-5)


def test_a_row_of_a_batch_is_the_row_alone():
    model, x, e = build(), noise(3, 2, 100), noise(3, 8)
    with torch.inference_mode():
        torch.testing.assert_close(model(x[1:2], e[1:2]), model(x, e)[1:2], atol=1e-5, rtol=1e-4)


def test_frames_that_never_were_can_be_attended_to_as_the_authors_do():
    x, e = noise(1, 2, 400), noise(1, 8)
    masked, unmasked = (build(masked_start=m)(x, e) for m in (True, False))
    assert not torch.allclose(masked[..., :64], unmasked[..., :64], atol=1e-4)


def test_who_is_wanted_changes_what_is_kept():
    model, x = build(), noise(1, 2, 200)
    assert not torch.allclose(model(x, noise(1, 8)), model(x, noise(1, 8, seed=1)), atol=1e-3)


def test_silence_gives_bounded_sound_and_gradients():
    model = build().train()
    made = model(torch.zeros(1, 2, 160), noise(1, 8))
    made.square().sum().backward()
    assert made.abs().max() < 10
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("hop", "ahead"), [(128, 64), (16, 8), (32, 32), (20, 2)])
def test_the_dual_window_reconstructs_exactly(hop, ahead):
    x = noise(1, 2, 20 * hop + ahead)
    bank = ShortFilterbank(hop, ahead)
    made = bank.synthesise(bank.analyse(x), x.new_zeros(1, 2, hop + ahead + 2))
    torch.testing.assert_close(made[..., ahead:], x[..., ahead : 20 * hop], atol=1e-4, rtol=0)


def test_the_authors_filterbank_ripples_by_a_third():
    bank = ShortFilterbank(128, 64, "authors")
    made = bank.synthesise(bank.analyse(torch.ones(1, 1, 20 * 128 + 64)), torch.zeros(1, 1, 194))[..., 128:]
    assert (made.min().item(), made.max().item()) == pytest.approx((2 / 3, 4 / 3), abs=1e-3)


def test_the_packed_lstm_is_the_lstm():
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(5, 6, batch_first=True, bidirectional=True).requires_grad_(False)
    x = noise(9, 5)
    with torch.inference_mode():
        packed = PackedBiLSTM(lstm, 9)
        torch.testing.assert_close(torch.cat(packed(x), -1), lstm(x[None])[0][0], atol=1e-6, rtol=1e-5)
        packed.packed = None  # where oneDNN is not there
        torch.testing.assert_close(torch.cat(packed(x), -1), lstm(x[None])[0][0])


def test_training_and_hooks_take_the_plain_form():
    model = build()
    assert model.stream(noise(8))._fast is not None
    seen = []
    handle = model.blocks[0].attention.register_forward_hook(lambda *call: seen.append(1))
    stream = model.stream(noise(8))
    stream.push(noise(1, 2, 24))
    handle.remove()
    assert stream._fast is None and seen


def test_the_quick_step_says_where_it_is():
    model = build()
    with torch.inference_mode():
        quick = RealTimeStep(model, model.talker_scale(noise(1, 8)))
        quick(noise(1, 2, 24))
    assert quick.state.frames.tolist() == [1]
    assert quick.state.blocks[0].keys.shape == model.initial_state().blocks[0].keys.shape


def test_saving_and_loading(tmp_path):
    (tmp_path / "README.md").write_text("a card")
    model = build(output="mask", stride=2)
    model.save_pretrained(tmp_path)
    x, e = noise(1, 2, 100), noise(1, 8)
    torch.testing.assert_close(LookOnceToHear.from_pretrained(tmp_path)(x, e), model(x, e))


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": 1},
        {"look_ahead": 17},
        {"look_ahead": 7},
        {"look_ahead": 0},
        {"heads": 3},
        {"channels": 0},
        {"stride": 5},
        {"hidden": 0},
    ],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(InputError):
        replace(TINY, **wrong)


@pytest.mark.border
def test_misuse_is_told():
    model = build()
    with pytest.raises(InputError, match="whom to keep"):
        model.stream()
    with pytest.raises(InputError, match="embeddings of 8 numbers, got 9"):
        model.stream(noise(9))
    with pytest.raises(InputError, match="one embedding or 2"):
        model.stream(noise(3, 8), batch=2)
    with pytest.raises(InputError, match="expected \\(batch, ears, samples\\)"):
        model.stream(noise(8)).push(noise(1, 3, 16))
    with pytest.raises(InputError, match="16 n"):
        model.step(noise(1, 2, 25), model.talker_scale(noise(8)), model.initial_state())


@pytest.mark.parametrize("state", [{}, {"a.embed_to_feats_proj.0.weight": torch.zeros(3)}, {"state_dict": 3}])
def test_other_weights_are_refused(state):
    with pytest.raises(CheckpointError):
        LookOnceToHear.from_authors(state)
