"""Segments of brain and speech: nothing heard in training is judged, and simulated listeners do what they say."""

from __future__ import annotations

import numpy as np
import pytest

from harken.data.brain import Recording
from harken.data.brain_speech import SpeechTrials, cut_segments, joined_speech, split_by_sound
from harken.data.simulated_listening import SimulatedListener, pink_noise, with_noise
from harken.errors import InputError


def trials(sources: int = 3, seconds: int = 60, listeners: int = 2, step: float = 0.5) -> SpeechTrials:
    rng = np.random.default_rng(0)
    parts = []
    for source in range(sources):
        speech = rng.standard_normal((2, 10 * seconds)).astype(np.float32)
        for who in range(listeners):
            brain = Recording(rng.standard_normal((3, 10 * seconds)).astype(np.float32), 10.0, ("a", "b", "c"))
            parts.append(cut_segments(brain, speech, seconds=3.0, step=step, subject=who, source=source))
    return joined_speech(parts)


def test_windows_of_brain_and_speech_belong_together():
    ramp = np.arange(100, dtype=np.float32)
    brain = Recording(np.stack((ramp, -ramp)), 10.0, ("a", "b"))
    cut = cut_segments(brain, ramp[None, :80] + 5, seconds=2.0, step=1.0, lead=0.5, subject=3, source=8)
    assert np.array_equal(cut.x[:, 0], cut.speech[:, 0])  # frame 0 of the speech was heard at sample 5
    assert cut.onset.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert set(cut.subject) == {3}
    with pytest.raises(InputError, match="share no window"):
        cut_segments(brain, ramp[None], seconds=2.0, lead=9.0)


@pytest.mark.parametrize("seed", range(4))
def test_no_sound_is_in_two_parts_whoever_heard_it(seed):
    made = trials()
    parts = split_by_sound(made, seed=seed)
    moments = [
        {
            (made.source[i], moment)
            for i in part
            for moment in range(round(10 * made.onset[i]), round(10 * made.onset[i]) + 30)
        }
        for part in parts
    ]
    assert not moments[0] & moments[1] | moments[0] & moments[2] | moments[1] & moments[2]
    assert min(map(len, parts)) > 0
    assert sum(map(len, parts)) > 0.7 * len(made)
    assert all(set(made.subject[part]) == {0, 1} for part in parts)


def test_splits_that_cannot_be_are_refused():
    made = trials(1, 20)
    with pytest.raises(InputError, match="too few to split"):
        split_by_sound(made)
    with pytest.raises(InputError, match="hold no window"):
        split_by_sound(made, block=2.0)
    with pytest.raises(InputError, match="sum to 1"):
        split_by_sound(made, shares=(0.5, 0.1, 0.1))
    with pytest.raises(InputError, match="differ in rate"):
        joined_speech(
            [
                made,
                trials(1, 20)
                .select([0])
                .__class__(
                    made.x[:, :2], *(getattr(made, n) for n in ("speech", "subject", "source", "onset", "sfreq"))
                ),
            ]
        )


def test_a_simulated_response_is_causal_linear_and_as_long_as_the_kernels():
    rng = np.random.default_rng(0)
    listener = SimulatedListener.draw(rng, features=3, positions=rng.uniform(0, 1, (5, 2)), sfreq=50.0)
    impulse = np.zeros((3, 80))
    impulse[1, 20] = 1.0
    response = listener.respond(impulse)
    assert np.abs(response[:, :20]).max() < 1e-12
    assert np.abs(response[:, 20:35]).max() > 1e-3
    assert np.abs(response[:, 36:]).max() < 1e-12
    assert np.allclose(listener.respond(3 * impulse), 3 * response)
    other = listener.moved(rng, rng.uniform(0, 1, (5, 2)))
    assert np.array_equal(other.kernels, listener.kernels)
    assert not np.allclose(other.mixing, listener.mixing)


def test_the_ratio_to_the_noise_is_the_one_asked_for():
    rng = np.random.default_rng(0)
    response, noise = rng.standard_normal((4, 2000)), 1e-5 * pink_noise(rng, 4, 2000)
    made = with_noise(response, noise, -6.0)
    ratio = np.var(made - noise, axis=1).mean() / np.var(noise, axis=1).mean()
    assert 10 * np.log10(ratio) == pytest.approx(-6.0, abs=1e-2)
    with pytest.raises(InputError, match="flat"):
        with_noise(0 * response, noise, 0.0)
    with pytest.raises(InputError, match="expected the same"):
        with_noise(response[:, :9], noise, 0.0)
