"""LiPCoT: tokens that only training data shaped, the encoder as BERT defines it, and the classifier's contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harken.errors import CheckpointError, InputError
from harken.models import brain

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from harken.models.brain.lipcot import LiPCoT, LiPCoTConfig
from harken.models.brain.lipcot_classifier import LiPCoTClassifier
from harken.models.brain.lipcot_tokenizer import LiPCoTTokenizer

TINY = LiPCoTConfig(vocabulary=8, length=10, dim=16, layers=2, heads=2, hidden=32)
QUICK = {"vocabulary": 6, "dim": 16, "hidden": 32, "layers": 1, "epochs": 2, "pretrain_epochs": 2}


def trials(count=24, channels=2, samples=400, seed=0):
    """Rhythms of two rates."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    time = np.arange(samples) / 100
    phase = rng.uniform(0, 6, (count, channels, 1))
    x = np.sin(2 * np.pi * np.where(y, 8.0, 20.0)[:, None, None] * time + phase)
    return (x + 0.5 * rng.standard_normal(x.shape)) * 1e-5, np.array(["fast", "slow"])[y]


def model(**changes) -> LiPCoT:
    torch.manual_seed(0)
    return LiPCoT(LiPCoTConfig(**{**{f: getattr(TINY, f) for f in TINY.__dataclass_fields__}, **changes})).eval()


def sentences(count=4, length=7) -> torch.Tensor:
    return torch.randint(0, 8, (count, length), generator=torch.Generator().manual_seed(1))


# tokens


@pytest.mark.parametrize("features", ["lpc", "cepstral", "poles"])
def test_words_tell_rhythms_apart_and_survive_saving(features, tmp_path):
    x, y = trials()
    tokenizer = LiPCoTTokenizer(order=4, vocabulary=4, features=features, window=100, sfreq=100.0)
    words = tokenizer.fit_transform(x)
    assert words.shape == (24, 8)
    shares = np.stack([np.bincount(words[y == name].ravel(), minlength=4) for name in ("fast", "slow")])
    assert np.minimum(*shares).sum() < 0.1 * shares.sum()
    tokenizer.save(tmp_path)
    again = brain.load_estimator(tmp_path)
    np.testing.assert_array_equal(again.transform(x), words)
    assert clone(tokenizer).get_params() == tokenizer.get_params()


def test_a_window_is_the_same_word_wherever_it_is():
    x, _ = trials()
    tokenizer = LiPCoTTokenizer(order=4, vocabulary=4, window=100).fit(x)
    words = tokenizer.transform(x).reshape(24, 4, 2)
    order = [2, 0, 3, 1]
    moved = x.reshape(24, 2, 4, 100)[:, :, order].reshape(24, 2, 400)
    np.testing.assert_array_equal(tokenizer.transform(moved).reshape(24, 4, 2), words[:, order])


@pytest.mark.parametrize("features", ["lpc", "cepstral"])
def test_a_words_spectrum_peaks_where_its_rhythm_is(features):
    x, y = trials()
    tokenizer = LiPCoTTokenizer(order=8, vocabulary=2, features=features, sfreq=100.0).fit(x)
    frequencies = np.linspace(0, 50, 501)
    spectra = tokenizer.spectra(frequencies)
    for name, rhythm in (("fast", 20), ("slow", 8)):
        word = np.bincount(tokenizer.transform(x[y == name]).ravel()).argmax()
        assert abs(frequencies[spectra[word].argmax()] - rhythm) < 1.5


@pytest.mark.border
def test_a_tokenizer_says_what_it_needs():
    x, _ = trials(4)
    for parameters, message in (
        ({"vocabulary": 99}, "up to the 8 different windows"),
        ({"window": 500}, "do not fit into trials of 400"),
        ({"features": "words"}, "expected features of"),
        ({"order": 300, "vocabulary": 2}, "expected an order"),
    ):
        with pytest.raises(InputError, match=message):
            LiPCoTTokenizer(**parameters).fit(x)
    tokenizer = LiPCoTTokenizer(order=2, vocabulary=2, features="poles").fit(x)
    with pytest.raises(InputError, match="have no spectrum"):
        tokenizer.spectra(np.zeros(1))
    with pytest.raises(InputError, match="fitted on 2 channels"):
        tokenizer.transform(x[:, :1])
    with pytest.raises(InputError, match="NaN"):
        tokenizer.transform(np.full_like(x, np.nan))


# encoder


def test_the_papers_size_is_eleven_million():
    with torch.device("meta"):
        count = sum(p.numel() for p in LiPCoT().parameters())
    assert count == pytest.approx(11.34e6, rel=0.01)


def bert(state: dict[str, torch.Tensor], entries: torch.Tensor, layers: int, heads: int) -> torch.Tensor:
    """BERT with ``relative_key`` positions as its papers write it, by the names of transformers."""

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    words = state["bert.embeddings.word_embeddings.weight"]
    x = norm(words[entries] + state["bert.embeddings.token_type_embeddings.weight"][0], "bert.embeddings.LayerNorm")
    for number in range(layers):
        at = f"bert.encoder.layer.{number}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        table = state[f"{at}.attention.self.distance_embedding.weight"]
        places = torch.arange(x.shape[1])
        distance = table[places[:, None] - places[None] + len(table) // 2]
        scores = (q @ k.mT + torch.einsum("bhld,lrd->bhlr", q, distance)) / math.sqrt(q.shape[-1])
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = linear(F.gelu(linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        x = norm(x + inner, f"{at}.output.LayerNorm")
    x = norm(F.gelu(linear(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    return F.linear(x, words, state["cls.predictions.bias"])


def authors_state(dim=16, layers=2, heads=2, hidden=32, vocabulary=8, places=12) -> dict[str, torch.Tensor]:
    shapes = {
        "bert.embeddings.word_embeddings.weight": (vocabulary + 5, dim),
        "bert.embeddings.token_type_embeddings.weight": (2, dim),
        "bert.embeddings.LayerNorm": (dim,),
        "cls.predictions.transform.dense": (dim, dim),
        "cls.predictions.transform.LayerNorm": (dim,),
        "cls.predictions.bias": (vocabulary + 5,),
    }
    for number in range(layers):
        at = f"bert.encoder.layer.{number}"
        shapes |= {f"{at}.attention.self.{part}": (dim, dim) for part in ("query", "key", "value")}
        shapes |= {
            f"{at}.attention.self.distance_embedding.weight": (2 * places - 1, dim // heads),
            f"{at}.attention.output.dense": (dim, dim),
            f"{at}.attention.output.LayerNorm": (dim,),
            f"{at}.intermediate.dense": (hidden, dim),
            f"{at}.output.dense": (dim, hidden),
            f"{at}.output.LayerNorm": (dim,),
        }
    generator = torch.Generator().manual_seed(2)
    state = {}
    for name, shape in shapes.items():
        if name.endswith((".weight", ".bias")):
            state[name] = torch.randn(shape, generator=generator) * 0.5
        else:
            state[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.5
            state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.5
    return state


@torch.inference_mode()
def test_berts_weights_give_berts_words():
    state = authors_state()
    made = LiPCoT.from_authors(state).eval()
    assert made.config == LiPCoTConfig(vocabulary=8, length=10, dim=16, layers=2, heads=2, hidden=32)
    words = sentences()
    gaps = torch.zeros_like(words, dtype=torch.bool)
    gaps[:, 2] = True
    entries = F.pad(F.pad((words + 5).masked_fill(gaps, 4), (1, 0), value=2), (0, 1), value=3)
    theirs = bert(state, entries, 2, 2)[:, 1:-1, 5:].log_softmax(-1)
    torch.testing.assert_close(made.word_logits(words, gaps).log_softmax(-1), theirs, atol=1e-4, rtol=1e-4)
    with pytest.raises(CheckpointError):
        LiPCoT.from_authors({name: t for name, t in state.items() if "layer.1" not in name or "query" not in name})


@torch.inference_mode()
def test_missing_words_are_not_attended_to():
    made, words = model(), sentences()
    words[:, 5] = -1
    longer = F.pad(words, (0, 2), value=-1)
    encoded = made.encode(longer)[:, :6]
    made.words.weight[0] += 100.0  # what stands for a missing word
    torch.testing.assert_close(made.encode(longer)[:, :6], encoded)


@pytest.mark.parametrize("attention", ["relative", "softmax", "linear", "mala"])
def test_any_attention_fills_gaps(attention):
    made = model(attention=attention).train()
    torch.manual_seed(0)
    made.gap_loss(sentences()).backward()
    idle = {name for name, p in made.named_parameters() if p.grad is None}
    assert idle == {"head.weight", "head.bias"}


def test_gaps_are_learned_from_their_neighbours():
    torch.manual_seed(0)
    made = model(dropout=0.0).train()
    first = torch.randint(0, 8, (64, 1))
    words = (first + torch.arange(7)) % 8  # each word follows from the one before
    optimizer = torch.optim.Adam(made.parameters(), 6e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = made.gap_loss(words)
        loss.backward()
        optimizer.step()
    made.eval()
    gaps = torch.zeros_like(words, dtype=torch.bool)
    gaps[:, 3] = True
    assert float((made.word_logits(words, gaps)[:, 3].argmax(-1) == words[:, 3]).float().mean()) > 0.95


def test_sentences_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="up to 10 words"):
        model()(sentences(length=11))
    with pytest.raises(InputError, match="word 8 is not among the 8"):
        model()(sentences() + 1 + (sentences() == 7).long() * 0)
    with pytest.raises(InputError, match="sizes of at least 1"):
        LiPCoTConfig(layers=0)


# classifier


def test_raw_trials_become_classes_and_survive_saving(tmp_path):
    x, y = trials(40)
    classifier = LiPCoTClassifier(
        **{**QUICK, "epochs": 12, "pretrain_epochs": 4, "lr": 3e-3}, validation=0.0, window=100
    )
    classifier.fit(x, y)
    new, truth = trials(20, seed=1)
    assert classifier.score(new, truth) > 0.9
    assert classifier.words(new).shape == (20, 8)
    classifier.save(tmp_path)
    np.testing.assert_array_equal(brain.load_estimator(tmp_path).predict_proba(new), classifier.predict_proba(new))
    assert len(classifier.pretraining_) == 4


def test_ready_sentences_keep_the_contract(tmp_path):
    rng = np.random.default_rng(0)
    words, y = rng.integers(0, 6, (24, 5)), np.arange(24) % 2
    classifier = LiPCoTClassifier(ready=True, **QUICK)
    assert np.isfinite(cross_val_score(classifier, words, y, cv=2)).all()
    classifier.fit(words, y, unlabelled=rng.integers(0, 6, (8, 5)))
    one, other = classifier.predict_proba(words), clone(classifier).fit(words, y).predict_proba(words)
    assert not np.array_equal(one, other)  # more sentences to learn gaps from
    classifier.save(tmp_path)
    np.testing.assert_array_equal(brain.load_estimator(tmp_path).predict_proba(words), one)
    with pytest.raises(InputError, match="below vocabulary=6"):
        classifier.predict(words + 3)
    with pytest.raises(InputError, match="whole numbers"):
        classifier.fit(words + 0.5, y)
    with pytest.raises(InputError, match="sentences of 5 words, and unlabelled ones of 4"):
        classifier.fit(words, y, unlabelled=words[:, :4])
