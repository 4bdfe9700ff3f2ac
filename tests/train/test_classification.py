"""The recipe of image classifiers: every image comes by, moved but recognisable, and what is learned is judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.data.digits import LabelledImages
from harken.data.images import ImageSet, Labels
from harken.errors import InputError
from harken.models.see.vit import ViT, ViTConfig
from harken.train.classification import Augmentation, AugmentedImages, ClassificationRecipe, class_scores
from harken.train.loop import LoopConfig, train

CONFIG = ViTConfig(image_size=4, patch_size=2, channels=1, classes=2, dim=8, layers=1, heads=2, expansion=1.0)


def bright_or_dark(count: int) -> LabelledImages:
    labels = torch.arange(count) % 2
    images = torch.randint(0, 60, (count, 1, 4, 4), generator=torch.Generator().manual_seed(count))
    return LabelledImages((images + 190 * labels[:, None, None, None]).to(torch.uint8), labels)


@pytest.fixture
def data():
    return ImageSet(Labels(("dark", "bright"), 4, channels=1), bright_or_dark(10), bright_or_dark(8))


def test_every_round_shows_every_image_once_in_another_order(data):
    items = AugmentedImages(data.train, Augmentation(shift=0.0), items=20, seed=1)
    rounds = [[float(items[i][0][0, 0, 0]) for i in range(start, start + 10)] for start in (0, 10)]
    assert sorted(rounds[0]) == sorted(rounds[1])
    assert rounds[0] != rounds[1]
    again = AugmentedImages(data.train, Augmentation(shift=0.0), items=20, seed=1)
    assert [float(again[i][0][0, 0, 0]) for i in range(10)] == rounds[0]


def test_without_augmentation_an_image_stays_as_it_is():
    image = torch.randn(1, 6, 6)
    assert torch.equal(Augmentation(shift=0.0)(image, np.random.default_rng(0)), image)


def test_a_flip_mirrors_left_and_right_and_nothing_else():
    image = torch.randn(2, 6, 6)
    moved = [Augmentation(shift=0.0, flip=True)(image, np.random.default_rng(seed)) for seed in range(12)]
    flipped = [not torch.equal(one, image) for one in moved]
    assert 0 < sum(flipped) < 12
    for one, is_flipped in zip(moved, flipped, strict=True):
        torch.testing.assert_close(one, image.flip(2) if is_flipped else image, atol=1e-5, rtol=1e-5)


def test_a_shift_moves_by_its_share_at_most_and_repeats_the_edge():
    ramp = torch.arange(20.0).expand(1, 20, 20)
    for seed in range(10):
        moved = Augmentation(shift=0.1)(ramp, np.random.default_rng(seed)) - ramp
        assert float(moved.abs().max()) <= 2 + 1e-3
        torch.testing.assert_close(moved[0, :, 5:15], moved[0, :1, 5:6].expand(20, 10), atol=1e-4, rtol=0)


def test_a_crop_enlarges_and_stays_inside():
    ramp = torch.arange(20.0).expand(1, 20, 20)
    for seed in range(10):
        row = Augmentation(shift=0.0, crop=0.5)(ramp, np.random.default_rng(seed))[0, 3]
        step = float(row[10] - row[9])
        assert 0.5 <= step <= 1
        assert row.min() >= 0
        assert row.max() <= 19
        torch.testing.assert_close(row.diff(), torch.full((19,), step), atol=0.3, rtol=0)


def test_a_turn_turns():
    image = torch.zeros(1, 9, 9)
    image[0, 4, 7:] = 1  # to the right of the middle
    moved = torch.stack([Augmentation(shift=0.0, turn=90)(image, np.random.default_rng(s)) for s in range(8)])
    assert moved[:, 0, 4, :3].max() == 0  # not by more than a quarter
    assert moved[:, 0, :3].max() > 0.5 or moved[:, 0, 6:].max() > 0.5


@pytest.mark.parametrize("wrong", [{"shift": -0.1}, {"crop": 0.0}, {"turn": 200.0}])
def test_augmentations_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="expected shift in"):
        Augmentation(**wrong)


def test_it_learns_and_judges_each_class(data, tmp_path):
    torch.manual_seed(0)
    recipe = ClassificationRecipe(ViT(CONFIG), data, augmentation=Augmentation(shift=0.0))
    loop = LoopConfig(steps=40, batch_size=5, lr=1e-2, warmup=1, ema=0.5, validate_every=20, save_every=40)
    best = train(recipe, loop, tmp_path, device="cpu")
    assert best["accuracy"] == 1.0
    scores = class_scores(ViT.from_pretrained(tmp_path / "best"), data.held_out, data.labels.names)
    assert [(score.name, score.images, score.recall, score.precision) for score in scores] == [
        ("dark", 4, 1.0, 1.0),
        ("bright", 4, 1.0, 1.0),
    ]


def test_scores_of_a_model_that_names_everything_alike(data):
    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor([1.0, 0.0]))

        def forward(self, image):
            return self.logits.expand(len(image), -1)

    scores = class_scores(One(), data.held_out, data.labels.names)
    assert [(score.recall, score.precision) for score in scores] == [(1.0, 0.5), (0.0, 0.0)]


def test_a_run_does_not_go_on_with_other_classes(data):
    torch.manual_seed(0)
    recipe = ClassificationRecipe(ViT(CONFIG), data)
    assert recipe.settings()["labels"]["names"] == ("dark", "bright")
    with pytest.raises(InputError, match="tells 2 classes, the data has 3"):
        ClassificationRecipe(ViT(CONFIG), ImageSet(Labels(("a", "b", "c"), 4, 1), data.train, data.held_out))
