"""A real audio language model in the place of the tiny one: Hugging Face's, told in words whom the listener attends to.

AAD-LLM puts the intention into a token that its Qwen2-Audio was trained to read; those weights are not published. A
model that never met such tokens is told in its prompt instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harken.errors import CheckpointError, InputError, MissingExtraError
from harken.models._base import first_line
from harken.models.brain.aad_llm import Answer, IntentionDecoder

Embed = Callable[[Tensor], Tensor]


@runtime_checkable
class SceneAnswerer(Protocol):
    """What answers questions about a scene: harken's :class:`~harken.models.brain.aad_llm.SceneLM`, or another."""

    def generate(
        self, question: str, scene: Tensor, neural: Tensor | None = None, intention: Tensor | None = None
    ) -> Answer:
        """The answer, from the side of the talker that brain signals or an intention point to."""


class AudioLanguageModel:
    """Hugging Face's audio language model behind the call of a scene model.

    Args:
        model, processor: of ``transformers``, such as Qwen2-Audio's.
        embed: speaker embeddings ``(streams, samples)`` to ``(streams, intention)``; a talker is attended whose
            embedding is nearest to the intention by its cosine.
        decoder: of brain signals, where :meth:`generate` shall take them.
        sample_rate: of the streams.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        embed: Embed,
        decoder: IntentionDecoder | None = None,
        sample_rate: int = 16000,
    ):
        self.model, self.processor, self.embed, self.decoder = model, processor, embed, decoder
        self.sample_rate = sample_rate

    @classmethod
    def from_pretrained(
        cls, weights: str, embed: Embed, decoder: IntentionDecoder | None = None
    ) -> AudioLanguageModel:  # pragma: no cover - gigabytes
        """From a folder or the Hub, ``"Qwen/Qwen2-Audio-7B-Instruct"`` say.

        Raises:
            MissingExtraError: ``transformers`` is not installed.
            CheckpointError: there are no such weights.
        """
        try:
            from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
        except ImportError:
            raise MissingExtraError("transformers", extra="text") from None
        try:
            processor = AutoProcessor.from_pretrained(weights)
            model = Qwen2AudioForConditionalGeneration.from_pretrained(weights).eval()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"no audio language model at '{weights}': {first_line(error)}") from None
        return cls(model, processor, embed, decoder, processor.feature_extractor.sampling_rate)

    @torch.inference_mode()
    def generate(
        self,
        question: str,
        scene: Float[Tensor, "streams samples"],
        neural: Float[Tensor, "electrodes times"] | None = None,
        intention: Float[Tensor, " intention"] | None = None,
        *,
        longest: int = 128,
    ) -> Answer:
        """Answer a question about separated streams; with neither brain signals nor intention, about all of them.

        Raises:
            InputError: both ``neural`` and ``intention``, or brain signals and no decoder.
        """
        if neural is not None:
            if intention is not None:
                raise InputError("give brain signals or an intention, not both")
            if self.decoder is None:
                raise InputError("no decoder of brain signals was given: AudioLanguageModel(..., decoder=...)")
            intention = self.decoder(neural[None])[0]
        attended = None
        if intention is not None:
            attended = int(F.cosine_similarity(self.embed(scene), intention[None]).argmax())
        parts: list[dict[str, Any]] = []
        for number in range(len(scene)):
            parts += [
                {"type": "text", "text": f"Talker {_name(number)}:"},
                {"type": "audio", "audio_url": f"talker-{_name(number)}"},
            ]
        told = "" if attended is None else f"The listener attends to talker {_name(attended)}. "
        parts.append({"type": "text", "text": f"{told}{question}"})
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        audio = [stream.cpu().numpy() for stream in scene]
        inputs = self.processor(text=text, audio=audio, sampling_rate=self.sample_rate, return_tensors="pt")
        tokens = self.model.generate(**inputs, max_new_tokens=longest)[:, inputs["input_ids"].shape[1] :]
        said = self.processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return Answer(said, (), attended, said)


def _name(number: int) -> str:
    return chr(ord("A") + number)
