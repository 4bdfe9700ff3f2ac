"""Models of transformers in harken's places: wav2vec 2.0 features, an audio language model behind a scene's call."""

from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.models.brain.aad_llm import SceneLM, SceneLMConfig
from harken.models.brain.audio_language_model import AudioLanguageModel, SceneAnswerer
from harken.models.brain.speech_representations import wav2vec2_features


class Stub:
    """A processor and a model in one, which answers with what it was asked."""

    def apply_chat_template(self, conversation, **options):
        self.content = conversation[0]["content"]
        return "prompt"

    def __call__(self, text, audio, sampling_rate, return_tensors):
        self.audio, self.rate = audio, sampling_rate
        return {"input_ids": torch.zeros(1, 3, dtype=torch.long)}

    def generate(self, input_ids, max_new_tokens):
        return torch.cat((input_ids, torch.tensor([[7, 8]])), 1)

    def batch_decode(self, tokens, skip_special_tokens):
        return [f"{tokens.tolist()} {self.content[-1]['text']}"]


def test_the_prompt_says_whom_the_listener_attends_to():
    stub = Stub()
    model = AudioLanguageModel(stub, stub, lambda streams: streams[:, :2])
    assert isinstance(model, SceneAnswerer)
    assert isinstance(SceneLM(SceneLMConfig.small()), SceneAnswerer)
    scene = torch.tensor([[1.0, 0.0, 0.3], [0.0, 1.0, 0.3]])
    answer = model.generate("What is said?", scene, intention=torch.tensor([0.1, 0.9]))
    assert (answer.attended, answer.text) == (1, "[[7, 8]] The listener attends to talker B. What is said?")
    assert model.generate("What is said?", scene.flip(0), intention=torch.tensor([0.1, 0.9])).attended == 0
    assert model.generate("What is said?", scene).text == "[[7, 8]] What is said?"
    assert [part["type"] for part in stub.content] == ["text", "audio", "text", "audio", "text"]
    with pytest.raises(InputError, match="no decoder"):
        model.generate("?", scene, neural=torch.zeros(1, 4))


def test_hidden_states_are_averaged_and_brought_to_the_rate(seed):
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2Model(config).eval()
    wave = torch.randn(2, 16000, generator=seed)
    features = wav2vec2_features(model, wave, 120.0, layers=(1, 2))
    assert features.shape == (2, 16, 120)
    torch.testing.assert_close(
        wav2vec2_features(model, 5 * wave + 1, 120.0, layers=(1, 2)), features, atol=1e-3, rtol=1e-3
    )
    with pytest.raises(InputError, match="hidden states 0 to 3"):
        wav2vec2_features(model, wave, 120.0)
    with pytest.raises(InputError, match="too few"):
        wav2vec2_features(model, wave[:, :100], 120.0)
