"""``harken see``: from a folder of images to a model to what another image shows."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from harken.cli import main
from harken.data.digits import read_digits
from harken.models import weights_folder

TINY = ["--image-size", "8", "--batch-size", "4", "--device", "cpu", "--steps", "3", "--validate-every", "3"]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for item in range(5):
            array = rng.integers(0, 60, (12, 10, 3)) + 190 * number
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / "set" / name / f"{item}.png")
    (tmp_path / "set" / "dark" / "broken.png").write_bytes(b"no image")
    return tmp_path / "set"


@pytest.mark.parametrize("model", ["minimal", "sparsifiner"])
def test_a_model_is_trained_and_tells_what_it_sees(folder, tmp_path, capsys, model):
    run = tmp_path / "run"
    assert main(["see", "classify", "train", str(folder), *TINY, "--model", model, "--out", str(run)]) == 0
    said = capsys.readouterr().err
    assert "left out: '" in said and "broken.png" in said
    assert "8 images of 2 classes to train on, 2 to judge on" in said
    assert "right at step 3" in said
    table = (run / "classes.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in table] == ["class", "dark", "light"]
    image, picture = str(folder / "dark" / "0.png"), tmp_path / "seen.png"
    predict = ["see", "classify", "predict", image, str(folder / "dark" / "broken.png"), "--top", "1"]
    assert main([*predict, "--weights", str(run), "--json", "--plot", str(picture)]) == 1
    out = capsys.readouterr()
    (prediction,) = json.loads(out.out)["predictions"]
    assert prediction["image"] == image
    assert len(prediction["classes"]) == 1
    assert prediction["classes"][0]["class"] in ("dark", "light")
    assert prediction["classes"][0]["probability"] >= 0.5
    assert "broken.png' is not a readable image" in out.err
    assert Image.open(picture).size[0] > 100


def test_a_stopped_run_goes_on(folder, tmp_path):
    start = ["see", "classify", "train", str(folder), *TINY, "--model", "minimal", "--save-every", "1"]
    assert main([*start, "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    assert main([*start, "--out", str(tmp_path / "run")]) == 2
    assert main([*start, "--out", str(tmp_path / "run"), "--resume"]) == 0


@pytest.mark.skipif(weights_folder("mavit") is None, reason="the weights that ship are not here")
def test_the_weights_that_ship_read_handwriting(tmp_path, capsys):
    _, held_out = read_digits()
    paths = []
    for number in range(20):
        # as somebody scans it: dark on bright, large, with a margin
        scan = 255 - ((held_out.images[number, 0] + 1) * 127.5).round().numpy().astype(np.uint8)
        scan = np.pad(scan.repeat(8, 0).repeat(8, 1), 30, constant_values=255)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(scan).save(paths[-1])
    assert main(["see", "classify", "predict", *map(str, paths), "--json"]) == 0
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    right = [p["classes"][0]["class"] == str(int(n)) for p, n in zip(predictions, held_out.labels[:20], strict=True)]
    assert sum(right) >= 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere"], "no folder 'nowhere'"),
        (["train"], "give a folder of images, or --digits"),
        (["train", "SET", "--digits"], "give a folder of images, or --digits"),
        (["train", "SET", "--model", "nope"], "--model takes vit"),
        (["train", "SET", "--attention", "nope"], "no attention mechanism named 'nope'"),
        (["train", "SET", "--device", "tpu"], "--device takes auto or cpu"),
        (["train", "SET", "--held-out", "2"], "share of images to hold out"),
        (["train", "SET", "--crop", "2"], "crop in (0, 1]"),
        (["predict", "image.png", "--weights", "nowhere"], "no weights at 'nowhere'"),
        (["predict", "image.png", "--weights", "SET"], "expected the folder of a trained model"),
    ],
)
def test_what_cannot_be_is_one_line(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(folder) if argument == "SET" else argument for argument in arguments]
    tiny = TINY if arguments[0] == "train" else []
    assert main(["see", "classify", arguments[0], *tiny, *arguments[1:]]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert [line for line in said if message in line] == said[-1:]


def test_weights_of_another_kind_are_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"slug": "mp-senet"}')
    assert main(["see", "classify", "predict", "image.png", "--weights", str(tmp_path)]) == 2
    assert "holds no image classifier" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys; from harken.cli import main; main(['see', 'classify', 'train', '--help']);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
