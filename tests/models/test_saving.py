"""Weights go out and come in whole; what is damaged, foreign or hostile is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harken import models
from harken.errors import CheckpointError, InputError, OutputError
from harken.models.enhance.mp_senet import MPSENet, MPSENetConfig
from harken.train.metric_discriminator import MetricDiscriminator

TINY = MPSENetConfig(channels=4, blocks=1, heads=2, n_fft=64, hop_length=16, win_length=64)
PARITY = Path(__file__).parents[1] / "parity/mp-senet/weights.safetensors"


@pytest.fixture
def model() -> MPSENet:
    return MPSENet(TINY)


@pytest.fixture
def folder(tmp_path, model) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def theirs() -> dict[str, torch.Tensor]:
    weights = load_file(PARITY)
    return {name.removeprefix("generator."): w for name, w in weights.items() if name.startswith("generator.")}


def rewrite(folder: Path, **entries) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_what_is_saved_comes_back(folder, model):
    again = MPSENet.from_pretrained(folder)
    assert again.config == model.config
    assert not again.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_saving_again_replaces_the_weights_and_keeps_the_card(folder, model):
    (folder / "README.md").write_text("a card of mine")
    torch.nn.init.zeros_(model.mask_decoder.slope)
    model.save_pretrained(folder)
    assert (MPSENet.from_pretrained(folder).mask_decoder.slope == 0).all()
    assert (folder / "README.md").read_text() == "a card of mine"


def test_a_save_that_fails_halfway_leaves_the_old_model(folder, model, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harken.models._base.save_file", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot save the model"):
        model.save_pretrained(tmp_path / "file" / "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"channels": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[]", "one JSON object"),
        ('"text"', "one JSON object"),
        ('{"slug": "demucs"}', "weights of 'demucs', not of 'mp-senet'"),
        ('{"layers": 3}', "unknown entries: layers"),
        ('{"channels": "64"}', "unusable entry, channels = '64'"),
        ('{"channels": 4.5}', "unusable entry"),
        ('{"channels": true}', "unusable entry"),
        ('{"compression": NaN}', "unusable entry"),
        ('{"axes": ["time"]}', "unusable entry"),
        ('{"axes": ["time", "time"]}', "does not describe a mp-senet"),
        ('{"norm": "batch"}', "unusable entry"),
        ('{"blocks": 1000000000}', "does not describe a mp-senet"),
        ('{"attention": {"name": "softmax"}}', "unusable entry"),
        (" " * (2 << 20), "too large"),
    ],
)
def test_a_hostile_configuration_is_refused(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        MPSENet.from_pretrained(folder)


def test_a_configuration_that_asks_for_all_memory_is_refused_before_it_gets_any(folder):
    rewrite(folder, channels=4096, heads=2, blocks=4)  # some ten gigabytes
    with pytest.raises(CheckpointError, match="another model or configuration"):
        MPSENet.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        MPSENet.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 5, 500])
def test_truncated_weights_are_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        MPSENet.from_pretrained(folder)


def test_an_unknown_option_is_a_type_error(folder):
    with pytest.raises(TypeError, match="unknown options: revison"):
        MPSENet.from_pretrained(folder, revison="main")


class Payload:
    """What a malicious pickle does when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_does_not_run(tmp_path):
    for name, write in (("zip.pt", torch.save), ("raw.pt", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        write({"generator": Payload(tmp_path / "harm")}, tmp_path / name)
        with pytest.raises(CheckpointError, match="not a checkpoint of plain tensors"):
            models.load("mp-senet", tmp_path / name)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        models.load("mp-senet", path)


def test_the_authors_file_loads_with_its_sizes_read_off_it(theirs, tmp_path):
    torch.save({"generator": theirs}, tmp_path / "g_best")
    model = models.load("mp-senet", tmp_path / "g_best")
    assert (model.config.channels, model.config.blocks, model.config.n_fft) == (8, 2, 64)
    assert model.config.axes == ("freq", "time")
    assert not model.training


def broken(theirs: dict[str, torch.Tensor], how: str) -> dict:
    name = "TSTransformer.0.time_transformer.norm1.weight"
    match how:
        case "missing":
            return {key: tensor for key, tensor in theirs.items() if key != name}
        case "missing slope":
            return {key: tensor for key, tensor in theirs.items() if not key.endswith("slope")}
        case "unknown":
            return {**theirs, "surprise": torch.zeros(1)}
        case "unknown layer":
            return {**theirs, "dense_encoder.dense_block.dense_block.x.y": torch.zeros(1)}
        case "unknown block":
            return {**theirs, "TSTransformer.x.norm1.weight": torch.zeros(1)}
        case "shape":
            return {**theirs, name: torch.zeros(9)}
        case "nan":
            return {**theirs, name: torch.full((8,), torch.nan)}
        case "text":
            return {**theirs, name: "weights"}
        case "complex":
            return {**theirs, name: torch.zeros(8, dtype=torch.complex64)}
        case "scalar slope":
            return {**theirs, "mask_decoder.lsigmoid.slope": torch.tensor(1.0)}
        case "list":
            return {"generator": [1, 2]}
        case _:
            return {}


@pytest.mark.border
@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "missing slope",
        "unknown",
        "unknown layer",
        "unknown block",
        "shape",
        "nan",
        "text",
        "complex",
        "scalar slope",
        "list",
        "empty",
    ],
)
def test_authors_weights_that_do_not_fit_are_refused(theirs, how):
    with pytest.raises(CheckpointError):
        MPSENet.from_authors(broken(theirs, how))


def test_authors_weights_that_ask_for_all_memory_are_refused_before_they_get_any(theirs, monkeypatch):
    made = []
    plain = MPSENet.__init__
    monkeypatch.setattr(
        MPSENet, "__init__", lambda self, config: made.append(torch.get_default_device().type) or plain(self, config)
    )
    with pytest.raises(CheckpointError, match="has shape"):
        MPSENet.from_authors({**theirs, "dense_encoder.dense_conv_1.0.bias": torch.zeros(4096)})
    assert made == ["meta"]


@pytest.mark.border
@pytest.mark.parametrize("how", ["missing", "shape", "nan", "name", "empty"])
def test_discriminator_weights_that_do_not_fit_are_refused(how):
    weights = load_file(PARITY)
    state = {name.removeprefix("discriminator."): w for name, w in weights.items() if name.startswith("discriminator.")}
    assert MetricDiscriminator.from_authors(state)
    match how:
        case "missing":
            del state["layers.18.slope"]
        case "shape":
            state["layers.4.weight"] = torch.zeros(3)
        case "nan":
            state["layers.4.weight"] = torch.full_like(state["layers.4.weight"], torch.nan)
        case "name":
            state["bias"] = torch.zeros(1)
        case _:
            state = {}
    with pytest.raises(CheckpointError):
        MetricDiscriminator.from_authors(state)


def test_a_file_beside_another_is_the_one_that_loads(folder, model):
    torch.nn.init.zeros_(model.mask_decoder.slope)
    save_file(model.state_dict(), folder / "other.safetensors")
    assert (models.load("mp-senet", folder / "other.safetensors").mask_decoder.slope == 0).all()
    assert (models.load("mp-senet", folder).mask_decoder.slope == 1).all()


def test_half_precision_weights_become_full(folder, model):
    save_file({name: w.half() for name, w in model.state_dict().items()}, folder / "model.safetensors")
    assert MPSENet.from_pretrained(folder).mask_decoder.slope.dtype == torch.float32


@pytest.mark.parametrize("name", ["nowhere", "no/such/folder", "runs/last.pt", "/no/such/file"])
def test_weights_that_are_nowhere_are_one_line(name):
    with pytest.raises(CheckpointError, match="no weights at"):
        models.load("mp-senet", name)


def test_a_repository_out_of_reach_is_one_line():
    with pytest.raises(CheckpointError, match=r"no file 'owner/name-1\.5' here, and none from the Hub") as caught:
        models.load("mp-senet", "owner/name-1.5")
    assert "\n" not in str(caught.value)


def test_an_unknown_model_names_those_there_are():
    with pytest.raises(InputError, match=r"no model named 'mp-sonnet': one of .*mp-senet"):
        models.load("mp-sonnet")
    assert "mp-senet" in models.list_models("enhance")
    assert models.list_models("speak") == [slug for slug in models.list_models() if ".speak." in models._MODELS[slug]]


def test_a_configuration_of_another_preset_does_not_fit(theirs):
    with pytest.raises(CheckpointError, match="another"), warnings.catch_warnings():
        warnings.simplefilter("error")
        MPSENet.from_authors(theirs, replace(MPSENetConfig.released(), channels=16))
