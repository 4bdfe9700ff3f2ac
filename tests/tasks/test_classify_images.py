"""Classifying image files: batches, what cannot be read, and what an answer rests on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from harken.data.images import Labels
from harken.errors import CheckpointError, InputError
from harken.models.see.vit import ViT, ViTConfig
from harken.tasks.classify_images import Classifier, draw_predictions


class Corner(nn.Module):
    """Says "bright" by the upper left corner alone."""

    def forward(self, images):
        brightness = images[:, :, :4, :4].mean((1, 2, 3))
        return torch.stack((-brightness, brightness), 1)


@pytest.fixture
def classifier():
    return Classifier(Corner(), Labels(("dark", "bright"), 16))  # type: ignore[arg-type]


def save(path, corner, rest=0):
    array = np.full((16, 16, 3), rest, np.uint8)
    array[:4, :4] = corner
    Image.fromarray(array).save(path)
    return path


def test_many_files_keep_their_order_and_the_broken_are_told(classifier, tmp_path):
    paths = [save(tmp_path / f"{i}.png", 255 * (i % 2)) for i in range(40)]
    paths[5].write_bytes(b"")
    predictions, problems = classifier.predict(paths, top=5)
    assert [p.path for p in predictions] == [str(path) for i, path in enumerate(paths) if i != 5]
    assert [p.classes[0][0] for p in predictions] == [("dark", "bright")[i % 2] for i in range(40) if i != 5]
    assert all(sum(share for _, share in p.classes) == pytest.approx(1) for p in predictions)
    assert len(problems) == 1
    assert "5.png" in problems[0]


def test_evidence_lies_where_the_model_looks(classifier, tmp_path):
    (prediction,), _ = classifier.predict([save(tmp_path / "a.png", 255)], top=1)
    evidence = classifier.evidence(prediction)
    assert evidence.shape == (16, 16)
    assert evidence[:4, :4].min() > 0.1
    assert evidence[8:, 8:].abs().max() < 1e-6


def test_a_picture_of_nothing_is_refused(classifier, tmp_path):
    with pytest.raises(InputError, match="nothing to draw"):
        draw_predictions(classifier, [], tmp_path / "a.png")


def test_no_class_at_all_is_refused(classifier):
    with pytest.raises(InputError, match="at least 1 class"):
        classifier.predict([], top=0)


def test_names_of_another_model_are_refused(tmp_path):
    config = ViTConfig(image_size=4, patch_size=2, classes=3, dim=8, layers=1, heads=2, expansion=1.0)
    ViT(config).save_pretrained(tmp_path)
    Labels(("a", "b"), 4).write(tmp_path)
    with pytest.raises(CheckpointError, match="of another model"):
        Classifier.load(tmp_path)
    (tmp_path / "classes.json").unlink()
    with pytest.raises(InputError, match=r"no classes\.json"):
        Classifier.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"slug": ["vit"]}))
    with pytest.raises(CheckpointError, match="no image classifier"):
        Classifier.load(tmp_path)
