"""Look Once to Hear: keep the one voice that a wearer looked at, from a noisy example (arXiv 2405.06289)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The extractor, whole and chunk by chunk, its filterbank and first block, and the enrolment network."""
    import torch
    import torch.nn.functional as F

    from harken.models.separate.enrolment import EnrolmentConfig, EnrolmentNet
    from harken.models.separate.look_once import LookOnceConfig, LookOnceToHear
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    net, enrol = case.config["net"], case.config["embed_net"]
    config = LookOnceConfig(
        embedding_dim=net["embed_dim"],
        hop_length=net["stft_chunk_size"],
        look_ahead=net["stft_pad_size"],
        channels=net["D"],
        blocks=net["B"],
        hidden=net["H"],
        heads=net["L"],
        memory=net["local_atten_len"],
        synthesis="authors",
        masked_start=False,
        ears=net["num_ch"],
    )
    model: Any = LookOnceToHear.from_authors(case.part("net."), config).eval()
    enrolment: Any = EnrolmentNet.from_authors(
        case.part("embed_net."),
        EnrolmentConfig(
            embedding_dim=enrol["embed_dim"],
            n_fft=enrol["n_fft"],
            hop_length=enrol["stride"],
            channels=enrol["emb_dim"],
            blocks=enrol["n_layers"],
            hidden=enrol["lstm_hidden_units"],
            heads=enrol["attn_n_head"],
            query_size=enrol["attn_approx_qk_dim"],
            unfold=enrol["emb_ks"],
            ears=enrol["n_imics"],
        ),
    ).eval()
    mixture, embedding = case.io["mixture"], case.io["embedding"]
    samples, batch = mixture.shape[-1], len(mixture)
    padded = F.pad(mixture, (0, -samples % config.hop_length + config.look_ahead))
    with torch.inference_mode():
        stream = model.stream(embedding, batch=batch)
        pieces = [stream.push(piece) for piece in padded[..., : -config.look_ahead].split(config.hop_length, -1)]
        streamed = torch.cat((*pieces, stream.flush()), -1)[..., :samples]
        state = model.initial_state(batch)
        scale = model.talker_scale(embedding)
        for start in range(0, padded.shape[-1] - config.look_ahead, config.hop_length):
            _, state = model.step(padded[..., start : start + config.window_length], scale, state)
        given = case.io["block_in"].permute(0, 2, 3, 1)
        block, _ = model.blocks[0](given, model.blocks[0].initial_state(len(given)), state.frames[:1] * 0)
        enrolled = enrolment.blocks[0](case.io["enroll_block_in"].permute(0, 2, 3, 1))
        first = state.blocks[0]
        return {
            "out": model(mixture, embedding),
            "stream_out": streamed,
            "encoder_out": model.filterbank.analyse(padded).mT,
            "embed_feats": scale.flatten(1),
            "block_out": block.permute(0, 3, 1, 2),
            "state_conv": state.features,
            "state_istft": state.spectrum[..., None],
            "state_h0_block0": first.hidden.flatten(0, 1)[None],
            "state_K_block0": first.keys.flatten(0, 1),
            "enroll_embedding": enrolment(case.io["enroll_audio"]),
            "enroll_block_out": enrolled.permute(0, 3, 1, 2),
        }


PAPER = Paper(
    slug="look-once-to-hear",
    title="Look Once to Hear: Target Speech Hearing with Noisy Examples",
    arxiv="2405.06289",
    repository="vb000/LookOnceToHear",
    licence="non-commercial",
    kind=("model",),
    rooms=(
        "models/separate/look_once.py",
        "models/separate/look_once_stream.py",
        "models/separate/enrolment.py",
        "models/separate/filterbank.py",
        "train/extraction.py",
        "tasks/extract.py",
    ),
    reached_by=("harken extract",),
    model="harken.models.separate.look_once:LookOnceToHear",
    status="partial",
    missing="its claims have not been run",
    replay=replay,
)
