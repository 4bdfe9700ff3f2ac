"""Demucs and Conv-TasNet: separate drums, bass, voice and the rest of a stereo mix (arXiv 1911.13254)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from harken.papers._trials import Trials

STEPS, FINE_STEPS = 700, 300
MARGIN = 0.1  # dB of SDR
PRICE = 0.1  # of a MiB: the paper's 3e-4 times the share of its weights that this model has


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Both networks, recordings with and without segments, and DiffQ's bits, levels and sizes on a case's inputs."""
    import torch
    from torch import nn

    from harken.layers.diffq import (
        DiffQ,
        DiffQConfig,
        add_pseudo_noise,
        dequantise,
        group_bits,
        quantise,
        whole_bits,
    )
    from harken.models.separate._products import through
    from harken.models.separate.conv_tasnet import ConvTasNet, ConvTasNetConfig
    from harken.models.separate.demucs import Demucs, DemucsConfig
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    io = case.io
    settings = _shared(case.config["demucs"])
    demucs = Demucs.from_authors(case.part("demucs."), DemucsConfig(**settings)).eval()
    settings = _shared(case.config["tasnet"])
    tasnet = ConvTasNet.from_authors(case.part("tasnet."), ConvTasNetConfig(**settings)).eval()
    lengths = [int(length) for length in io["valid_length"][:, 0]]
    made = {"valid_length": torch.tensor([[length, demucs.valid_length(length)] for length in lengths])}
    with torch.inference_mode():
        made |= {"out": demucs(io["mix"]), "tasnet_out": tasnet(io["tasnet_in"])}
        w = tasnet.encode(io["tasnet_in"])
        made |= {"tasnet_w": w, "tasnet_mask": tasnet.masks(w)}
        entering = io["mix"]
        if demucs.upsample is not None:
            entering = made["upsampled"] = demucs.upsample(entering)
        made["encoder0_out"] = through(demucs.encoder[0], entering.mT).mT
        made["split_out"] = _in_segments(demucs, io["long_mix"])
        made["tasnet_split_out"] = _in_segments(tasnet, io["long_mix"])
        made["nosplit_out"] = demucs.separate(io["long_mix"][None], standardise=False)[0]
    config = DiffQConfig(**_shared(case.config["diffq"]))
    weight = io["diffq_weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    sizes = DiffQ(layer, config)
    with torch.no_grad():
        layer.weight.copy_(weight)
        sizes.logits[0].copy_(io["diffq_logit"] / config.speed)
    bits = group_bits(io["diffq_logit"], config)
    whole = whole_bits(bits, config)
    found = quantise(weight, whole)
    return made | {
        "diffq_bits": bits,
        "diffq_int_bits": whole.float(),
        "diffq_levels": found.levels.float(),
        "diffq_dequantised": dequantise(found).view_as(weight),
        "diffq_noisy_weight": add_pseudo_noise(weight, bits, io["diffq_noise"]),
        "diffq_model_size_bytes": sizes.size(layer).detach() * 2**20,
        "diffq_true_model_size_bytes": torch.tensor(sizes.true_size(layer) * 2**20),
    }


def _in_segments(model: Any, mix: Tensor) -> Tensor:
    """A recording in the model's own segments, a quarter of each repeated by the next one, weighted by triangles."""
    import numpy as np
    import torch

    from harken.tasks.chunking import overlap_add

    def piece(held: np.ndarray, length: int) -> np.ndarray:
        made = model.separate_piece(torch.from_numpy(np.ascontiguousarray(held.T))[None], length)
        return made[0].flatten(0, 1).T.numpy()

    blocks = [mix.T.numpy()]
    whole = overlap_add(
        blocks,
        piece,
        frames=mix.shape[-1],
        channels=mix.shape[0],
        segment=model.config.segment_length,
        context=model.context(),
    )
    made = torch.from_numpy(np.concatenate(list(whole)).T.copy())
    return made.unflatten(0, (len(model.sources), mix.shape[0]))


_RENAMED = {
    "samplerate": "sample_rate",
    "N": "filters",
    "L": "kernel_size",
    "B": "bottleneck",
    "H": "hidden",
    "P": "block_kernel",
    "X": "blocks",
    "R": "repeats",
    "norm_type": "norm",
    "mask_nonlinear": "mask",
}
_FLOATS = ("growth", "rescale", "init_bits", "min_size")
_NORMS = {"gLN": "global", "cLN": "channel", "BN": "batch", "id": "none"}


def _shared(settings: dict[str, Any]) -> dict[str, Any]:
    """The authors' settings by our names."""
    ours = {_RENAMED.get(name, name): value for name, value in settings.items()}
    ours |= {name: float(ours[name] or 0) for name in _FLOATS if name in ours}  # JSON knows one kind of number
    if "sources" in ours:
        ours["sources"] = tuple(ours["sources"])
    if "norm" in ours:
        ours["norm"] = _NORMS[ours["norm"]]
    return ours


def recurrence_helps(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Train a small Demucs with and without its BLSTM, and judge both on songs that it has not heard."""
    from harken.papers._separation import SETTINGS, fit, load_stems, small_model
    from harken.papers._trials import Trials

    stems, steps = load_stems(quick), 2 if quick else STEPS
    seeds = range(seed, seed + (1 if quick else 2))
    sdr = Trials("accuracy")  # the higher the better
    for number, (one, layers) in enumerate((s, n) for s in seeds for n in (1, 0)):
        model, name = small_model(stems, one, lstm_layers=layers), "blstm" if layers else "none"
        scores = fit(model, stems, steps, one, _share(progress, number, 2 * len(seeds), name))
        sdr.values.setdefault(name, []).append(scores["sdr"])
        sdr.parameters[name] = sum(p.numel() for p in model.parameters())
    gain, error = sdr.gain("blstm", "none")
    return Evidence(
        measured={"sdr_blstm": sdr.mean("blstm"), "sdr_blstm_spread": sdr.spread("blstm")},
        baseline={"sdr_none": sdr.mean("none"), "sdr_none_spread": sdr.spread("none")},
        verdict=_judge(sdr, "blstm", "none", 0.45),
        summary=(
            f"After {steps} steps on {len(seeds)} seed(s), SDR on held-out songs is {sdr.mean('blstm'):.2f} dB with "
            f"the BLSTM and {sdr.mean('none'):.2f} dB without: {gain:+.2f} dB (standard error {error:.2f})."
        ),
        settings={
            **SETTINGS,
            "steps": steps,
            "seeds": list(seeds),
            "parameters": sdr.parameters,
            "rule": f"holds from +0.45 dB, half of the paper's gain; in direction beyond {MARGIN} dB and two errors",
        },
    )


def shifts_help(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Separate held-out songs with and without an average over ten random shifts."""
    from functools import partial

    import torch

    from harken.papers._separation import SETTINGS, fit, load_stems, score, small_model
    from harken.papers._trials import Trials

    stems, steps = load_stems(quick), 2 if quick else STEPS
    seeds, shifts = range(seed, seed + (1 if quick else 2)), 2 if quick else 10
    sdr = Trials("accuracy")
    for number, one in enumerate(seeds):
        model = small_model(stems, one)
        fit(model, stems, steps, one, _share(progress, number, len(seeds), "training"))
        model.eval()
        shifted = partial(model.separate, shifts=shifts, generator=torch.Generator().manual_seed(one))
        sdr.values.setdefault("one_pass", []).append(score(model, stems, model.separate))
        sdr.values.setdefault("shifts", []).append(score(model, stems, shifted))
    gain, error = sdr.gain("shifts", "one_pass")
    return Evidence(
        measured={"sdr_shifts": sdr.mean("shifts"), "sdr_shifts_spread": sdr.spread("shifts")},
        baseline={"sdr_one_pass": sdr.mean("one_pass"), "sdr_one_pass_spread": sdr.spread("one_pass")},
        verdict=_judge(sdr, "shifts", "one_pass", 0.1, 0.02),
        summary=(
            f"Averaging over {shifts} random shifts changes the SDR on held-out songs from {sdr.mean('one_pass'):.2f} "
            f"to {sdr.mean('shifts'):.2f} dB: {gain:+.3f} dB (standard error {error:.3f}), for {shifts} times the work."
        ),
        settings={
            **SETTINGS,
            "steps": steps,
            "shifts": shifts,
            "seeds": list(seeds),
            "rule": "holds from +0.1 dB, half of the paper's gain; in direction beyond 0.02 dB and two errors",
        },
    )


def noise_finds_the_bits(seed: int, quick: bool, progress: Progress) -> Evidence:
    """From one trained model, learn on in float32, with DiffQ, and with four bits for every weight."""
    import copy

    from harken.layers.diffq import DiffQ, uniform_size
    from harken.papers._separation import QUANTISATION, SETTINGS, fit, load_stems, small_model
    from harken.papers._trials import Trials

    stems, (steps, fine) = load_stems(quick), (2, 2) if quick else (STEPS, FINE_STEPS)
    seeds = range(seed, seed + (1 if quick else 2))
    sdr, mib = Trials("accuracy"), Trials("mib")
    kinds: dict[str, dict[str, Any]] = {
        "float32": {},
        "diffq": {"diffq": PRICE, "quantisation": QUANTISATION},
        "uniform": {"bits": 4, "quantisation": QUANTISATION},
    }
    for number, one in enumerate(seeds):
        trained = small_model(stems, one)
        parts = 1 + len(kinds)
        fit(trained, stems, steps, one, _share(progress, number * parts, parts * len(seeds), "float32"))
        for index, (name, options) in enumerate(kinds.items()):
            model, told = copy.deepcopy(trained), _share(progress, number * parts + 1 + index, parts * len(seeds), name)
            scores = fit(model, stems, fine, one + 100, told, lr=3e-4, **options)
            plain = 4 * sum(p.numel() for p in trained.parameters()) / 2**20
            sizes = {
                "float32": plain,
                "uniform": uniform_size(trained, DiffQ(trained, QUANTISATION).names, 4),
                "diffq": scores.get("mib", plain),
            }
            sdr.values.setdefault(name, []).append(scores["sdr"])
            mib.values.setdefault(name, []).append(sizes[name])
    smaller = mib.mean("float32") / mib.mean("diffq")
    lost = sdr.mean("float32") - sdr.mean("diffq")
    names = ("diffq",)
    others = ("float32", "uniform")
    return Evidence(
        measured={f"{trial}_{n}": t.mean(n) for trial, t in (("sdr", sdr), ("mib", mib)) for n in names},
        baseline={f"{trial}_{n}": t.mean(n) for trial, t in (("sdr", sdr), ("mib", mib)) for n in others},
        verdict=_judge_bits(sdr, mib),
        summary=(
            f"DiffQ makes the model {smaller:.1f} times smaller ({mib.mean('float32'):.2f} to {mib.mean('diffq'):.2f} "
            f"MiB as stored) and costs {lost:.2f} dB of SDR on held-out songs; four bits for every weight "
            f"({mib.mean('uniform'):.2f} MiB) cost {sdr.mean('float32') - sdr.mean('uniform'):.2f} dB."
        ),
        settings={
            **SETTINGS,
            "steps": steps,
            "fine_tuning_steps": fine,
            "price_of_a_mib": PRICE,
            "speed_of_logits": QUANTISATION.speed,
            "seeds": list(seeds),
            "rule": (
                "holds where DiffQ is at least 4 times smaller than float32, costs at most 0.1 dB, and beats four "
                f"uniform bits by more than {MARGIN} dB; in direction where it beats them so at no greater size, or "
                "costs at most 0.1 dB at a fourth of the size; fails where uniform bits beat it at no greater size"
            ),
        },
    )


def _judge(sdr: Trials, name: str, than: str, near: float, margin: float = MARGIN) -> Verdict:
    """Fixed before the run."""
    finding = sdr.finding(name, than, margin)
    if finding == "better":
        return "holds" if sdr.gain(name, than)[0] >= near else "holds in direction"
    return "fails here" if finding == "worse" else "not shown here"


def _judge_bits(sdr: Trials, mib: Trials) -> Verdict:
    """Fixed before the run."""
    small = mib.mean("float32") >= 4 * mib.mean("diffq")
    faithful = sdr.mean("float32") - sdr.mean("diffq") <= 0.1
    finding = sdr.finding("diffq", "uniform", MARGIN)
    if small and faithful and finding == "better":
        return "holds"
    if (small and faithful) or (finding == "better" and mib.mean("diffq") <= mib.mean("uniform")):
        return "holds in direction"
    if finding == "worse" and mib.mean("uniform") <= mib.mean("diffq"):
        return "fails here"
    return "not shown here"


def _share(progress: Progress, number: int, of: int, name: str) -> Progress:
    """The progress of one of several trainings."""
    return lambda done, note: progress((number + done) / of, f"{name}: {note}")


CLAIMS = (
    Claim(
        name="blstm",
        statement="A bidirectional LSTM at the bottom of the U-Net is worth most of a decibel.",
        source="arXiv 1911.13254, ablation study",
        paper_value="SDR on MusDB 6.28 dB (mean of three seeds) with, 5.40 dB without",
        run=recurrence_helps,
    ),
    Claim(
        name="shift-trick",
        statement="Averaging what a network makes of randomly shifted copies of a mixture improves the separation.",
        source="arXiv 1911.13254, ablation study",
        paper_value="SDR on MusDB 6.28 dB with ten shifts, 6.05 dB with none",
        run=shifts_help,
    ),
    Claim(
        name="diffq",
        statement=(
            "Noise in place of rounding lets each group of weights find its number of bits: the model is stored in a "
            "fraction of its size without loss, where uniform quantisation to few bits loses."
        ),
        source="arXiv 1911.13254, model compression; arXiv 2104.09987",
        paper_value="SDR on MusDB 6.36 dB at about 130 MB (float32: 6.28 dB at 1014 MB)",
        run=noise_finds_the_bits,
    ),
)

PAPER = Paper(
    slug="demucs",
    title="Music source separation in the waveform domain",
    arxiv="1911.13254",
    repository="facebookresearch/demucs",
    licence="MIT",
    kind=("model",),
    rooms=(
        "models/separate/demucs.py",
        "models/separate/conv_tasnet.py",
        "layers/diffq.py",
        "signal/sinc_resampling.py",
        "train/separation.py",
        "tasks/separate.py",
    ),
    reached_by=("harken separate",),
    model="harken.models.separate.demucs:Demucs",
    status="partial",
    missing="the published compressed checkpoint cannot be read",
    claims=CLAIMS,
    replay=replay,
    related=("2104.09987",),
)
