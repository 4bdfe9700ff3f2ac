"""Questions about a scene: measured answers, an honest refusal, and a model that is told who is attended."""

import json
import math

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.errors import InputError
from harken.models.brain.aad_llm import Answer
from harken.tasks.attend import Attended, Voice
from harken.tasks.scene_questions import measured_answer, model_answer


def scene(attended=0, loudness=-20.0):
    voices = (Voice("A", 210.0, 4.0, -23.0), Voice("B", 110.0, 5.0, loudness))
    fit = np.array([[0.05, 0.05]])
    fit[0, attended] = 0.3
    return Attended(10.0, fit, voices)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who does the listener attend to?", "talker A"),
        ("Which talker is ignored?", "talker B"),
        ("How high is the voice?", "talker A: median pitch 210 Hz"),
        ("What is the tempo of the background talker?", "talker B: 5.0 syllables a second"),
        ("How loud is it?", "talker A: -23 LUFS"),
        ("Who is louder?", "talker B, by 3 LU"),
        ("Which voice is lower?", "talker B, by 100 Hz"),
        ("Describe the talker.", "talker A: a high voice (210 Hz), 4.0 syllables a second, -23 LUFS"),
    ],
)
def test_answers_are_measured(question, answer):
    assert measured_answer(question, scene()) == answer


def test_attending_to_the_other_talker_changes_the_answer_and_not_the_comparison():
    asked = "How fast is the attended talker?"
    assert measured_answer(asked, scene(0)) != measured_answer(asked, scene(1))
    assert measured_answer("Who is louder?", scene(0)) == measured_answer("Who is louder?", scene(1))


@pytest.mark.parametrize("question", ["What did the talker say?", "Is it raining?", ""])
def test_what_measurement_does_not_tell_is_refused(question):
    with pytest.raises(InputError, match="--language-model"):
        measured_answer(question, scene())


def test_a_silent_talker_cannot_be_compared():
    with pytest.raises(InputError, match="cannot be told who is louder"):
        measured_answer("Who is louder?", scene(loudness=-math.inf))


def test_a_model_hears_both_and_is_told_the_attended_voice():
    class Model:
        def generate(self, question, heard, neural=None, intention=None):
            assert neural is None
            return Answer(f"{question} {tuple(heard.shape)} {float(intention.sum()):.0f}", (), None, "")

    streams = [np.full(50, 1.0, np.float32), np.full(40, 2.0, np.float32)]

    def embed(heard: torch.Tensor) -> torch.Tensor:
        return heard[:, :3]

    said = [model_answer("what?", scene(number), streams, Model(), embed=embed) for number in (0, 1)]
    assert said == ["what? (2, 40) 3", "what? (2, 40) 6"]


@pytest.mark.slow
def test_the_command_answers(tmp_path, capsys):
    pytest.importorskip("sklearn")
    report = tmp_path / "a.json"
    call = ["brain", "attend", "--demo", "-q", "--ask", "Who is attended?", "--report", str(report)]
    assert main(call) == 0
    assert "Who is attended? talker A" in capsys.readouterr().out
    assert json.loads(report.read_text())["answers"] == [{"question": "Who is attended?", "answer": "talker A"}]
