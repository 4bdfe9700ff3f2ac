"""Questions about a scene of talkers, answered from the side of the one who is attended (AAD-LLM, arXiv 2502.16794).

Without a language model answers are measured: who, how high, how fast, how loud. What was said needs a model that
listens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from harken.errors import InputError
from harken.tasks.attend import RATE, Attended, Voice

_OTHER = re.compile(r"\b(ignored?|other|background|unattended|not attend\w*)\b")
_COMPARED = {
    r"\bloud(er|est)\b": ("loudness", 1, "louder", "{:.0f} LU"),
    r"\b(quieter|quietest|softer|softest)\b": ("loudness", -1, "quieter", "{:.0f} LU"),
    r"\b(higher|highest)\b": ("pitch", 1, "higher", "{:.0f} Hz"),
    r"\b(lower|lowest|deeper|deepest)\b": ("pitch", -1, "lower", "{:.0f} Hz"),
    r"\b(faster|fastest|quicker)\b": ("tempo", 1, "faster", "{:.1f} syllables a second"),
    r"\b(slower|slowest)\b": ("tempo", -1, "slower", "{:.1f} syllables a second"),
}
_ASKED = (
    (r"\b(pitch|high|low|deep|frequency)\b", "pitch"),
    (r"\b(tempo|fast|slow|quick|speed|rate|syllables?)\b", "tempo"),
    (r"\b(loud|loudness|quiet|soft|level|volume)\b", "loudness"),
    (r"\b(describe|description|sounds?|voice|talkers?|speakers?|like)\b", "all"),
)


def measured_answer(question: str, found: Attended) -> str:
    """Answer from what was measured; "other", "ignored" or "background" in a question turns it to the other talker.

    Raises:
        InputError: the question is about something that measurement does not tell, such as what was said.

    >>> voices = (Voice("A", 210.0, 4.0, -23.0), Voice("B", 110.0, 5.0, -20.0))
    >>> scene = Attended(10.0, np.array([[0.2, 0.05]]), voices)
    >>> measured_answer("Who is being listened to?", scene)
    'talker A'
    >>> measured_answer("How fast does the other talker speak?", scene)
    'talker B: 5.0 syllables a second'
    >>> measured_answer("Who is louder?", scene)
    'talker B, by 3 LU'
    """
    asked = question.lower()
    for pattern, (what, sign, word, unit) in _COMPARED.items():
        if re.search(pattern, asked):
            return _compared(found.voices, what, sign, word, unit)
    turned = bool(_OTHER.search(asked))
    voice = next(v for n, v in enumerate(found.voices) if (n == found.talker) != turned)
    if re.search(r"\b(said|say|says|saying|words?|transcri\w+|about|summar\w+|repeat)\b", asked):
        raise InputError("measurements do not tell what was said: give --language-model")
    for pattern, what in _ASKED:
        if re.search(pattern, asked) and not re.match(r"(who|which)\b", asked):
            return _told(voice, what)
    if re.search(r"\b(who|which|attend\w*|listen\w*)\b", asked):
        return f"talker {voice.label}"
    raise InputError(
        "measurements answer who is attended, and how high, fast and loud each talker is; for other questions give "
        "--language-model"
    )


def model_answer(
    question: str,
    found: Attended,
    streams: Sequence[Float[np.ndarray, " samples"]],
    model: Any,
    *,
    embed: Any,
) -> str:
    """Answer by a model that hears the talkers and is told by an intention whom the listener attends to.

    Args:
        question: in words.
        found: who was listened to.
        streams: the talkers, mono at 16 kHz.
        model: a :class:`harken.models.brain.audio_language_model.SceneAnswerer`.
        embed: ``(streams, samples)`` to embeddings of voices ``(streams, embedding)``; the attended one's is the
            intention.
    """
    length = min(map(len, streams))
    scene = torch.from_numpy(np.stack([stream[:length] for stream in streams]).astype(np.float32))
    return model.generate(question, scene, intention=embed(scene)[found.talker]).text


def language_model(weights: str) -> tuple[Any, Any]:
    """An audio language model of Hugging Face, and the embedding of voices by which it is told who is attended.

    Raises:
        MissingExtraError: ``transformers`` is not installed.
        CheckpointError: there are no such weights.
    """
    from harken.models import load
    from harken.models.brain.audio_language_model import AudioLanguageModel

    encoder: Any = load("speaker-encoder")

    def embed(scene: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return encoder.embed(scene[:, None])

    model = AudioLanguageModel.from_pretrained(weights, embed)
    if model.sample_rate != RATE:
        raise InputError(f"'{weights}' hears {model.sample_rate} Hz: expected a model of {RATE} Hz")
    return model, embed


def _compared(voices: Sequence[Voice], what: str, sign: int, word: str, unit: str) -> str:
    values = np.array([getattr(voice, what) for voice in voices], np.float64) * sign
    if not np.isfinite(values).all():
        raise InputError(f"it cannot be told who is {word}: a talker is silent, or never voiced")
    best, second = np.sort(values)[::-1][:2]
    return f"talker {voices[int(values.argmax())].label}, by {unit.format(best - second)}"


def _told(voice: Voice, what: str) -> str:
    if what == "pitch":
        pitch = f"{voice.pitch:.0f} Hz" if math.isfinite(voice.pitch) else "unknown"
        return f"talker {voice.label}: median pitch {pitch}"
    if what == "tempo":
        return f"talker {voice.label}: {voice.tempo:.1f} syllables a second"
    if what == "loudness":
        return f"talker {voice.label}: " + (f"{voice.loudness:.0f} LUFS" if math.isfinite(voice.loudness) else "silent")
    return voice.text()
