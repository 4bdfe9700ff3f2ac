"""The systems, listed, built and loaded by slug."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from harken.models._base import Model

__all__ = ["info", "list_models", "load", "model_class", "weights_folder"]

# slug -> where its class lives, so that naming the models imports none of them
_MODELS = {
    "aad-attention": "harken.models.brain.attention_net:AttentionNet",
    "aad-llm": "harken.models.brain.aad_llm:SceneLM",
    "ap-bwe": "harken.models.enhance.ap_bwe:APBWE",
    "brain-speech-decoding": "harken.models.brain.speech_decoding:SpeechDecoding",
    "chirp-localization": "harken.models.brain.chirp:ChirpLocalizer",
    "conv-tasnet": "harken.models.separate.conv_tasnet:ConvTasNet",
    "dbconformer": "harken.models.brain.dbconformer:DBConformer",
    "decoder": "harken.models.write.decoder:Decoder",
    "eeg-denoiser": "harken.models.brain.denoiser:EEGDenoiser",
    "geometric-eeg": "harken.models.brain.geometric:GraphNet",
    "demucs": "harken.models.separate.demucs:Demucs",
    "lightning-attention": "harken.models.write.transnormer:TransNormer",
    "hrtfformer": "harken.models.enhance.hrtfformer:HRTFformer",
    "lipcot": "harken.models.brain.lipcot:LiPCoT",
    "litv2": "harken.models.see.litv2:LITv2",
    "look-once-enrolment": "harken.models.separate.enrolment:EnrolmentNet",
    "look-once-to-hear": "harken.models.separate.look_once:LookOnceToHear",
    "mavit": "harken.models.see.mavit:MAViT",
    "minimal-vit": "harken.models.see.minimal_vit:MinimalViT",
    "mambattention": "harken.models.enhance.mambattention:MambAttention",
    "mp-senet": "harken.models.enhance.mp_senet:MPSENet",
    "mvpformer": "harken.models.brain.mvpformer:MVPFormer",
    "speaker-encoder": "harken.models.separate.speaker_encoder:SpeakerEncoder",
    "sequence-classifier": "harken.models.classify.sequence:SequenceClassifier",
    "ssvep-dnn": "harken.models.brain.ssvep_dnn:SSVEPNet",
    "vit": "harken.models.see.vit:ViT",
}

# slug -> the command that makes weights, where there is one
_TRAINED_BY = {
    "ap-bwe": "harken train ap-bwe",
    "brain-speech-decoding": "harken brain speech",
    "chirp-localization": "harken brain chirp train",
    "conv-tasnet": "harken train conv-tasnet",
    "dbconformer": "harken brain decode",
    "decoder": "harken write train",
    "demucs": "harken train demucs",
    "eeg-denoiser": "harken train eeg-denoiser",
    "geometric-eeg": "harken brain geometric",
    "hrtfformer": "harken train hrtfformer",
    "lipcot": "harken brain tokens",
    "litv2": "harken see classify train --model litv2",
    "look-once-enrolment": "harken train look-once --part enrolment --encoder tf-gridnet",
    "look-once-to-hear": "harken train look-once",
    "speaker-encoder": "harken train look-once --part enrolment",
    "mavit": "harken see classify train --model mavit",
    "minimal-vit": "harken see classify train --model minimal",
    "mambattention": "harken train mambattention",
    "mp-senet": "harken train mp-senet",
    "mvpformer": "harken brain seizure train",
    "ssvep-dnn": "harken brain ssvep train",
    "vit": "harken see classify train --model vit",
}

_FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin")


def list_models(room: str | None = None) -> list[str]:
    """Slugs of the models, optionally of one room (``"enhance"``, ``"speak"``…).

    >>> "mp-senet" in list_models("enhance")
    True
    """
    return [slug for slug, path in _MODELS.items() if room is None or path.split(".")[2] == room]


def model_class(slug: str) -> type[Model]:
    """The class of a model.

    Raises:
        InputError: no model has that slug.
    """
    try:
        module, _, name = _MODELS[slug].partition(":")
    except KeyError:
        raise InputError(f"no model named '{slug}': one of {', '.join(_MODELS)}") from None
    return getattr(import_module(module), name)


def weights_folder(slug: str) -> Path | None:
    """Where a model's bundled weights lie; None when none ship."""
    folder = Path(str(files("harken"))) / "weights" / slug
    return folder if (folder / "model.safetensors").is_file() else None


def load(slug: str, weights: str | Path | None = None, *, device: str = "cpu") -> Any:
    """A model with weights, ready for inference.

    Args:
        slug: one of :func:`list_models`.
        weights: None for the bundled ones; a folder or Hub repository saved by ``save_pretrained``; or a checkpoint
            file, harken's own or the authors'.
        device: where the model goes.

    Raises:
        CheckpointError: there are no such weights, or they do not fit.
    """
    from harken.models._base import first_line, read_tensors

    model_type = model_class(slug)
    if weights is None:
        folder = weights_folder(slug)
        if folder is None:
            train = f"train some with '{_TRAINED_BY[slug]}', or " if slug in _TRAINED_BY else ""
            raise CheckpointError(f"'{slug}' ships no weights: {train}pass --weights")
        return model_type.from_pretrained(folder).to(device)
    path = Path(weights)
    if path.is_dir():
        return model_type.from_pretrained(path).to(device)
    if path.is_file():
        config = path.with_name("config.json")
        if path.suffix == ".safetensors" and config.is_file():
            return model_type.from_files(config, path).to(device)
        return model_type.from_authors(read_tensors(path)).to(device).eval()
    if path.suffix in _FILE_ENDINGS or path.is_absolute() or str(weights).count("/") != 1:
        expected = "expected a folder, a checkpoint file or a Hub repository 'owner/name'"
        raise CheckpointError(f"no weights at '{weights}': {expected}")
    try:
        return model_type.from_pretrained(str(weights)).to(device)
    except CheckpointError:
        raise
    except Exception as error:  # no network, no such repository, no access: the Hub's client has an error for each
        raise CheckpointError(f"no file '{weights}' here, and none from the Hub: {first_line(error)}") from None


def info(slug: str, weights: str | Path | None = None) -> dict[str, Any]:
    """What a model is and costs: parameters, rate, arithmetic per second of audio, look-ahead, licence, its card.

    Without bundled weights (and without ``weights``) the paper's configuration is described.
    """
    import dataclasses
    import json

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model_type = model_class(slug)
    folder = weights_folder(slug) if weights is None else None
    if folder is not None or weights is not None:
        model: Any = load(slug, weights)
    elif hasattr(model_type, "enhance"):
        model = model_type().eval()
    else:  # its sizes are all there is to tell: no memory is needed for that
        with torch.device("meta"):
            model = model_type().eval()
    facts: dict[str, Any] = {
        "model": slug,
        "class": f"{model_type.__module__}.{model_type.__qualname__}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "configuration": dataclasses.asdict(model.config),
    }
    if hasattr(model, "enhance"):
        rate = model.sample_rate
        # the counter knows nothing of the CPU's fused attention: have it written out
        counting = FlopCounterMode(display=False)
        with counting, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            model.enhance(torch.randn(1, rate, generator=torch.Generator().manual_seed(0)))
        facts["sample_rate"] = rate
        facts["gflops_per_second_of_audio"] = round(counting.get_total_flops() / 1e9, 3)
        facts["latency"] = "not streaming: every output sample depends on the whole chunk (10 s by default)"
    facts["licence"] = "Apache-2.0 (code)"
    if weights is not None:
        facts["weights"] = str(weights)
    elif folder is None:
        makes = f"'{_TRAINED_BY[slug]}' makes some, " if slug in _TRAINED_BY else ""
        facts["weights"] = f"none ship: {makes}--weights loads others"
    else:
        facts["weights"] = "bundled"
        card = folder / "card.json"
        if card.is_file():
            facts["card"] = json.loads(card.read_text())
    return facts
