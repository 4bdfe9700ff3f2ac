"""What every model shares: a frozen ``Config``, the Hub's files, and a checked way in for foreign weights."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harken.errors import CapabilityError, CheckpointError, InputError, OutputError
from harken.whole_files import whole_file, write_text

MAX_CONFIG_BYTES = 1 << 20
_Module = TypeVar("_Module", bound=nn.Module)
_HUB_OPTIONS = ("revision", "cache_dir", "force_download", "token", "local_files_only")


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

    def stream(self) -> Stream:
        """The model as a stream of chunks.

        Raises:
            CapabilityError: this model needs whole recordings.
        """
        raise CapabilityError(f"'{self.slug}' cannot stream: it looks at a whole recording, or long chunks of one")

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write ``config.json`` and ``model.safetensors`` (and a model card where there is none); each lands whole.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self._save_pretrained(Path(save_directory))
            if options or not (Path(save_directory) / "README.md").exists():
                # the Hub's own method takes the configuration away before it writes the new one: only for its extras
                return super().save_pretrained(save_directory, **options)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"cannot save the model in '{save_directory}': {error}") from None
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {"slug": self.slug, **dataclasses.asdict(self.config)}
        # both land whole or not at all: a killed save leaves the old files
        with whole_file(save_directory / "model.safetensors") as partial:
            save_file(self._contiguous_state(), partial)
        write_text(save_directory / "config.json", json.dumps(config, indent=2) + "\n")

    def _contiguous_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The model of a folder that :meth:`save_pretrained` wrote, or of a Hub repository, ready for inference.

        Args:
            pretrained_model_name_or_path: the folder, or ``owner/name``.
            **options: of the Hub: ``revision``, ``cache_dir``, ``force_download``, ``token``, ``local_files_only``.

        Raises:
            CheckpointError: a file is missing, damaged, hostile, or of another model.
        """
        if unknown := options.keys() - set(_HUB_OPTIONS):
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}; known: {', '.join(_HUB_OPTIONS)}")
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            files = ["config.json", "model.safetensors"]
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), allow_patterns=files, **options))
        return cls.from_files(folder / "config.json", folder / "model.safetensors")

    @classmethod
    def from_files(cls, config: Path, weights: Path) -> Self:
        """The model of a configuration file and a weights file, ready for inference.

        Raises:
            CheckpointError: one of them is missing, damaged, or of another model.
        """
        made, state = read_config(cls, config), read_tensors(weights)
        return build(lambda: cls(made), state).eval()


def read_config(model_class: type[Model], path: Path) -> Any:
    """The ``Config`` that a ``config.json`` describes.

    Raises:
        CheckpointError: the file is missing, not JSON, of another model, or has unknown or ill-typed entries.
    """
    if not path.is_file():
        expected = "a model folder holds config.json and model.safetensors"
        raise CheckpointError(f"no {path.name} in '{path.parent}': {expected}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"'{path}' is too large for a configuration")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}") from None
    except (ValueError, RecursionError) as error:
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
    hints = get_type_hints(model_class.Config)
    for name, value in entries.items():
        if not _is_a(value, hints[name]):
            raise CheckpointError(f"'{path}' has an unusable entry, {name} = {str(value)[:40]!r}")
    try:
        return model_class.Config(**entries)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"'{path}' does not describe a {model_class.slug}: {error}") from None


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value read from JSON fits the annotation of a configuration's field."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, UnionType):
        return any(_is_a(value, option) for option in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        return len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return type(value) is hint if isinstance(hint, type) else True


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickle protocols: the next line says all there is to say
            entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # unpicklers raise anything at all on hostile bytes, and their advice is to trust the file
        raise CheckpointError(
            f"'{path}' is not a checkpoint of plain tensors: damaged, of another kind, or a pickle with code in it, "
            "of which nothing was run"
        ) from None
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"'{path}' holds a {type(entries).__name__}, not a dictionary of tensors")
    return dict(entries)


def build(make: Callable[[], _Module], state: Mapping[str, Any]) -> _Module:
    """What ``make`` makes, with the weights of a state dictionary, every parameter exactly once.

    Raises:
        CheckpointError: names or sizes do not fit; the first misfit is named.
    """
    with torch.device("meta"):  # sizes first: a hostile file may ask for more memory than there is
        _check_fit(make(), state)
    for name, given in state.items():
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise CheckpointError(f"'{name}' holds NaN or infinite values: the file is damaged")
    model = make()
    model.load_state_dict(dict(state))
    return model


def _check_fit(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise where a state dictionary has other names or shapes than a model, which may be on the meta device."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        first = f"'{missing[0]}' is missing" if missing else f"'{str(unknown[0])[:100]}' is unknown"
        raise CheckpointError(
            f"these weights are of another model or configuration: {len(missing)} parameters missing, "
            f"{len(unknown)} unknown ({first})"
        )
    for name, tensor in own.items():
        given = state[name]
        if not isinstance(given, Tensor) or given.layout != torch.strided or given.is_complex():
            raise CheckpointError(f"'{name}' is not a tensor of plain numbers: the file is damaged")
        if given.shape != tensor.shape:
            expected = f"{tuple(tensor.shape)} is expected: another configuration?"
            raise CheckpointError(f"'{name}' has shape {tuple(given.shape)} where {expected}")


class Stream(ABC):
    """A model at work on sound that is still arriving. Its state is its own; make one for each sound.

    What comes out, put end to end, equals what the model makes of the whole sound, ``latency`` samples later.
    """

    latency: int  # samples from an input to the output that belongs to it

    @abstractmethod
    def push(self, chunk: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch ready"]:
        """Take the next samples, any number, and give what is ready, perhaps nothing."""

    @abstractmethod
    def flush(self) -> Float[Tensor, "batch rest"]:
        """The rest, after the last chunk."""


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


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line of bounded length; its type where it says nothing."""
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
