"""Lightning Attention: causal linear attention in blocks, and the TransNormerLLM around it (arXiv 2405.17381)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


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
    status="partial",
    missing="its claims: quality against a transformer of equal size, and what decay, positions and gate are worth",
    replay=replay,
    related=("2307.14995",),
)
