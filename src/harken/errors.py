"""The errors that harken raises on purpose: one line each, saying what was expected, what came, and what to do."""


class HarkenError(Exception):
    """Base of every error a user can mend.

    The command line prints its message alone and exits with code 2; ``--debug`` adds the traceback.
    """


class InputError(HarkenError, ValueError):
    """A file, array or argument is not what was expected: broken audio, NaN samples, a wrong shape or value."""


class CheckpointError(HarkenError):
    """Weights cannot be used: missing, damaged, of another model, or a pickle that holds more than tensors."""


class CapabilityError(HarkenError, ValueError):
    """A mechanism or model was asked for something it does not have (a causal form, a stream, explicit weights)."""


class OutputError(HarkenError, OSError):
    """A result cannot be written: the folder is read-only, the disk is full, the target is a folder or the input."""


class MissingExtraError(HarkenError, ImportError):
    """An optional package is needed.

    >>> print(MissingExtraError("pesq", extra="score"))
    this needs the package 'pesq': pip install 'harken[score]'
    """

    def __init__(self, package: str, *, extra: str):
        super().__init__(f"this needs the package '{package}': pip install 'harken[{extra}]'")
