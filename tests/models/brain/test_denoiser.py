"""AT-AT and what trains it: mixing as EEGdenoiseNet has it, the gate, any length, the command."""

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.data.brain import Recording
from harken.data.brain_files import read_recording
from harken.data.brain_output import write_recording
from harken.data.eeg_noise import DirtyEpochs, NoiseConfig, artefacts, clean_epochs, mixed
from harken.errors import InputError, OutputError
from harken.models import weights_folder
from harken.models.brain.denoiser import DenoiserConfig, EEGDenoiser
from harken.score.denoising import score_denoising
from harken.signal.correlation import correlation
from harken.train.eeg_denoiser import DenoiserRecipe, held_out_pairs
from harken.train.loop import LoopConfig, train

TINY = DenoiserConfig(samples=128, widths=(4, 8), patch=16, dim=8, layers=1, heads=2)


def model(config=TINY):
    torch.manual_seed(0)
    return EEGDenoiser(config).eval()


def epochs(count=12, samples=128):
    slow = np.random.default_rng(0).standard_normal((count, 1, samples + 1)).cumsum(-1)
    return clean_epochs(slow[..., 1:], samples)


def test_two_decibels_are_four_of_power_in_the_benchmarks_convention():
    x, n = epochs(), artefacts(NoiseConfig(), 12, 128, torch.Generator().manual_seed(0))
    for convention, factor in (("rms10", 20), ("power", 10)):
        noise = mixed(x, n, 2.0, convention) - x
        power = 10 * np.log10((x.astype(float) ** 2).mean(1) / (noise**2).mean(1))
        assert power == pytest.approx(2.0 * factor / 10, abs=1e-6)


def test_muscle_is_fast_and_blinks_are_slow():
    share = {}
    for kind in ("muscle", "blink"):
        made = artefacts(NoiseConfig(kind), 40, 512, torch.Generator().manual_seed(1))
        power = (np.abs(np.fft.rfft(made)) ** 2).mean(0)
        share[kind] = power[np.fft.rfftfreq(512, 1 / 256) > 15].sum() / power.sum()
    assert share["muscle"] > 0.95
    assert share["blink"] < 0.05


def test_an_item_follows_from_its_index_and_seed():
    pairs = DirtyEpochs(epochs(), NoiseConfig(), length=5, seed=3)
    torch.testing.assert_close(pairs[2], pairs[2])
    assert not torch.equal(pairs[2][0], pairs[3][0])
    assert float(pairs[2][0].std()) == pytest.approx(1, abs=0.01)


def test_before_it_learns_it_is_its_autoencoder():
    made = model()(torch.randn(3, 128))
    torch.testing.assert_close(made.clean, made.coarse)


def test_patches_that_agree_are_left_to_the_autoencoder():
    network = model()
    torch.nn.init.ones_(network.residual.bias)
    x = torch.randn(4, 128)
    made = network(x)
    changed = (made.clean - made.coarse).unflatten(1, (-1, 16)).abs().amax(-1) > 1e-6
    assert torch.equal(changed, made.gate > 0)
    agreement = correlation(
        ((x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)).unflatten(1, (-1, 16)),
        made.coarse.unflatten(1, (-1, 16)),
    )
    assert torch.equal(made.gate > 0, agreement < TINY.threshold)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_the_unit_does_not_matter(scale):
    x = torch.randn(2, 128)
    torch.testing.assert_close(model()(x * scale).clean / scale, model()(x).clean, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("samples", [1, 50, 128, 129, 1000])
def test_any_length_comes_back_at_that_length(samples):
    x = np.random.default_rng(0).standard_normal((2, 3, samples)).astype(np.float32)
    made = model().denoise(x)
    assert made.shape == x.shape
    assert np.isfinite(made).all()
    np.testing.assert_allclose(model().denoise(x[1]), made[1], atol=1e-4)


def test_flat_channels_stay_and_nan_is_refused():
    x = np.full((2, 300), 3.0, np.float32)
    x[1] = np.random.default_rng(0).standard_normal(300)
    np.testing.assert_array_equal(model().denoise(x)[0], x[0])
    with pytest.raises(InputError, match="finite"):
        model().denoise(np.full((1, 300), np.nan))


def test_gradients_reach_everything_but_the_gate():
    network = model().train()
    torch.nn.init.normal_(network.residual.weight)
    network(torch.randn(4, 128)).clean.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_training_helps_and_goes_on_after_a_stop(tmp_path):
    def recipe():
        return DenoiserRecipe(TINY, epochs(40), epochs(10), autoencoder_steps=5, seed=1)

    def loop(steps):
        return LoopConfig(steps=steps, batch_size=8, lr=3e-3, warmup=1, ema=0.5, validate_every=10, save_every=10)

    before = recipe()
    found = train(before, loop(20), tmp_path / "a", device="cpu")
    assert found["correlation"] > before.score_of(lambda dirty: dirty * 0 + np.arange(128))["correlation"]
    assert np.isfinite(list(found.values())).all()


def test_held_out_epochs_are_the_same_at_every_ratio():
    pairs = held_out_pairs(epochs(), NoiseConfig(), 0)
    clean = [pair[1] / pair[1].std(1, keepdims=True) for pair in pairs.values()]
    np.testing.assert_allclose(clean[0], clean[-1], atol=1e-4)
    scores = [score_denoising(clean, dirty)["correlation"] for dirty, clean in pairs.values()]
    assert scores == sorted(scores)


def recording(seconds=6.0, rate=128.0, channels=2):
    data = np.random.default_rng(0).standard_normal((channels, int(seconds * rate))).cumsum(1) * 1e-6
    names = tuple(f"C{i}" for i in range(channels))
    return Recording(data.astype(np.float32), rate, names, np.array([[10, 1], [200, 2]]), name="a")


@pytest.mark.parametrize("kind", ["npz", "fif", "edf"])
def test_a_written_recording_is_read_back(kind, tmp_path):
    pytest.importorskip("mne")
    if kind == "edf":
        pytest.importorskip("edfio")
    given = recording()
    write_recording(given, tmp_path / f"a.{kind}")
    found = read_recording(tmp_path / f"a.{kind}")
    np.testing.assert_allclose(found.data[:, : given.data.shape[1]], given.data, atol=2e-9)
    assert found.events[:, 0].tolist() == [10, 200]
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{kind}"]
    with pytest.raises(OutputError, match=r"\.npz, \.fif or \.edf"):
        write_recording(given, tmp_path / "a.wav")


def test_the_command_cleans_a_recording_of_another_rate(tmp_path, capsys):
    pytest.importorskip("mne")
    model().save_pretrained(tmp_path / "w")
    write_recording(recording(), tmp_path / "a.npz")
    out = tmp_path / "b.npz"
    call = ["brain", "denoise", str(tmp_path / "a.npz"), "-o", str(out), "--weights", str(tmp_path / "w"), "-q"]
    assert main([*call, "--plot", str(tmp_path / "a.png"), "--report", str(tmp_path / "a.json")]) == 0
    found = read_recording(out)
    assert found.data.shape == recording().data.shape
    assert found.ch_names == recording().ch_names
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert main(call) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_how_many_epochs_go_together_changes_nothing():
    given, network = recording(20, 256.0).data, model()
    np.testing.assert_allclose(network.denoise(given, at_once=3), network.denoise(given), atol=1e-10, rtol=1e-3)


@pytest.mark.skipif(weights_folder("eeg-denoiser") is None, reason="no weights")
def test_what_ships_removes_artefacts_it_was_not_trained_on():
    pytest.importorskip("sklearn")
    from harken.models.brain import ArtefactRemover

    drawn = np.random.default_rng(5)
    time = np.arange(1024) / 256
    clean = np.sin(2 * np.pi * 9 * time + drawn.uniform(0, 6, (6, 1))) + 0.5 * np.sin(2 * np.pi * 3 * time)
    noise = artefacts(NoiseConfig("muscle"), 6, 1024, torch.Generator().manual_seed(9))
    dirty = mixed(clean, noise, 0.0)
    made = ArtefactRemover(sfreq=256.0).fit_transform(dirty[:, None] * 1e-6)[:, 0]
    before, after = (score_denoising(clean, x)["correlation"] for x in (dirty, made))
    assert after > before + 0.1
