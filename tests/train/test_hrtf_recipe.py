"""The recipe of HRTFformer in the loop: items are what they say, the loss falls, and a stopped run goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.data.hrtf import read_hrirs, write_sofa
from harken.errors import CheckpointError, InputError
from harken.train.hrtf import (
    HRTFItems,
    HRTFRecipe,
    HRTFWeights,
    PairStatistics,
    content_loss,
    mirror_index,
    one_grid,
)
from harken.train.loop import LoopConfig, train
from tests.listeners import GRID, listener
from tests.models.test_hrtfformer import TINY
from tests.train.toy import weights

CONFIG = replace(TINY, conv_norm="batch")
LISTENERS, HELD_OUT = [listener(seed) for seed in range(6)], [listener(seed) for seed in (50, 51)]
ITEMS = HRTFItems(points=(3, 12), stretch=1.05, directions=30)
LOOP = LoopConfig(steps=4, batch_size=2, lr=3e-3, warmup=1, ema=0.9, validate_every=4, save_every=2)


def recipe(**options) -> HRTFRecipe:
    return HRTFRecipe(CONFIG, LISTENERS, HELD_OUT, **{"items": ITEMS, "judged_points": (5,), **options})


def test_it_begins_as_kriging_and_learns_its_listeners():
    made = recipe(items=HRTFItems((5, 5), 1.0, 0.0, False, len(GRID)))
    assert made.validate(made.model.eval())["lsd"] == pytest.approx(made.score_of("kriging")["lsd"], abs=2e-3)
    assert torch.equal(made.model.mean, made.listeners.mean_field)
    model, data = made.model.train(), made.dataset(8, 0)
    batch = [torch.stack(parts) for parts in zip(*(data[i] for i in range(8)), strict=True)]
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for step in range(25):
        terms = made.losses(made.generate(model, batch, step), step)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        losses.append(terms["sd"].item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_stopped_run_goes_on_exactly(tmp_path):
    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(), LOOP, tmp_path / "a", device="cpu", on_step=stop)
    train(recipe(), LOOP, tmp_path / "a", resume=True, device="cpu")
    train(recipe(), LOOP, tmp_path / "b", device="cpu")
    ours, theirs = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(CheckpointError, match=r"weights\.neighbours"):
        train(recipe(weights=HRTFWeights(neighbours=0.5)), LOOP, tmp_path / "a", resume=True, device="cpu")


def test_an_item_is_a_listener_around_the_mean_and_its_own_fit():
    made = recipe(items=HRTFItems(points=(4, 4), stretch=1.0, mix=0.0, mirror=False))
    coefficients, residual = made.dataset(10, 0)[3]
    fields = made.listeners.fields - made.listeners.mean_field
    nearest = (fields - residual).abs().amax((1, 2)).min()
    assert nearest < 0.05  # half precision
    index = made.data._points(np.random.default_rng(0))
    torch.testing.assert_close(
        coefficients, made.model.fit(made.directions[index]).coefficients(residual[index]), atol=1e-4, rtol=1e-4
    )


def test_an_item_depends_on_its_index_alone():
    made = recipe()
    one, other = made.dataset(10, 7)[5], made.dataset(10, 7)[5]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(made.dataset(10, 7)[6][1], one[1])


def test_a_mirrored_item_is_the_listener_with_ears_and_sides_exchanged():
    index = mirror_index(GRID)
    assert index is not None
    np.testing.assert_allclose((-GRID[:, 0]) % 360, GRID[index, 0], atol=1e-9)
    assert mirror_index(GRID + np.array([7.0, 0.0])) is None
    made = recipe(items=HRTFItems(points=(4, 4), stretch=1.0, mix=0.0))
    field, found = made.data.drawn[0, 0], set()
    for seed in range(200):
        drawn = made.data._draw(np.random.default_rng(seed))
        if np.array_equal(drawn, field):
            found.add("as it is")
        if np.array_equal(drawn, np.concatenate((field[index, 8:], field[index, :8]), -1)):
            found.add("mirrored")
    assert found == {"as it is", "mirrored"}


def test_frequency_is_stretched():
    made = recipe(items=HRTFItems(points=(3, 3), stretch=1.2, mirror=False))
    squeezed, middle, stretched = made.data.drawn[0, [0, 2, 4]].astype(np.float32)
    # what lies at 1.2 times a frequency comes down to it
    at, place = np.arange(1, 9), np.arange(1, 9) * 1.2
    inside = place <= 8
    wanted = np.stack([np.interp(place[inside], at, row[:8]) for row in middle])
    assert np.abs(wanted - stretched[:, :8][:, inside]).mean() < 0.5 * np.abs(middle - stretched)[:, :8].mean()
    assert np.abs(squeezed - stretched).mean() > 0


def test_the_content_loss_is_an_affine_map_of_both_distances():
    spread = PairStatistics(6.0, 0.5, 2.0, 0.25)
    at = [content_loss(torch.tensor(sd), torch.tensor(ild), spread) for sd, ild in ((6.0, 2.0), (7.0, 2.0), (6.0, 3.0))]
    size = (0.5**2 + 0.25**2) ** 0.5
    assert float(at[0]) == pytest.approx(8.0)
    assert float(at[1] - at[0]) == pytest.approx(size / 0.5, abs=1e-4)
    assert float(at[2] - at[0]) == pytest.approx(size / 0.25, abs=1e-4)


def test_the_neighbours_loss_equals_that_of_the_fields():
    from harken.score.hrtf import neighbour_dissimilarity

    made = recipe(items=replace(ITEMS, directions=len(GRID)))
    coefficients, wanted = torch.randn(2, 25, 16), torch.randn(2, len(GRID), 16)
    from harken.train.hrtf import Made

    terms = made.losses(Made(coefficients, wanted, torch.arange(len(GRID))), 0)
    direct = neighbour_dissimilarity(made.basis @ coefficients, wanted, made.neighbours)
    torch.testing.assert_close(terms["neighbours"], direct)
    without = recipe(weights=HRTFWeights(neighbours=0.0)).losses(Made(coefficients, wanted, torch.arange(5)), 0)
    assert "neighbours" not in without


def test_the_papers_way_learns_from_always_the_same_directions(tmp_path):
    paper = replace(CONFIG, directions=0, norm="token-scale")
    made = HRTFRecipe(paper, LISTENERS, HELD_OUT, items=HRTFItems((9, 9), 1.0, 0.0), judged_points=(9,))
    assert {tuple(made.data._points(np.random.default_rng(seed))) for seed in range(3)}.__len__() == 1
    assert train(made, LOOP, tmp_path, device="cpu")["lsd"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"listeners": [*LISTENERS[:1], listener(0, GRID[:-1])]}, "one grid"),
        ({"items": HRTFItems((3, 99))}, "99 points"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(options, message):
    listeners = options.pop("listeners", LISTENERS)
    with pytest.raises(InputError, match=message):
        HRTFRecipe(CONFIG, listeners, HELD_OUT, **options)
    with pytest.raises(InputError, match="no listeners"):
        one_grid([])


@pytest.mark.parametrize("wrong", [{"points": (5, 3)}, {"stretch": 0.5}, {"mix": 2.0}])
def test_impossible_items_are_refused(wrong):
    with pytest.raises(InputError):
        HRTFItems(**wrong)


def test_the_command_trains_what_upsample_takes(tmp_path, capsys):
    pytest.importorskip("sofar")
    for seed in range(4):
        write_sofa(tmp_path / f"{seed}.sofa", listener(seed))
    quick = ["--steps", "1", "--batch-size", "2", "--points", "3", "9", "--device", "cpu"]
    run = tmp_path / "run"
    train_it = ["train", "hrtfformer", "--listeners", str(tmp_path), "--held-out-every", "2", "--out", str(run), *quick]
    assert main(train_it) == 0
    said = capsys.readouterr().err
    assert "to beat, kriging: LSD" in said and f"harken hrtf upsample --weights {run / 'best'}" in said
    for method in ("hrtfformer", "kriging"):
        made = tmp_path / f"{method}.out.sofa"
        known = ["--points", "9", "--truth", "same", "--quiet"]
        assert (
            main(
                [
                    "hrtf",
                    "upsample",
                    str(tmp_path / "1.sofa"),
                    "-o",
                    str(made),
                    "--weights",
                    str(run / "last"),
                    "--method",
                    method,
                    *known,
                ]
            )
            == 0
        )
        assert len(read_hrirs(made)) == len(GRID)
    assert main([*train_it, "--preset", "other"]) == 2
    assert "--preset takes" in capsys.readouterr().err
