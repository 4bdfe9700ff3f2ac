"""A fake enhancer behind ``models.load``, and a small recording."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from harken import models
from harken.data.audio import Audio, write


class Identity(nn.Module):
    sample_rate = 16000

    def enhance(self, waveform, *, level=None):
        return waveform


@pytest.fixture
def identity(monkeypatch):
    model = Identity()
    monkeypatch.setattr(models, "load", lambda slug, weights=None, **options: model)
    return model


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / "noisy.wav"
    write(path, Audio(np.random.default_rng(0).normal(0, 0.1, 4000), 16000))
    return path
