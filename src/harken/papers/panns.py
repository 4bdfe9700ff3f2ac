"""PANNs: convolutional networks that tag sounds, and transfer to other tasks (arXiv 1912.10211)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="panns",
    title="PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition",
    arxiv="1912.10211",
    repository="qiuqiangkong/audioset_tagging_cnn",
    licence="MIT",
    kind=("model",),
    rooms=("models/hear/panns.py",),
    reached_by=("harken tag",),
)
