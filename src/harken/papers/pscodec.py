"""PSCodec: speech in few bits, with a reference of the speaker at the decoder (arXiv 2404.02702)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="pscodec",
    title="PSCodec: A Series of High-Fidelity Low-bitrate Neural Speech Codecs Leveraging Prompt Encoders",
    arxiv="2404.02702",
    repository=None,
    licence="no code published",
    kind=("model",),
    rooms=("models/speak/pscodec.py",),
    reached_by=("harken encode", "harken decode"),
)
