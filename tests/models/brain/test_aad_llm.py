"""AAD-LLM: whom a listener attends to decides what is said of a scene, and the order of its streams does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import config as jaxtyping_config

from harken.errors import CheckpointError, InputError
from harken.models.brain.aad_llm import (
    BEGIN,
    END,
    Answer,
    IntentionDecoder,
    IntentionProjector,
    SceneLM,
    SceneLMConfig,
    _Told,
    encode,
    thought_of,
)
from harken.models.brain.attention_net import AttentionNet, AttentionNetConfig
from harken.models.brain.speaker_clusters import SpeakerClusters
from harken.models.write.generation import generate
from harken.papers.parity import check_parity

CASE = Path(__file__).parents[2] / "parity/aad-llm"
WORDS = ("one", "two", "six")
BANDS = 8


def test_the_reference_tensors():
    report = check_parity(CASE)
    assert report.passed, [tensor for tensor in report.tensors if not tensor.passed]
    assert len(report.tensors) == 7


def toy_scene(voices: tuple[int, int], words: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Two streams: a voice raises one of the lower bands, a word one of the upper ones."""
    scene = 0.1 * torch.randn(2, BANDS, 8, generator=generator)
    for stream in range(2):
        scene[stream, voices[stream]] += 2
        scene[stream, 4 + words[stream]] += 2
    return scene


def toy_batch(size: int, generator: torch.Generator):
    draw = torch.randint
    scenes, answers, intended = [], [], []
    for _ in range(size):
        first = int(draw(3, (), generator=generator))
        second = (first + 1 + int(draw(2, (), generator=generator))) % 3
        words = (int(draw(3, (), generator=generator)), int(draw(3, (), generator=generator)))
        attended = int(draw(2, (), generator=generator))
        scenes.append(toy_scene((first, second), words, generator))
        answers.append(thought_of((first, second), attended, WORDS[words[attended]]))
        intended.append((first, second)[attended])
    return torch.stack(scenes), encode(answers, answers=True), torch.eye(3)[intended]


@pytest.fixture(scope="module")
def trained() -> SceneLM:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SceneLM(SceneLMConfig(dim=32, layers=2, heads=4, intention=3, bands=BANDS, stride=4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    jaxtyping_config.update("jaxtyping_disable", True)  # shapes are checked where the model is used
    pool, question = toy_batch(1500, generator), encode(["?"]).expand(32, 1)
    for step in range(250):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (250 - step) / 125)
        rows = torch.randint(1500, (32,), generator=generator)
        scene, answer, intention = (part[rows] for part in pool)
        model.loss(question, scene, answer, intention).backward()
        optimizer.step()
        optimizer.zero_grad()
    jaxtyping_config.update("jaxtyping_disable", False)
    return model.eval()


def test_swapping_the_intention_swaps_the_stream(trained, seed):
    right = 0
    for first in range(3):
        for words in ((0, 1), (2, 0), (1, 2)):
            voices = (first, (first + 1) % 3)
            scene = toy_scene(voices, words, seed)
            for attended in range(2):
                answer = trained.generate("?", scene, intention=torch.eye(3)[voices[attended]])
                right += answer == Answer.parse(thought_of(voices, attended, WORDS[words[attended]]))
    assert right >= 17  # of 18


def test_permuting_the_streams_permutes_the_labels_and_leaves_the_answer(trained, seed):
    scene, intention = toy_scene((0, 2), (1, 2), seed), torch.eye(3)[2]
    one = trained.generate("?", scene, intention=intention)
    other = trained.generate("?", scene.flip(0), intention=intention)
    assert one.labels == other.labels[::-1] == (0, 2)
    assert (one.attended, other.attended) == (1, 0)
    assert one.text == other.text == "six"


def test_no_brain_signals_are_no_intention(trained, seed):
    scene = toy_scene((0, 1), (0, 1), seed)
    assert trained.generate("?", scene, neural=None) == trained.generate("?", scene, intention=None)


def test_brain_signals_speak_through_the_attached_decoder(trained, seed):
    net = AttentionNet(AttentionNetConfig((4, 6), clusters=3, width=4, hidden=4, layers=1)).eval()
    decoder = IntentionDecoder(net, SpeakerClusters(torch.eye(3))).eval()
    neural, scene = torch.randn(6, 30, generator=seed), toy_scene((0, 1), (0, 1), seed)
    with pytest.raises(InputError, match="no decoder"):
        trained.generate("?", scene, neural=neural)
    model = SceneLM(trained.config)
    model.load_state_dict(trained.state_dict())
    model.eval().attach(decoder)
    cluster = int(net(neural[None], patient=1).argmax())
    by_brain = model.generate("?", scene, neural=neural, patient=1)
    assert by_brain == model.generate("?", scene, intention=torch.eye(3)[cluster])
    among = torch.tensor([[(cluster + 1) % 3, (cluster + 2) % 3]])
    assert decoder(neural[None], patient=1, among=among).argmax() in among
    with pytest.raises(InputError, match="not both"):
        model.generate("?", scene, neural=neural, intention=torch.zeros(3))
    assert model.state_dict().keys() == trained.state_dict().keys()


def test_a_step_on_cached_keys_equals_the_whole(trained, seed):
    scene, answer, intention = toy_batch(1, seed)
    question = encode(["?"])
    with torch.inference_mode():
        whole = trained(question, scene, answer, intention)
        told = _Told(trained, trained.prefix(question, scene, intention))
        state, parts = told.init_state(1), []
        for token in answer.split(1, 1):
            logits, state = told.step(token, state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)
        made = list(generate(told, torch.tensor([[BEGIN]]), 3, temperature=0.0))
        assert int(made[0]) == int(whole[0, 0].argmax())


@torch.no_grad()
def test_the_projector_is_linear(seed):
    project = IntentionProjector(5, 7)
    a, b = torch.randn(2, 5, generator=seed), torch.randn(2, 5, generator=seed)
    torch.testing.assert_close(project(2 * a - b), 2 * project(a) - project(b))
    assert not project(torch.zeros(1, 5)).any()


@torch.no_grad()
def test_a_dropped_intention_is_none(trained, seed):
    scene, answer, intention = toy_batch(2, seed)
    question = encode(["?"]).expand(2, 1)
    dropped = trained(question, scene, answer, intention, torch.tensor([True, False]))
    torch.testing.assert_close(dropped[0], trained(question, scene, answer, intention)[0])
    torch.testing.assert_close(dropped[1], trained(question, scene, answer)[1])


def test_any_causal_attention_fits(seed):
    model = SceneLM(
        SceneLMConfig(dim=16, layers=2, heads=2, intention=3, bands=BANDS, attention=("lightning", "softmax"))
    )
    assert isinstance(model.eval().generate("?", torch.zeros(2, BANDS, 8), longest=4), Answer)


def test_thoughts_are_read_back_and_nonsense_is_kept():
    assert Answer.parse(thought_of((3, 12), 0, "a: b")) == ("a: b", (3, 12), 0, "A3 B12 >A: a: b")
    assert Answer.parse("hm").attended is None
    assert Answer.parse("A1 B2 >F: x").attended is None
    assert encode(["a", "bcd"], answers=True).tolist() == [[BEGIN, 97, END, END, END], [BEGIN, 98, 99, 100, END]]


def test_what_follows_the_end_does_not_count(seed):
    model = SceneLM(SceneLMConfig(dim=16, layers=1, heads=2, intention=3, bands=BANDS)).eval()
    scene = torch.randn(1, 2, BANDS, 8, generator=seed)
    short = encode(["ab"], answers=True)
    padded = torch.cat((short, torch.full((1, 5), END)), 1)
    question = encode(["?"])
    torch.testing.assert_close(model.loss(question, scene, short), model.loss(question, scene, padded))


@torch.no_grad()
def test_padding_and_patients_of_the_attention_net(seed):
    net = AttentionNet(AttentionNetConfig.small()).eval()
    x = torch.randn(2, 24, 40, generator=seed)
    mask = torch.arange(40) < torch.tensor([[40], [25]])
    logits = net(x, mask, patient=1)
    torch.testing.assert_close(logits[1:], net(x[1:, :, :25], patient=1), atol=1e-5, rtol=1e-5)
    x[1, :, 25:] = 100
    torch.testing.assert_close(net(x, mask, patient=1), logits)
    assert net(x[:, :16], patient=0).shape == (2, 4)
    for wrong, message in (({"patient": 0}, "16 electrodes"), ({"patient": 2}, "no patient 2")):
        with pytest.raises(InputError, match=message):
            net(x, **wrong)
    with pytest.raises(InputError, match="padding comes after"):
        net(x, mask.flip(1), patient=1)
    with pytest.raises(InputError, match="all padding"):
        net(x, mask & False, patient=1)


def test_voices_fall_into_the_nearest_cluster(seed):
    pytest.importorskip("sklearn")
    voices = torch.cat([torch.randn(10, 6, generator=seed) + 20 * k for k in range(3)])
    clusters = SpeakerClusters.fit(voices, clusters=3)
    kinds = clusters.predict(voices)
    assert len({int(kind) for kind in kinds}) == 3
    assert all(len(set(kinds[10 * k : 10 * k + 10].tolist())) == 1 for k in range(3))
    torch.testing.assert_close(clusters.intention(kinds[:1])[0], voices[:10].mean(0), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="cannot make 40"):
        SpeakerClusters.fit(voices, clusters=40)


def test_weights_need_their_configuration():
    for kind in (SceneLM, AttentionNet):
        with pytest.raises(CheckpointError, match=r"config\.json"):
            kind.from_authors({})
    with pytest.raises(InputError, match="centroids"):
        IntentionDecoder(AttentionNet(AttentionNetConfig.small()), SpeakerClusters(torch.zeros(3, 5)))


def attended_trials(count: int, snr: float = 0.0, seed: int = 0):
    """Envelopes of two talkers, trials that follow the first, and the second's envelope, as arrays."""
    rng = np.random.default_rng(seed)
    talkers = np.abs(rng.standard_normal((count, 2, 240)))
    kernel = np.random.default_rng(9).standard_normal((6, 8))
    x = np.stack([[np.convolve(t[0] + 0.3 * t[1], row)[:240] for row in kernel] for t in talkers])
    return x + 10 ** (-snr / 20) * x.std() * rng.standard_normal(x.shape), talkers


def test_the_envelope_decoder_finds_the_attended_talker_and_is_saved(tmp_path):
    sklearn_base = pytest.importorskip("sklearn.base")
    from harken.models.brain.envelope_decoder import EnvelopeDecoder

    x, talkers = attended_trials(8)
    decoder = EnvelopeDecoder(sfreq=40.0, tmax=0.25)
    decoder.fit(x, talkers[:, 0])
    test, heard = attended_trials(10, seed=1)
    assert (decoder.attend(test, heard) == 0).all()
    assert (decoder.attend(test, heard[:, ::-1]) == 1).all()
    assert decoder.score(test, heard[:, 0]) > decoder.score(test, heard[:, 1]) + 0.2
    decoder.save(tmp_path)
    again = EnvelopeDecoder.load(tmp_path)
    assert np.array_equal(again.predict(test), decoder.predict(test))
    assert sklearn_base.clone(decoder).get_params() == decoder.get_params()
    for wrong, message in ((x[:, :3], "fitted on 6 channels"), (np.full_like(x, np.nan), "NaN")):
        with pytest.raises(InputError, match=message):
            decoder.predict(wrong)
    with pytest.raises(InputError, match="one envelope a trial"):
        decoder.fit(x, talkers)


def test_the_attention_decoder_chooses_between_two_and_says_when_it_cannot(tmp_path):
    pytest.importorskip("sklearn")
    from harken.models.brain.attention_decoder import AttentionDecoder

    rng = np.random.default_rng(0)
    kinds = np.arange(36) % 3
    x = 1e-5 * (rng.standard_normal((36, 4, 30)) + 2 * np.eye(4)[kinds][..., None])
    decoder = AttentionDecoder(width=8, hidden=8, epochs=25, lr=1e-2).fit(x, kinds)
    pairs = np.stack((kinds, (kinds + 1) % 3), 1)
    assert (decoder.choose(x, pairs) == 0).mean() > 0.9
    assert (decoder.choose(x, np.stack((kinds, kinds), 1)) == -1).all()
    assert (decoder.choose(x, np.stack((kinds, np.full(36, 7)), 1)) == 0).all()
    decoder.save(tmp_path)
    assert np.array_equal(AttentionDecoder.load(tmp_path).predict_proba(x), decoder.predict_proba(x))
    with pytest.raises(InputError, match="clusters of each stream"):
        decoder.choose(x, kinds)
