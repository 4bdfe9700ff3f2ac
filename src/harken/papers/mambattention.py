"""MambAttention: enhance speech with Mamba and one attention shared by time and frequency (arXiv 2507.00966)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Front end, generator with its parts, phase losses, and a block of the xLSTM baseline, on a case's inputs."""
    import torch
    from torch import nn

    from harken.layers.mamba import BothWays
    from harken.layers.mlstm import ResidualMLstm
    from harken.models.enhance.mambattention import MambAttention, MambAttentionConfig
    from harken.papers.parity import load_case
    from harken.signal.phase import phase_distance
    from harken.signal.spectrum import compressed_complex

    case = load_case(case_dir)
    sizes, spectrum = case.config["cfg"]["model_cfg"], case.config["cfg"]["stft_cfg"]
    config = MambAttentionConfig(
        channels=sizes["hid_feature"],
        blocks=sizes["num_tfmamba"],
        heads=case.config["n_head"],
        sample_rate=spectrum["sampling_rate"],
        n_fft=spectrum["n_fft"],
        hop_length=spectrum["hop_size"],
        win_length=spectrum["win_size"],
        compression=sizes["compress_factor"],
        beta=sizes["beta"],
        expand=sizes["expand"],
        states=sizes["d_state"],
        kernel=sizes["d_conv"],
        offsets=False,
    )
    outputs: dict[str, Tensor] = {}
    generator = {name: w for name, w in case.weights.items() if not name.startswith("xlstm_block.")}
    with torch.inference_mode():
        model: Any = MambAttention.from_authors(generator, config).eval()
        block = model.blocks[0]
        factor = case.io["noisy"].square().mean(-1).rsqrt()
        magnitude, phase = model.spectrum(case.io["noisy"] * factor[:, None])
        encoded = model.encoder(magnitude.transpose(1, 2), phase.transpose(1, 2))
        made, made_phase = model(magnitude, phase)
        distance = phase_distance(phase, made_phase, first=True)
        rows = case.io["seq_in"]
        outputs |= {
            "norm_factor": factor,
            "noisy_mag": magnitude,
            "noisy_pha": phase,
            "encoder_out": encoded,
            "block0_out": block(encoded.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            "attention_out": block.attentions[0](rows),
            "time_mamba_out": block.time.core(rows),
            "mixer_fwd_out": block.time.core.forwards.mixer(rows),
            "mag_g": made,
            "pha_g": made_phase,
            "com_g": compressed_complex(made, made_phase),
            "audio_g": model.spectrum.inverse(made, made_phase, case.io["audio_g"].shape[-1]),
            "loss_ip": distance.instantaneous_phase,
            "loss_gd": distance.group_delay,
            "loss_iaf": distance.instantaneous_frequency,
        }
        theirs = case.config.get("xlstm_block")
        if theirs is None:
            return outputs
        weights = case.part("xlstm_block.")
        x = case.io["xlstm_in"]
        batch, channels, frames, bands = x.shape

        def both_ways(axis: str) -> Any:
            def one(direction: str) -> nn.Module:
                own = case.part(f"xlstm_block.{axis}_xlstm.{direction}_blocks.0.")
                layer = ResidualMLstm(channels, expand=theirs["expansion_factor"], kernel=theirs["conv_kernel_size"])
                layer.load_state_dict({_xlstm_name(name): w for name, w in own.items()})
                return layer

            linear = nn.Linear(2 * channels, channels)
            linear.weight.copy_(weights[f"{axis[0]}linear.weight"].squeeze(-1).mT)
            linear.bias.copy_(weights[f"{axis[0]}linear.bias"])
            return nn.Sequential(BothWays(one("forward"), one("backward")), linear)

        time, freq = both_ways("time"), both_ways("freq")
        rows = x.permute(0, 3, 2, 1).flatten(0, 1)
        rows = (rows + time(rows)).view(batch, bands, frames, channels).transpose(1, 2).flatten(0, 1)
        rows = (rows + freq(rows)).view(batch, frames, bands, channels)
        first = time[0].forwards
        outputs["xlstm_out"] = rows.permute(0, 3, 1, 2)
        outputs["xlstm_seq_out"] = first(case.io["xlstm_seq_in"])
        outputs["mlstm_out"] = first.cell(case.io["mlstm_q"], case.io["mlstm_k"], case.io["mlstm_v"])
    return outputs


def _xlstm_name(name: str) -> str:
    names = (
        ("layer.mlstm_cell.igate.", "into."),
        ("layer.mlstm_cell.fgate.", "forget."),
        ("layer.mlstm_cell.outnorm.", "out_norm."),
        ("layer.learnable_skip", "skip"),
        ("layer.proj_up.", "up."),
        ("layer.proj_down.", "down."),
        ("layer.conv.conv.", "conv."),
        ("layer.", ""),
    )
    for theirs, ours in names:
        name = name.replace(theirs, ours)
    return name


PAPER = Paper(
    slug="mambattention",
    title="MambAttention: Mamba with Multi-Head Attention for Generalizable Single-Channel Speech Enhancement",
    arxiv="2507.00966",
    repository="NikolaiKyhne/MambAttention",
    licence="MIT",
    kind=("model",),
    rooms=("models/enhance/mambattention.py", "layers/mamba.py", "layers/selective_scan.py", "layers/mlstm.py"),
    reached_by=("harken enhance",),
    model="harken.models.enhance.mambattention:MambAttention",
    status="partial",
    missing="no weights ship yet, and its claims are not run",
    replay=replay,
    angles=("noisy_pha", "pha_g"),
    related=("2501.06146",),
)
