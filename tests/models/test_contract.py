"""What every registered model promises: a new one gets this battery by being listed in harken.models."""

import inspect
import json
import re
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass

import pytest
import torch

from harken import models
from harken.cli import main
from harken.errors import CapabilityError, CheckpointError
from harken.models._base import Enhancer, Model, read_config
from harken.papers import get_paper, list_papers

SLUGS = models.list_models()
OF_PAPERS = [slug for slug in SLUGS if slug in {paper.slug for paper in list_papers()}]
ENHANCERS = [slug for slug in SLUGS if issubclass(models.model_class(slug), Enhancer)]


def small(slug: str) -> Model:
    """The model's quick preset with weights of its own making."""
    torch.manual_seed(0)
    kind = models.model_class(slug)
    return kind(kind.Config.small()).eval()


@pytest.mark.parametrize("slug", SLUGS)
def test_the_configuration_is_a_frozen_dataclass_that_survives_json(slug, tmp_path):
    kind = models.model_class(slug)
    config = kind.Config.small()
    assert is_dataclass(config)
    with pytest.raises(FrozenInstanceError):
        setattr(config, fields(config)[0].name, 1)
    (tmp_path / "config.json").write_text(json.dumps({"slug": slug, **asdict(config)}))
    assert read_config(kind, tmp_path / "config.json") == config


@pytest.mark.parametrize("slug", OF_PAPERS)
def test_the_file_says_which_paper_it_is(slug):
    module = inspect.getmodule(models.model_class(slug))
    paper = get_paper(slug)
    assert paper.arxiv in (module.__doc__ or "").splitlines()[0]
    assert paper.model == f"{module.__name__}:{models.model_class(slug).__name__}"


@pytest.mark.parametrize("slug", SLUGS)
def test_saved_and_loaded_it_is_the_same_model(slug, tmp_path):
    model = small(slug)
    model.save_pretrained(tmp_path)
    again = models.load(slug, tmp_path)
    assert again.config == model.config
    assert not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("state", [{}, {"x": torch.zeros(1)}, {"generator": 3}, {"generator": {"x": torch.zeros(1)}}])
def test_foreign_weights_are_refused_in_one_line(slug, state):
    with pytest.raises(CheckpointError) as caught:
        models.model_class(slug).from_authors(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_seed_decides_the_initial_weights(slug):
    one, other = small(slug).state_dict(), small(slug).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if models.weights_folder(slug)])
def test_bundled_weights_are_small_documented_and_load(slug):
    folder = models.weights_folder(slug)
    assert (folder / "model.safetensors").stat().st_size <= 8 << 20
    card = json.loads((folder / "card.json").read_text())
    assert {"licence", "data", "command", "seed", "steps", "metrics"} <= card.keys()
    assert (folder / "README.md").is_file()
    assert all(tensor.isfinite().all() for tensor in models.load(slug).state_dict().values())


@pytest.mark.parametrize("slug", ENHANCERS)
def test_a_stream_equals_the_whole_or_says_that_there_is_none(slug):
    model, x = small(slug), torch.randn(1, 6000)
    try:
        stream = model.stream()
    except CapabilityError as error:
        assert "cannot stream" in str(error)
        return
    with torch.inference_mode():
        out = torch.cat([*(stream.push(chunk) for chunk in x.split(700, 1)), stream.flush()], 1)
        whole = model.enhance(x)
    torch.testing.assert_close(out[:, stream.latency : stream.latency + 6000], whole, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("slug", ENHANCERS)
@pytest.mark.parametrize("samples", [1, 50, 401, 4000])
def test_an_enhancer_keeps_every_length(slug, samples):
    with torch.inference_mode():
        out = small(slug).enhance(torch.randn(2, samples))
    assert out.shape == (2, samples)
    assert out.isfinite().all()


@pytest.mark.parametrize("slug", ENHANCERS)
def test_an_enhancer_treats_each_row_alone(slug):
    model, x = small(slug), torch.randn(3, 3000)
    with torch.inference_mode():
        torch.testing.assert_close(model.enhance(x)[1:2], model.enhance(x[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("slug", ENHANCERS)
@pytest.mark.parametrize("gain", [1e-3, 100.0])
def test_louder_in_is_louder_out_and_nothing_else(slug, gain):
    model, x = small(slug), torch.randn(1, 3000)
    with torch.inference_mode():
        torch.testing.assert_close(model.enhance(x * gain) / gain, model.enhance(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("slug", ENHANCERS)
def test_silence_stays_silence(slug):
    with torch.inference_mode():
        assert not small(slug).enhance(torch.zeros(1, 3000)).any()


@pytest.mark.parametrize("slug", ENHANCERS)
def test_gradients_reach_every_parameter_and_are_finite_even_on_silence(slug):
    model = small(slug).train()
    x = torch.randn(2, 3000)
    x[1] = 0
    model.enhance(x, level=torch.ones(2)).square().mean().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("slug", [slug for slug in SLUGS if models.weights_folder(slug) is None])
def test_without_weights_only_commands_that_exist_are_named(slug, capsys):
    with pytest.raises(CheckpointError, match="ships no weights") as caught:
        models.load(slug)
    for text in (str(caught.value), models.info(slug)["weights"]):
        for command in re.findall(r"'harken ([a-z -]+)'", text):
            assert main([*command.split(), "--help"]) == 0
