"""Chunks cover the stream, overlap as asked, and join without a trace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from harken.errors import InputError
from harken.tasks.chunking import plan_chunks, process_in_chunks, process_with_context


@pytest.mark.parametrize("frames", [1, 99, 100, 101, 181, 5000, 50001])
@pytest.mark.parametrize("overlap", [0, 20, 50])
def test_chunks_cover_everything_and_overlap_exactly(frames, overlap):
    plan = plan_chunks(frames, 100, overlap)
    assert plan[0][0] == 0
    assert plan[-1][1] == frames
    assert all(stop - start <= 100 for start, stop in plan)
    assert all(one[1] - two[0] == overlap for one, two in pairwise(plan))
    lengths = [stop - start for start, stop in plan]
    assert max(lengths) - min(lengths) <= 1  # no short last chunk


def test_chunks_that_cannot_overlap_so_are_refused():
    with pytest.raises(InputError, match="overlap by at most half"):
        plan_chunks(1000, 100, 51)


@pytest.mark.parametrize("block", [1, 37, 1000])
def test_an_identity_comes_out_as_it_went_in_however_the_stream_is_cut(block):
    samples = np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float32)
    blocks = (samples[i : i + block] for i in range(0, 1000, block))
    out = process_in_chunks(blocks, lambda x: x, frames=1000, channels=2, chunk=120, overlap=40)
    assert np.allclose(np.concatenate(list(out)), samples, atol=1e-6)


def test_disagreeing_chunks_fade_into_each_other():
    answers = iter([0.0, 1.0])
    out = process_in_chunks(
        [np.zeros((150, 1), np.float32)],
        lambda x: np.full_like(x, next(answers)),
        frames=150,
        channels=1,
        chunk=100,
        overlap=50,
    )
    values = np.concatenate(list(out))[:, 0]
    assert np.all(np.diff(values) >= 0)
    assert np.abs(np.diff(values)).max() < 0.04  # no step: the steepest slope of sin² over 50 frames


def test_a_stream_shorter_than_said_ends_in_silence():
    out = process_in_chunks([np.ones((50, 1), np.float32)], lambda x: x, frames=80, channels=1, chunk=60, overlap=10)
    values = np.concatenate(list(out))[:, 0]
    assert len(values) == 80
    assert values.sum() == pytest.approx(50, abs=1e-4)


@pytest.mark.parametrize("frames", [1, 40, 333, 1000])
def test_pieces_with_their_context_are_the_whole(frames):
    samples = np.random.default_rng(0).standard_normal((frames, 2)).astype(np.float32)
    taps = np.random.default_rng(1).standard_normal(41)

    def process(x):
        return np.stack([np.convolve(np.pad(x[:, i], 20), taps, "valid") for i in range(2)], 1)

    blocks = (samples[i : i + 37] for i in range(0, frames, 37))
    parts = list(process_with_context(blocks, process, frames=frames, channels=2, chunk=105, context=20, hop=10))
    assert np.allclose(np.concatenate(parts), process(samples), atol=1e-6)
    assert all(len(part) == 100 for part in parts[:-1])


def test_a_context_off_the_grid_is_refused():
    with pytest.raises(InputError, match="whole hops"):
        next(process_with_context([], lambda x: x, frames=9, channels=1, chunk=10, context=5, hop=2))
