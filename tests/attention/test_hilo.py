"""HiLo against its description token by token, and what each group of heads can and cannot see."""

from __future__ import annotations

import pytest
import torch

from harken.attention._base import squarest_grid
from harken.attention.hilo import HiLoAttention, _reference
from harken.attention.softmax import SoftmaxAttention
from harken.errors import CheckpointError, InputError


def layer(**options: object) -> HiLoAttention:
    torch.manual_seed(0)
    return HiLoAttention(16, 4, **options).double()


def tokens(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, height * width, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("side", "grid"), [(2, (4, 6)), (2, (3, 5)), (3, (4, 5)), (1, (2, 3)), (4, (1, 3))])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_description(alpha, side, grid, masked):
    attention, x = layer(window_size=side, alpha=alpha), tokens(*grid)
    mask = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(2)) > 0.4 if masked else None
    ours, plain = attention(x, mask=mask, grid=grid), _reference(attention, x, grid, mask)
    where = slice(None) if mask is None else mask
    torch.testing.assert_close(ours[where], plain[where])


def test_the_matrix_applied_to_the_values_is_the_output():
    attention, x, grid = layer(alpha=1.0), tokens(3, 5), (3, 5)
    mask = torch.arange(15) < torch.tensor([[15], [11]])
    values = attention.low_kv(x)[..., 16:].unflatten(-1, (4, 4)).transpose(1, 2)
    mixed = attention.weights(x, mask=mask, grid=grid) @ values
    y = attention.low_proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(y[mask], attention(x, mask=mask, grid=grid)[mask])


def test_windows_of_one_token_are_plain_attention():
    attention, plain, x = layer(window_size=1, alpha=0.3), SoftmaxAttention(16, 4).double(), tokens(3, 4)
    state = attention.state_dict()
    plain.load_state_dict(
        {
            f"in_proj.{part}": torch.cat((state[f"in_proj.{part}"], state[f"low_kv.{part}"]))
            for part in ("weight", "bias")
        }
        | {f"out_proj.{part}": state[f"low_proj.{part}"] for part in ("weight", "bias")}
    )
    torch.testing.assert_close(attention(x, grid=(3, 4)), plain(x))


def test_without_low_heads_a_window_sees_only_itself():
    attention, x = layer(alpha=0.0), tokens(4, 4, batch=1)
    changed = x.clone()
    changed[0, 0] += 1
    moved = (attention(changed, grid=(4, 4)) - attention(x, grid=(4, 4))).abs().amax(-1)[0]
    assert moved.nonzero().flatten().tolist() == [0, 1, 4, 5]


def test_on_constant_windows_low_heads_attend_to_the_small_map():
    attention, small = layer(alpha=1.0), tokens(2, 3)
    large = small.unflatten(1, (2, 3)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    plain = layer(alpha=1.0, window_size=1)
    plain.load_state_dict(attention.state_dict())
    y = attention(large.flatten(1, 2), grid=(4, 6)).unflatten(1, (4, 6))[:, ::2, ::2]
    torch.testing.assert_close(y.flatten(1, 2), plain(small, grid=(2, 3)))


def test_zero_padding_is_what_padding_by_hand_gives():
    attention, x = layer(zero_pad=True), tokens(3, 3)
    by_hand = torch.nn.functional.pad(x.unflatten(1, (3, 3)), (0, 0, 0, 1, 0, 1)).flatten(1, 2)
    y = attention(by_hand, grid=(4, 4)).unflatten(1, (4, 4))[:, :3, :3].flatten(1, 2)
    torch.testing.assert_close(attention(x, grid=(3, 3)), y)
    assert (attention(x, grid=(3, 3)) - layer()(x, grid=(3, 3))).abs().max() > 1e-3


@pytest.mark.parametrize(("dim", "alpha", "multiplications"), [(768, 0.9, 298_296_320), (384, 0.5, 83_467_776)])
def test_the_cost_is_the_papers(dim, alpha, multiplications):
    with torch.device("meta"):
        attention = HiLoAttention(dim, 12, alpha=alpha)
    assert attention.cost(1, 196).flops == 2 * multiplications


def test_a_share_that_floating_point_makes_a_little_less():
    assert HiLoAttention(20, 10, alpha=0.7).low_heads == 7  # 0.7 * 10 = 7.000..., 0.29 * 100 = 28.999...
    assert HiLoAttention(100, 100, alpha=0.29).low_heads == 29


def test_weights_of_another_layer_are_refused():
    with pytest.raises(CheckpointError, match="HiLo"):
        HiLoAttention.from_authors({"qkv.weight": torch.zeros(3, 3)}, heads=1)


@pytest.mark.border
@pytest.mark.parametrize("options", [{"window_size": 0}, {"alpha": 1.5}])
def test_options_out_of_range(options):
    with pytest.raises(InputError, match="window_size >= 1"):
        HiLoAttention(16, 4, **options)


@pytest.mark.border
def test_a_grid_that_is_not_the_tokens():
    with pytest.raises(InputError, match=r"grid=\(H, W\) with H \* W = 12"):
        layer()(tokens(3, 4), grid=(3, 5))


def test_the_squarest_grid():
    assert [squarest_grid(time) for time in (1, 50, 97)] == [(1, 1), (5, 10), (1, 97)]
