"""Fake enhancers: light, and with an output that is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harken import models


class Scale(nn.Module):
    """Multiplies by ``gain``; remembers the shapes and levels that it was given."""

    sample_rate = 16000

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = gain
        self.shapes: list[tuple[int, ...]] = []
        self.levels: list[torch.Tensor] = []

    def enhance(self, waveform, *, level=None):
        self.shapes.append(tuple(waveform.shape))
        self.levels.append(level)
        return waveform * self.gain


@pytest.fixture
def identity(monkeypatch):
    """What ``models.load`` answers with, whatever is asked for: a model that changes nothing."""
    model = Scale()
    monkeypatch.setattr(models, "load", lambda slug, weights=None, **options: model)
    return model
