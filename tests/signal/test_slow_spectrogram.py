"""Pictures of slow signals: the right row and column at any rate, the same shape whatever the length."""

from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.signal.slow_spectrogram import slow_spectrogram


@pytest.mark.parametrize("sfreq", [173.61, 256.0, 1000.0])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (40, 100)])
def test_a_tone_burst_is_where_it_was(sfreq, rows, columns):
    time = torch.arange(int(30 * sfreq)) / sfreq
    burst = torch.sin(2 * torch.pi * 42 * time) * ((time > 18) & (time < 21))
    picture = slow_spectrogram(burst + 1e-3, sfreq, max_frequency=80.0, rows=rows, columns=columns)
    assert picture.shape == (rows, columns)
    power = 10 ** (picture / 10)
    assert abs(int(power.sum(1).argmax()) - 42 * rows / 80) <= 1
    assert abs(int(power.sum(0).argmax()) - 19.5 * columns / 30) <= 4


def test_batches_are_rows_of_their_own():
    x = torch.randn(2, 3, 500)
    both = slow_spectrogram(x, 100.0, max_frequency=50.0, rows=16, columns=20)
    assert both.shape == (2, 3, 16, 20)
    alone = slow_spectrogram(x[1, 2], 100.0, max_frequency=50.0, rows=16, columns=20)
    torch.testing.assert_close(both[1, 2], alone, atol=1e-3, rtol=1e-4)
    assert slow_spectrogram(torch.zeros(200), 100.0, max_frequency=50.0, rows=8, columns=10).isfinite().all()


def test_what_is_not_in_the_signal_is_refused():
    with pytest.raises(InputError, match="up to 50 Hz, not 60"):
        slow_spectrogram(torch.zeros(500), 100.0, max_frequency=60.0, rows=8, columns=10)
    with pytest.raises(InputError, match="too few for 100 columns"):
        slow_spectrogram(torch.zeros(150), 100.0, max_frequency=50.0, rows=8, columns=100)
