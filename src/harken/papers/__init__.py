"""One record per paper: its source, its place in harken, its claims, and what was measured of them here."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib import import_module

from harken.errors import InputError
from harken.papers._record import KINDS, STATUSES, VERDICTS, Claim, Evidence, Kind, Paper, Progress, Status, Verdict

__all__ = [
    "KINDS",
    "SLUGS",
    "STATUSES",
    "VERDICTS",
    "Claim",
    "Evidence",
    "Kind",
    "Paper",
    "Progress",
    "Status",
    "Verdict",
    "get_paper",
    "list_papers",
]

# in the order of the table that users read; each record is the PAPER of the module of that name, hyphens underscored
SLUGS: tuple[str, ...] = (
    "wersa",
    "efr-coherence",
    "periodwave",
    "aad-llm",
    "fusemax",
    "ssvep-dnn",
    "mambattention",
    "moh",
    "affective-agent",
    "mapss",
    "steelpan-counting",
    "lightning-attention",
    "geometric-eeg",
    "mp-senet",
    "lina-speech",
    "lightning-attention-2",
    "cross-attention-s2t",
    "oat-scanpath",
    "periodwave-turbo",
    "music-transformer",
    "channel-selection-asr",
    "panns",
    "mvpformer",
    "av-sinks",
    "hilo",
    "masformer",
    "circuit-scaling",
    "hrtfformer",
    "mala",
    "circuit-reuse",
    "cm-hrnn",
    "look-once-to-hear",
    "cace-net",
    "sae-circuits",
    "chirp-localization",
    "dbconformer",
    "lipcot",
    "speech-language-features",
    "visual-sinks",
    "lasp2",
    "balanced-vlm-attention",
    "brain-speech-decoding",
    "vit-head-analytics",
    "sparsifiner",
    "critical-band-masking",
    "transformer-tts",
    "deconstructing-attention",
    "sinklora",
    "pscodec",
    "fastspeech",
    "ancat",
    "ap-bwe",
    "longvq",
    "demucs",
    "flowformer",
    "minimal-transformer",
    "attention-sink-emergence",
    "sea",
)


@cache
def get_paper(slug: str) -> Paper:
    """The record of a paper.

    Raises:
        InputError: no paper has that slug; names the nearest.

    >>> get_paper("mp-senet").arxiv
    '2308.08926'
    """
    if slug not in SLUGS:
        near = get_close_matches(slug.lower().replace("_", "-"), SLUGS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`harken papers` lists them"
        raise InputError(f"no paper named '{slug}': {hint}")
    return import_module(f"harken.papers.{slug.replace('-', '_')}").PAPER


def list_papers() -> list[Paper]:
    """Every record, in the order of the table.

    >>> len(list_papers())
    58
    """
    return [get_paper(slug) for slug in SLUGS]
