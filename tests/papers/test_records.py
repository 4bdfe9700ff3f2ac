"""The records: all there, all true to their files, and cheap to list."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import harken.papers
from harken.errors import InputError
from harken.papers import KINDS, SLUGS, STATUSES, get_paper, list_papers

LISTED = """
wersa efr-coherence periodwave aad-llm fusemax ssvep-dnn mambattention moh affective-agent mapss steelpan-counting
lightning-attention geometric-eeg mp-senet lina-speech lightning-attention-2 cross-attention-s2t oat-scanpath
periodwave-turbo music-transformer channel-selection-asr panns mvpformer av-sinks hilo masformer circuit-scaling
hrtfformer mala circuit-reuse cm-hrnn look-once-to-hear cace-net sae-circuits chirp-localization dbconformer lipcot
speech-language-features visual-sinks lasp2 balanced-vlm-attention brain-speech-decoding vit-head-analytics sparsifiner
critical-band-masking transformer-tts deconstructing-attention sinklora pscodec fastspeech ancat ap-bwe longvq demucs
flowformer minimal-transformer attention-sink-emergence sea
"""
EXPECTED = LISTED.split()

FOLDER = Path(harken.papers.__file__).parent
NOT_RECORDS = {"claims", "claims_page", "parity", "table"}
ROOMS = {"attention", "hardware", "layers", "lens", "models", "scale", "score", "signal", "tasks", "train"}


def test_all_58_are_listed_in_the_order_of_the_table():
    assert len(set(EXPECTED)) == 58
    assert [paper.slug for paper in list_papers()] == EXPECTED


def test_every_record_file_is_listed_and_opens_with_its_paper():
    files = {path.stem for path in FOLDER.glob("[!_]*.py")} - NOT_RECORDS
    assert files == {slug.replace("-", "_") for slug in SLUGS}
    for slug in SLUGS:
        source = import_module(f"harken.papers.{slug.replace('-', '_')}").__doc__.splitlines()[0]
        arxiv = get_paper(slug).arxiv
        assert source.endswith(f"(arXiv {arxiv})." if arxiv else ")."), slug


@pytest.mark.parametrize("paper", list_papers(), ids=lambda paper: paper.slug)
def test_a_record_is_whole(paper):
    assert paper.title
    assert paper.licence
    assert paper.rooms
    assert paper.verbs
    assert paper.status in STATUSES
    assert paper.kind and set(paper.kind) <= set(KINDS)
    assert {room.split("/")[0] for room in paper.rooms} <= ROOMS
    for identifier in (*filter(None, [paper.arxiv]), *paper.related):
        assert re.fullmatch(r"\d{4}\.\d{5}|\d{4}\.\d{4}", identifier)
    assert paper.repository is None or re.fullmatch(r"[\w.-]+/[\w.-]+", paper.repository)
    assert paper.repository is not None or paper.licence == "no code published"
    assert bool(paper.missing) == (paper.status == "partial"), "partial, and only partial, says what is missing"
    for claim in paper.claims:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.name), "the name becomes a file name"
        assert claim.statement and claim.source and claim.paper_value
    assert len({claim.name for claim in paper.claims}) == len(paper.claims)


def test_identifiers_and_cases_are_not_shared():
    papers = list_papers()
    arxiv = [paper.arxiv for paper in papers if paper.arxiv]
    assert len(set(arxiv)) == len(arxiv)
    cases = [case for paper in papers for case in (paper.slug, *paper.cases)]
    assert len(set(cases)) == len(cases)


@pytest.mark.parametrize("paper", [p for p in list_papers() if p.status == "works"], ids=lambda paper: paper.slug)
def test_what_works_can_be_checked(paper):
    module, _, name = paper.model.partition(":")
    assert hasattr(import_module(module), name)
    assert paper.replay is not None
    assert paper.claims


def test_a_near_miss_is_named():
    with pytest.raises(InputError, match="did you mean mp-senet"):
        get_paper("mp_sennet")
    with pytest.raises(InputError, match="harken papers"):
        get_paper("zzzzzz")


def test_listing_the_papers_does_not_import_torch():
    code = "import sys; from harken.papers import list_papers; list_papers(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
