"""The sequence classifier: padding is invisible, tokens and series, any mechanism."""

import pytest
import torch

from harken.errors import InputError
from harken.models.classify.sequence import SequenceClassifier, SequenceClassifierConfig


def classifier(**changes: object) -> SequenceClassifier:
    torch.manual_seed(0)
    settings = {"classes": 3, "dim": 16, "layers": 2, "heads": 2, **changes}
    return SequenceClassifier(SequenceClassifierConfig(**settings)).eval()


@pytest.mark.parametrize("attention", [("softmax",), ("linear",), ("linear", "softmax")])
def test_padding_changes_nothing(attention):
    model = classifier(attention=attention)
    text = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    logits = model(text, mask=mask)
    torch.testing.assert_close(logits[1:], model(text[1:, :7]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[:1], model(text[:1]), atol=1e-5, rtol=1e-4)


def test_padding_inside_a_patch_changes_nothing():
    model = classifier(channels=2, patch=4)
    series = torch.randn(1, 11, 2, generator=torch.Generator().manual_seed(0))
    padded = torch.cat((series, torch.full((1, 6, 2), 9.0)), 1)
    mask = torch.arange(17)[None] < 11
    torch.testing.assert_close(model(padded, mask=mask), model(series), atol=1e-5, rtol=1e-4)


def test_order_matters():
    model, text = classifier(), torch.arange(9)[None]
    assert (model(text) - model(text.flip(1))).abs().max() > 1e-4


@pytest.mark.border
@pytest.mark.parametrize(
    ("settings", "x", "message"),
    [
        ({}, torch.zeros(1, 5, 2), r"expected tokens \(batch, time\)"),
        ({"channels": 2}, torch.zeros(1, 5, 3), r"expected a series \(batch, time, 2\)"),
        ({"channels": 2}, torch.zeros(1, 5, dtype=torch.long), r"expected a series"),
    ],
)
def test_the_wrong_kind_of_input_is_one_line(settings, x, message):
    with pytest.raises(InputError, match=message):
        classifier(**settings)(x)


@pytest.mark.parametrize("settings", [{"patch": 4}, {"attention": ()}, {"classes": 0}])
def test_sizes_that_cannot_be(settings):
    with pytest.raises(InputError):
        classifier(**settings)
