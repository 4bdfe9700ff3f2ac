"""Flow-Attention: linear attention from the conservation of flow (arXiv 2202.06258)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._language import Language
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harken.papers._trials import Trials

LANGUAGE = Language(steps=400, lr=5e-3, layers=3)
PIXELS = Language(task="image", length=64, steps=250, batch=48, layers=2)
LANGUAGE_MARGIN = 0.02  # bits a byte
PIXEL_MARGIN = 0.02  # of the images
LANGUAGE_RULE = (
    f"holds: flow beats linear attention and softmax, both by more than {LANGUAGE_MARGIN} bits a byte and two standard "
    "errors; holds in direction: it beats linear attention so; fails here: linear attention beats it so"
)
PIXEL_RULE = (
    "holds: flow beats linear attention by more than 2 % of the images and two standard errors, is on average not "
    "further than that behind softmax, and loses more than that on average without either of its parts; holds in "
    "direction: it beats linear attention so; fails here: linear attention beats it so"
)


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The authors' bidirectional and causal modules, the flows inside them included."""
    import torch
    import torch.nn.functional as F

    from harken.attention.flow import FlowForm, flow_attention, flow_conservation
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    theirs, saved = case.config, case.io
    form = FlowForm(theirs["kernel"], theirs["clamp"] and tuple(theirs["clamp"]), theirs["eps"])
    heads = theirs["n_heads"]

    def project(part: str, x: Tensor) -> Tensor:  # theirs may change the width, which a layer of ours keeps
        return F.linear(x, case.weights[f"{part}_projection.weight"], case.weights[f"{part}_projection.bias"])

    def projected(module: str, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            project(f"{module}.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part, x in (("query", queries), ("key", keys), ("value", values))
        )
        return q, k, v

    def attend(module: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = projected(module, queries, keys, values)
        mixed = flow_attention(q, k, v, causal=module == "causal", form=form)
        return project(f"{module}.out", mixed.transpose(1, 2).flatten(2))

    with torch.inference_mode():
        x = saved["self_x"]
        q, k, _ = projected("normal", x, x, x)
        unclamped = flow_conservation(q, k, form=form._replace(clamp=None))
        q, k, _ = projected("causal", x, x, x)
        causal = flow_conservation(q, k, causal=True, form=form)
        return {
            "out_cross": attend("normal", saved["cross_queries"], saved["cross_keys"], saved["cross_values"]),
            "out_self": attend("normal", x, x, x),
            "out_causal": attend("causal", x, x, x),
            "self_conserved_source_before_clamp": unclamped.source,
            "causal_incoming": causal.incoming,
            "causal_outgoing": causal.outgoing,
            "causal_conserved_sink": causal.sink,
            "causal_conserved_source_clamped": causal.source,
            "causal_competition": causal.competition,
        }


def language_model(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Softmax, linear attention (``elu + 1``) and Flow-Attention in the same small language model."""
    language = LANGUAGE.for_run(quick)
    seeds = range(seed, seed + 2)
    trials = language.compare({name: language.decoder(name) for name in ("softmax", "linear", "flow")}, seeds, progress)
    against_linear = trials.finding("flow", than="linear", margin=LANGUAGE_MARGIN)
    against_softmax = trials.finding("flow", than="softmax", margin=LANGUAGE_MARGIN)
    verdict: Verdict = "not shown here"
    if against_linear == "better":
        verdict = "holds" if against_softmax == "better" else "holds in direction"
    elif against_linear == "worse":
        verdict = "fails here"
    return Evidence(
        measured=trials.as_measured(["flow"]),
        baseline=trials.as_measured(["linear", "softmax"]),
        verdict=verdict,
        summary=(
            f"Held-out bits a byte after {language.steps} equal steps: flow {trials.text('flow')}, linear attention "
            f"{trials.text('linear')}, softmax {trials.text('softmax')}."
        ),
        settings=language.settings(seeds, LANGUAGE_RULE, parameters=trials.parameters, by_seed=trials.values),
    )


def pixels(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Softmax, linear attention, Flow-Attention, and it without competition and without allocation, as classifiers."""
    language = PIXELS.for_run(quick)
    seeds = range(seed, seed + 3)
    mechanisms = {
        "softmax": "softmax",
        "linear": "linear",
        "flow": "flow",
        "flow_without_competition": "flow:competition=false",
        "flow_without_allocation": "flow:allocation=false",
    }
    trials = language.compare({name: _classifier(language, text) for name, text in mechanisms.items()}, seeds, progress)
    return Evidence(
        measured=trials.as_measured(["flow", "flow_without_competition", "flow_without_allocation"]),
        baseline=trials.as_measured(["linear", "softmax"]),
        verdict=judge_pixels(trials),
        summary=(
            f"Held-out accuracy after {language.steps} equal steps: flow {trials.text('flow')}, linear attention "
            f"{trials.text('linear')}, softmax {trials.text('softmax')}; flow without competition "
            f"{trials.text('flow_without_competition')}, without allocation {trials.text('flow_without_allocation')}."
        ),
        settings=language.settings(seeds, PIXEL_RULE, parameters=trials.parameters, by_seed=trials.values),
    )


def judge_pixels(trials: Trials) -> Verdict:
    """By the rule in the settings, fixed before the run."""
    against_linear = trials.finding("flow", than="linear", margin=PIXEL_MARGIN)
    if against_linear != "better":
        return "fails here" if against_linear == "worse" else "not shown here"
    parts = ("flow_without_competition", "flow_without_allocation")
    parts_count = all(trials.gain("flow", than=part)[0] > PIXEL_MARGIN for part in parts)
    keeps_up = trials.gain("flow", than="softmax")[0] >= -PIXEL_MARGIN
    return "holds" if parts_count and keeps_up else "holds in direction"


def _classifier(language: Language, mechanism: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from harken.data.attention_tasks import ImageClassification
        from harken.models.classify.sequence import SequenceClassifier, SequenceClassifierConfig

        return SequenceClassifier(
            SequenceClassifierConfig(
                classes=ImageClassification.classes,
                channels=ImageClassification.channels,
                dim=language.dim,
                layers=language.layers,
                heads=language.heads,
                attention=(mechanism,),
            )
        )

    return build


CLAIMS = (
    Claim(
        name="language-model",
        statement="As causal attention of a language model, Flow-Attention beats linear attention, and softmax too.",
        source="arXiv 2202.06258, WikiText-103; the authors' README",
        paper_value="perplexity on WikiText-103: flow 30.8, softmax 33.0, linear attention 38.4",
        run=language_model,
    ),
    Claim(
        name="pixel-sequences",
        statement=(
            "As bidirectional attention of a classifier of sequences (here: images, pixel by pixel), Flow-Attention "
            "beats linear attention, does no worse than softmax, and needs both competition and allocation."
        ),
        source="arXiv 2202.06258, Long Range Arena and its ablation",
        paper_value=(
            "average accuracy on Long Range Arena: flow 56.48 %, softmax 54.39 %, linear attention 50.55 %; without "
            "competition 55.25 %, without allocation 55.58 %"
        ),
        run=pixels,
    ),
)

PAPER = Paper(
    slug="flowformer",
    title="Flowformer: Linearizing Transformers with Conservation Flows",
    arxiv="2202.06258",
    repository="thuml/Flowformer",
    licence="MIT",
    kind=("attention",),
    rooms=("attention/flow.py",),
    reached_by=('create_attention("flow")',),
    model="harken.attention.flow:FlowAttention",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
