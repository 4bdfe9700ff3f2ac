"""ANCAT: a streaming recogniser that decides frame by frame how far to look ahead (arXiv 2305.04159)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="ancat",
    title="Lookahead When It Matters: Adaptive Non-causal Transformers for Streaming Neural Transducers",
    arxiv="2305.04159",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/adaptive_lookahead.py", "models/hear/ancat.py"),
    reached_by=("harken transcribe --stream", 'create_attention("adaptive-lookahead")'),
    model="harken.attention.adaptive_lookahead:AdaptiveLookaheadAttention",
    status="partial",
    missing=(
        "the recogniser around the attention: encoder, transducer and its loss; a runnable claim. "
        "The attention follows the paper's description; no code or tensors exist to compare it with"
    ),
)
