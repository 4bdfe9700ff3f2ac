"""The recipe of separators: it learns, it sells bits, and the command lines that start it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from harken import models
from harken.cli import main
from harken.data.audio import Audio, write
from harken.data.stem_mixing import Recorded, StemConfig
from harken.errors import InputError
from harken.layers.diffq import DiffQConfig
from harken.models.separate.conv_tasnet import ConvTasNet, ConvTasNetConfig
from harken.models.separate.demucs import Demucs, DemucsConfig
from harken.train.loop import LoopConfig, train
from harken.train.separation import SeparationRecipe

RATE = 4000
DEMUCS = DemucsConfig(
    ("low", "high"), RATE, audio_channels=1, channels=8, depth=2, lstm_layers=1, resample=False, segment_length=RATE
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A low and a high noise: told apart by any filter."""
    root, rng = tmp_path_factory.mktemp("stems"), np.random.default_rng(0)
    frequency = np.fft.rfftfreq(2 * RATE, 1 / RATE)
    for name, band in (("low", frequency < 500), ("high", frequency > 1200)):
        (root / name).mkdir()
        for number in range(2):
            samples = np.fft.irfft(np.fft.rfft(rng.standard_normal(2 * RATE)) * band)
            write(root / name / f"{number}.wav", Audio((0.1 * samples).astype(np.float32), RATE))
    return root


def recipe(folders, model=None, **options):
    torch.manual_seed(0)
    pool = Recorded({name: [folders / name] for name in ("low", "high")}, RATE, 1)
    mixing = StemConfig(400, shift=0.1)
    return SeparationRecipe(
        model or Demucs(DEMUCS), pool, mixing=mixing, validation_items=2, validation_seconds=0.5, **options
    )


def loop(steps, **changes):
    return LoopConfig(
        steps=steps,
        batch_size=4,
        lr=1e-2,
        warmup=2,
        ema=0.5,
        weight_decay=0.0,
        validate_every=steps,
        save_every=steps,
        **changes,
    )


def test_it_learns_to_tell_them_apart(folders, tmp_path):
    made = recipe(folders)
    before = made.score_of_input()["sdr"]
    after = train(made, loop(25), tmp_path, device="cpu")
    assert after["sdr"] > before + 2
    assert set(after) >= {"sdr", "sdr_low", "sdr_high"}


def test_the_mixture_itself_has_the_ratio_of_the_parts(folders):
    scores = recipe(folders).score_of_input()
    assert scores["sdr_low"] == pytest.approx(-scores["sdr_high"], abs=0.3)  # two items, -5 and 0 dB


def test_a_price_on_size_sells_bits(folders, tmp_path):
    made = recipe(folders, diffq=10.0, quantisation=DiffQConfig(min_size=1e-4, speed=20.0))
    before = made.model.quantiser.true_size(made.model)
    scores = train(made, loop(15), tmp_path, device="cpu")
    assert scores["mib"] < before
    loaded = models.load("demucs", tmp_path / "best")
    assert loaded.quantiser is None
    assert recipe(folders, loaded).validate(loaded)["sdr"] == pytest.approx(scores["sdr"], abs=0.05)


def test_uniform_bits_are_judged_as_such_and_weights_stay(folders):
    made = recipe(folders, bits=2, quantisation=DiffQConfig(min_size=1e-4))
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    coarse = made.validate(made.model)
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert coarse["sdr"] != made.score_of(made.model.separate)["sdr"]
    (stems,) = made.dataset(4, 0)[0]
    losses = made.losses(made.generate(made.model, [torch.from_numpy(stems)[None]], 0), 0)
    losses["total"].backward()
    assert made.model.encoder[1][0].weight.grad.abs().sum() > 0


def test_items_have_a_length_that_the_model_takes(folders):
    made = recipe(folders)
    (stems,) = made.dataset(4, 0)[0]
    assert stems.shape[-1] == made.model.valid_length(400)
    assert made.generate(made.model, [torch.from_numpy(stems)[None]], 0).estimates.shape[-1] >= 400


def test_conv_tasnet_takes_the_same_recipe(folders):
    config = ConvTasNetConfig(
        ("low", "high"), RATE, 1, filters=8, bottleneck=4, hidden=8, blocks=2, repeats=1, segment_length=RATE
    )
    made = recipe(folders, ConvTasNet(config), loss="mse")
    (stems,) = made.dataset(4, 0)[0]
    losses = made.losses(made.generate(made.model, [torch.from_numpy(stems)[None]], 0), 0)
    assert losses["mse"] == losses["total"]


def test_other_stems_are_refused(folders):
    with pytest.raises(InputError, match="expected stems"):
        recipe(folders, Demucs(DemucsConfig(("a", "b"), RATE, audio_channels=1, channels=4, depth=1)))
    with pytest.raises(InputError, match="exclude each other"):
        recipe(folders, diffq=1.0, bits=4)


@pytest.mark.parametrize("name", ["demucs", "conv-tasnet"])
def test_the_command_trains_resumes_and_says_how_to_use_it(folders, tmp_path, capsys, name):
    sizes = ["channels=4", "depth=2"] if name == "demucs" else ["filters=8", "blocks=1", "hidden=8"]
    command = ["train", name, "--source", f"low={folders / 'low'}", "--source", f"high={folders / 'high'}"]
    command += ["--rate", str(RATE), "--seconds", "0.1", "--batch-size", "1", "--device", "cpu"]
    command += [part for size in sizes for part in ("--size", size)] + ["-o", str(tmp_path / "run"), "--steps"]
    assert main([*command, "1"]) == 0
    assert main([*command, "2"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "2", "--resume"]) == 0
    told = capsys.readouterr().err
    assert "harken separate" in told
    config = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert (config["slug"], config["sources"], config["sample_rate"]) == (name, ["low", "high"], RATE)


def test_tracks_are_found_with_their_sources(folders, tmp_path, capsys):
    for track in range(2):
        (tmp_path / f"song{track}").mkdir()
        for name, source in (("drums", "low"), ("bass", "high"), ("mixture", "low")):
            data = (folders / source / f"{track}.wav").read_bytes()
            (tmp_path / f"song{track}" / f"{name}.wav").write_bytes(data)
    command = ["train", "demucs", "--tracks", str(tmp_path), "--rate", str(RATE), "--size", "channels=4"]
    command += ["--size", "depth=2", "--seconds", "0.1", "--batch-size", "1", "--steps", "1", "--device", "cpu"]
    assert main([*command, "-o", str(tmp_path / "run")]) == 0
    assert "drums, bass:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the two"),
        (["--source", "speech"], "NAME=FOLDER"),
        (["--tracks", "nowhere"], "no folder"),
        (["--source", "a=x", "--source", "b=y", "--size", "deep=3"], "--size takes"),
        (["--source", "a=x", "--source", "b=y", "--preset", "huge"], "--preset takes"),
    ],
)
def test_mistakes_are_told_in_a_line(options, message, tmp_path, capsys):
    assert main(["train", "demucs", *options, "-o", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
