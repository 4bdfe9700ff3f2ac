"""What every model shares: a frozen ``Config``, the Hub's files, and a checked way in for foreign weights."""

from __future__ import annotations

import dataclasses
import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError

MAX_CONFIG_BYTES = 1 << 20


class Model(nn.Module, PyTorchModelHubMixin):
    """Base of every system: one frozen dataclass ``Config`` in, the Hub's two files out.

    ``save_pretrained(folder)`` writes ``config.json`` and ``model.safetensors``; ``from_pretrained(folder_or_repo)``
    reads them; ``from_authors(state_dict)`` maps the parameter names of the authors' own checkpoint.
    """

    slug: ClassVar[str]
    Config: ClassVar[type[Any]]

    def __init__(self, config: Any = None):
        super().__init__()
        self.config = self.Config() if config is None else config
        if not isinstance(self.config, self.Config):
            raise InputError(f"expected {type(self).__name__}.Config, got {type(self.config).__name__}")

    @classmethod
    @abstractmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: Any = None) -> Self:
        """Build the model from the authors' parameter names.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {"slug": self.slug, **dataclasses.asdict(self.config)}
        # both land whole or not at all: a killed save leaves the old files
        _replace(save_directory / "model.safetensors", lambda path: save_file(self._contiguous_state(), path))
        _replace(save_directory / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))

    def _contiguous_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **hub: Any) -> Self:
        folder = Path(model_id)
        hub.pop("config", None)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            keys = ("revision", "cache_dir", "force_download", "token", "local_files_only")
            patterns = ["config.json", "model.safetensors"]
            folder = Path(snapshot_download(model_id, allow_patterns=patterns, **{k: hub[k] for k in keys if k in hub}))
        model = cls(read_config(cls, folder / "config.json"))
        load_weights(model, read_tensors(folder / "model.safetensors"))
        return model.to(map_location).eval()


def read_config(model_class: type[Model], path: Path) -> Any:
    """The ``Config`` that a ``config.json`` describes.

    Raises:
        CheckpointError: the file is missing, not JSON, of another model, or has unknown or ill-typed entries.
    """
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in '{path.parent}': a model folder holds config.json and model.safetensors")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"'{path}' is too large for a configuration")
    try:
        entries = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is not valid JSON: {error}") from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"'{path}' should hold one JSON object")
    slug = entries.pop("slug", model_class.slug)
    if slug != model_class.slug:
        raise CheckpointError(f"'{path.parent}' holds weights of '{slug}', not of '{model_class.slug}'")
    known = {field.name for field in dataclasses.fields(model_class.Config)}
    if unknown := sorted(entries.keys() - known):
        raise CheckpointError(f"'{path}' has unknown entries: {', '.join(unknown)}")
    entries = {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
    try:
        return model_class.Config(**entries)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"'{path}' does not describe a {model_class.slug}: {error}") from None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Tensors of a ``.safetensors`` file or of a PyTorch checkpoint, the latter through ``weights_only=True``.

    Raises:
        CheckpointError: missing, damaged, or a pickle that holds more than tensors (nothing of it is run).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at '{path}'")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"'{path}' is not a readable safetensors file: {error}") from None
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers raise anything at all on hostile bytes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"'{path}' is not a checkpoint of plain tensors, so it was not loaded: {reason[:200]}") from None
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"'{path}' holds a {type(entries).__name__}, not a dictionary of tensors")
    return dict(entries)


def load_weights(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state dictionary, every parameter exactly once.

    Raises:
        CheckpointError: names or sizes do not fit; the first misfit is named.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        first = f"'{missing[0]}' is missing" if missing else f"'{unknown[0]}' is unknown"
        raise CheckpointError(
            f"these weights are of another model or configuration: {len(missing)} parameters missing, "
            f"{len(unknown)} unknown ({first})"
        )
    for name, tensor in own.items():
        given = state[name]
        if not isinstance(given, Tensor) or given.shape != tensor.shape:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise CheckpointError(f"'{name}' has shape {shape} where {tuple(tensor.shape)} is expected: another configuration?")
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise CheckpointError(f"'{name}' holds NaN or infinite values: the file is damaged")
    model.load_state_dict(dict(state))


class Enhancer(Model):
    """Base of systems that take a degraded waveform and return a better one of the same length."""

    sample_rate: int

    @abstractmethod
    def enhance(
        self, waveform: Float[Tensor, "batch samples"], *, level: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Enhance waveforms of one length at ``sample_rate``.

        Args:
            waveform: any scale; one row is one channel.
            level: the RMS by which the model normalises each row, so that the chunks of a long recording share one;
                the RMS of the row itself when None.
        """


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
