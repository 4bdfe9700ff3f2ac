"""Lightning Attention: causal linear attention in blocks, and the TransNormerLLM around it (arXiv 2405.17381)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._language import Language, orders, orders_text
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harken.papers._trials import Finding

LANGUAGE = Language(steps=250, lr=5e-3, layers=3)
MARGIN = 0.01  # bits a byte
GLU_DIM, GLU_DIM_WITHOUT_GATE = 152, 173  # as many parameters as the transformer's, for 64 channels
ORDER = (
    ("tnl", "transformer"),
    ("tnl", "decay_only"),
    ("decay_only", "lrpe_only"),
    ("lrpe_only", "absolute_positions"),
    ("tnl", "absolute_positions"),
    ("tnl", "without_gate"),
)
ORDER_RULE = (
    f"each pair: better or worse by more than {MARGIN} bits a byte and two standard errors, else unclear; holds: all "
    "pairs as in the paper; holds in direction: the full model beats absolute positions, and no pair is reversed; "
    "fails here: the transformer or absolute positions beat the full model"
)
FLAT = 1.15
SPEED_RULE = (
    f"holds: over all lengths the slowest training step of TransNormerLLM takes at most {FLAT} times the fastest's CPU "
    "time, and the transformer's at least 1.5 times; holds in direction: it grows at most half as much as the "
    "transformer's; fails here: it grows as much"
)


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The compact language model: logits, what every block and mixer gives, states, slopes, and decoding by tokens."""
    import torch

    from harken.attention.lightning import head_slopes
    from harken.models.write.transnormer import TransNormer, TransNormerConfig
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    theirs, tokens = case.config, case.io["tokens"]
    config = TransNormerConfig(
        vocabulary=theirs["vocab_size"],
        dim=theirs["n_embd"],
        layers=theirs["n_layer"],
        heads=theirs["n_head"],
        glu_dim=theirs["glu_dim"],
        bias=theirs["bias"],
        lrpe_layers=tuple(theirs["lrpe_layers"]),
        tied=theirs["tie_embeddings"],
        scaled_embedding=False,
        chunk_size=4,  # short, so that a short case has several chunks
    )
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        model = TransNormer.from_authors(case.weights, config).eval()
        blocks: list[Any] = list(model.blocks)
        for number, block in enumerate(blocks):
            for module, name in ((block.attention, "mixer_out"), (block, "out")):
                module.register_forward_hook(_keep(outputs, f"layer{number}_{name}"))
        outputs["logits"] = model(tokens)
        _, state = model.step(tokens, model.init_state(len(tokens)))
        for number, layer in enumerate(state.layers):
            outputs[f"state{number}_after_T"] = layer.keys_values
        outputs["slopes_base"] = head_slopes(config.heads)
        outputs["slopes_per_layer"] = torch.stack([block.attention.slopes for block in blocks])
        if "decode_logits" in case.io:
            count = case.io["decode_logits"].shape[1]
            parts = tokens.split([tokens.shape[1] - count + 1] + [1] * (count - 1), 1)
            state, logits = model.init_state(len(tokens)), []
            for part in parts:
                answer, state = model.step(part, state)
                logits.append(answer[:, -1])
            outputs["decode_logits"] = torch.stack(logits, 1)
    return outputs


def _keep(outputs: dict[str, Tensor], name: str) -> Callable[[Any, Any, Tensor], None]:
    def hook(module: Any, arguments: Any, output: Tensor) -> None:
        outputs[name] = output

    return hook


def what_counts(seed: int, quick: bool, progress: Progress) -> Evidence:
    """TransNormerLLM whole, with one part changed at a time, and a transformer of as many parameters."""
    language = LANGUAGE.for_run(quick)
    seeds = range(seed, seed + 2)
    everywhere = tuple(range(language.layers))
    trials = language.compare(
        {
            "transformer": language.decoder("softmax:rotary_base=10000.0", positions="none"),
            # a control outside the rule: is it the small weights that TransNormerLLM starts from?
            "transformer_from_small_weights": _from_small_weights(
                language.decoder("softmax:rotary_base=10000.0", positions="none")
            ),
            "tnl": _transnormer(language),
            "decay_only": _transnormer(language, lrpe_layers=()),
            "lrpe_only": _transnormer(language, decay=False, lrpe_layers=everywhere),
            "absolute_positions": _with_absolute_positions(
                _transnormer(language, decay=False, lrpe_layers=()), language.length
            ),
            "without_gate": _transnormer(language, gate=False, glu_dim=GLU_DIM_WITHOUT_GATE),
        },
        seeds,
        progress,
    )
    found = orders(trials, ORDER, MARGIN)
    changed = [name for name in trials.values if name not in ("transformer", "tnl")]
    return Evidence(
        measured=trials.as_measured(["tnl"]),
        baseline=trials.as_measured(["transformer", *changed]),
        verdict=judge_order(found),
        summary=(
            f"Held-out bits a byte after {language.steps} equal steps: "
            + ", ".join(f"{name.replace('_', ' ')} {trials.text(name)}" for name in trials.values)
            + f". {orders_text(found)}."
        ),
        settings=language.settings(
            seeds,
            ORDER_RULE,
            positions_of_the_transformer="rotary",
            glu_dim=GLU_DIM,
            parameters=trials.parameters,
            by_seed=trials.values,
            comparisons=dict(found),
        ),
    )


def judge_order(found: Mapping[str, Finding]) -> Verdict:
    """By the rule in the settings, fixed before the run."""
    if "worse" in (found["tnl before transformer"], found["tnl before absolute_positions"]):
        return "fails here"
    if all(finding == "better" for finding in found.values()):
        return "holds"
    shown = found["tnl before absolute_positions"] == "better" and "worse" not in found.values()
    return "holds in direction" if shown else "not shown here"


def constant_speed(seed: int, quick: bool, progress: Progress) -> Evidence:
    """CPU time of training steps with as many tokens each, in few long or many short sequences, on one thread."""
    import torch

    from harken.hardware.attention_bench import interleaved
    from harken.hardware.clock import one_thread

    language = Language(dim=32 if quick else 128, layers=2, heads=2)
    lengths = [16, 64] if quick else [256, 512, 1024, 2048, 4096, 8192]
    tokens = lengths[-1]
    torch.manual_seed(seed)
    models = {"tnl": _transnormer(language, glu_dim=2 * language.dim)(), "transformer": language.decoder("softmax")()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    generator = torch.Generator().manual_seed(seed)
    with one_thread():
        for number, length in enumerate(lengths):
            progress(number / len(lengths), f"{length:,} positions")
            batch = torch.randint(256, (tokens // length, length), generator=generator)
            calls: dict[Any, Callable[[], object]] = {name: _training_step(m, batch) for name, m in models.items()}
            for name, spent in interleaved(calls, rounds=1 if quick else 3).items():
                seconds[name].append(spent)
    progress(1.0, "done")
    growth = {name: max(spent) / min(spent) for name, spent in seconds.items()}
    return Evidence(
        measured={
            "time_per_token_growth_tnl": growth["tnl"],
            f"times_faster_than_transformer_at_{tokens}": seconds["transformer"][-1] / seconds["tnl"][-1],
            f"times_faster_than_transformer_at_{lengths[0]}": seconds["transformer"][0] / seconds["tnl"][0],
        },
        baseline={"time_per_token_growth_transformer": growth["transformer"]},
        verdict=judge_speed(growth),
        summary=(
            f"With {tokens:,} tokens a step in sequences of {lengths[0]:,} to {tokens:,}, the slowest training step of "
            f"a small TransNormerLLM takes {growth['tnl']:.2f} times the CPU time of the fastest, of a transformer "
            f"with fused softmax {growth['transformer']:.2f} times."
        ),
        settings={
            "lengths": lengths,
            "tokens_a_step": tokens,
            "dim": language.dim,
            "layers": language.layers,
            "heads": language.heads,
            "threads": 1,
            "clock": "CPU time of the process, models in turns, medians of forward and backward",
            "seeds": [seed],
            "microseconds_per_token": {
                name: [round(1e6 * each / tokens, 2) for each in spent] for name, spent in seconds.items()
            },
            "rule": SPEED_RULE,
        },
    )


def judge_speed(growth: Mapping[str, float]) -> Verdict:
    """By the rule in the settings, fixed before the run."""
    ours, theirs = growth["tnl"], growth["transformer"]
    if ours <= FLAT and theirs >= 1.5:
        return "holds"
    if ours >= theirs:
        return "fails here"
    return "holds in direction" if 2 * (ours - 1) <= theirs - 1 else "not shown here"


def _training_step(model: nn.Module, batch: Tensor) -> Callable[[], None]:
    def call() -> None:
        model.zero_grad(set_to_none=True)
        model(batch).sum().backward()

    return call


def _transnormer(language: Language, **choices: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from harken.models.write.transnormer import TransNormer, TransNormerConfig

        sizes = {"vocabulary": 256, "dim": language.dim, "layers": language.layers, "heads": language.heads}
        usual = {"glu_dim": GLU_DIM, "tied": True, "scaled_embedding": False}
        return TransNormer(TransNormerConfig(**{**sizes, **usual, **choices}))

    return build


def _from_small_weights(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same model with weights drawn as TransNormerLLM's are."""

    def built() -> nn.Module:
        from torch import nn

        model = build()
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        return model

    return built


def _with_absolute_positions(build: Callable[[], nn.Module], longest: int) -> Callable[[], nn.Module]:
    """The same model with a learned vector for each position added to the embeddings."""

    def built() -> nn.Module:
        import torch

        model: Any = build()
        model.embedding.absolute = torch.nn.Parameter(0.02 * torch.randn(longest, model.config.dim))
        model.embedding.register_forward_hook(lambda module, _, x: x + module.absolute[: x.shape[1]])
        return model

    return built


CLAIMS = (
    Claim(
        name="what-counts",
        statement=(
            "TransNormerLLM models language better than a transformer of its size, and decay, relative positions and "
            "gate each help: absolute positions do worst."
        ),
        source="arXiv 2405.17381, WikiText-103 and the ablations of 385 M parameters",
        paper_value=(
            "perplexity on WikiText-103: 24.03, transformer 24.78; loss of the ablations: decay with relative "
            "positions in the first layer 2.248, decay only 2.267, relative positions only 2.287, absolute positions "
            "2.387; without the gate 2.263"
        ),
        run=what_counts,
    ),
    Claim(
        name="constant-speed",
        statement="Its training speed does not depend on the length of the sequences, where a transformer's falls.",
        source="arXiv 2405.17381, training speed from 1 K to 128 K tokens; numbers of arXiv 2401.04658",
        paper_value=(
            "tokens per GPU and second, 0.4 B parameters, at 1,024 / 16,384 / 65,536 positions: TransNormerLLM 38,615 "
            "/ 37,755 / 38,278, LLaMA with FlashAttention-2 35,931 / 15,479 / 5,643"
        ),
        run=constant_speed,
    ),
)

PAPER = Paper(
    slug="lightning-attention",
    title="Various Lengths, Constant Speed: Efficient Language Modeling with Lightning Attention",
    arxiv="2405.17381",
    repository="OpenNLPLab/TransnormerLLM",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/lightning.py", "models/write/transnormer.py"),
    reached_by=('create_attention("lightning")',),
    model="harken.models.write.transnormer:TransNormer",
    status="works",
    claims=CLAIMS,
    replay=replay,
    related=("2307.14995",),
)
