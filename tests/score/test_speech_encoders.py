from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.score.mapss import mapss
from harken.score.speech_encoders import SpeechModel, find_encoder, log_spectra, raw_frames

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=["HubertModel", "Wav2Vec2Model"])
def model(request):
    """A speech model of a few thousand parameters whose frames are 20 ms apart, as those of the real ones."""
    torch.manual_seed(0)
    config = getattr(transformers, request.param).config_class(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(20, 16), conv_kernel=(20, 16), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return getattr(transformers, request.param)(config)


def test_a_speech_model_gives_a_vector_per_frame_and_a_gradient(model):
    waveform = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    points = SpeechModel("tiny", 2, model=model)(waveform, 24)
    assert points.shape == (3, 24, 16)
    assert torch.autograd.grad(points.sum(), waveform)[0].abs().max() > 0


def test_it_is_loaded_by_the_name_of_a_folder_and_its_layers_differ(model, tmp_path):
    model.save_pretrained(tmp_path)
    waveform = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    ours, lower = (find_encoder(str(tmp_path), layer)(waveform, 24) for layer in (2, 1))
    torch.testing.assert_close(ours, SpeechModel("tiny", 2, model=model)(waveform, 24))
    assert not torch.allclose(ours, lower)


def test_mapss_through_a_speech_model(model):
    clean = torch.randn(2, 7000, generator=torch.Generator().manual_seed(0))
    scores = mapss(clean, clean, encoder=SpeechModel("tiny", 1, model=model), uncertainty=False)
    assert (scores.mean()["pm"] > 0.98).all()


def test_a_layer_that_is_not_there_is_named(model):
    with pytest.raises(InputError, match="there is no layer 3"):
        SpeechModel("tiny", 3, model=model)


@pytest.mark.parametrize("name", ["no-such-encoder", "no-such-owner/no-such-model"])
def test_an_encoder_that_is_not_there_is_one_line(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as caught:
        find_encoder(name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_text_model_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=10
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not a speech model"):
        find_encoder(str(tmp_path))


def test_built_in_encoders_see_what_they_say():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(3300) / 16000)[None]
    spectra = log_spectra(tone, 10)
    assert spectra.shape == (1, 10, 321) and (spectra[0, 1:-1].argmax(-1) == 40).all()  # 25 Hz a bin
    assert torch.equal(raw_frames(tone, 10).flatten(), tone[0, :3200])
