"""The state of a training on disk, so that a fit that was killed can go on."""

import contextlib
import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback

import skdml
from skdml.deep.settings import Settings

# Parameters that change nothing of what is learned.
IRRELEVANT = ("checkpoint", "verbose", "device")

# The first bytes of a file, and the version of what follows.
MAGIC = b"skdml checkpoint\n"
FORMAT = 1


class Checkpoint:
    """A file with the state of one training.

    Parameters
    ----------
    path : Path
        The file. It need not exist.

    Attributes
    ----------
    state : dict or None
        "net", "seed" and "generators" as they were written; None if there is no file.

    Raises
    ------
    ValueError
        If the file is damaged, if it was written by another fit, version or program, or if it
        cannot be unpickled.
    OSError
        If the file cannot be read, or if the folder cannot be written to.
    """

    def __init__(self, path: Path):
        self.path = path
        self.state: dict[str, Any] | None = None
        with name_in_errors(path, "cannot be written"):
            # A folder that cannot be written to is found before training, not after an epoch.
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        with name_in_errors(path, "cannot be read"), contextlib.suppress(FileNotFoundError):
            self.state = unpack_state(path.read_bytes(), path)

    @property
    def refit_path(self) -> Path:
        """The file of the refit that follows this training."""
        return self.path.with_suffix(".refit.fit")

    def remove(self) -> None:
        """Remove the files of this training and of its refit."""
        for path in (self.path, self.refit_path):
            with name_in_errors(path, "cannot be removed"):
                path.unlink(missing_ok=True)


def find_checkpoint(settings: Settings, data: Any) -> Checkpoint:
    """Return the checkpoint of this fit in the folder for checkpoints.

    The name of the file is a hash of the parameters and the data.

    Parameters
    ----------
    settings : Settings
        The parameters of the learner.
    data : ArrayDataset or LabelledDataset
        The training data.

    Returns
    -------
    Checkpoint
        The checkpoint.

    Raises
    ------
    ValueError
        If a parameter cannot be pickled, or if the file is no intact checkpoint of this fit.
    OSError
        If the folder cannot be used.
    """
    params = {name: value for name, value in vars(settings).items() if name not in IRRELEVANT}
    points = data.X if hasattr(data, "X") else len(data)
    try:
        labels = (data.targets, data.groups, data.classes)
        name = joblib.hash((params, points, *labels))
    except (pickle.PicklingError, AttributeError) as error:
        raise ValueError(
            "checkpoint names its file by a hash of all parameters, and one of them cannot be "
            f"pickled: {error.args[0]}. Define functions and classes at the top level of a module."
        ) from error
    return Checkpoint(Path(settings.checkpoint) / f"{name}.fit")


class SaveCheckpoint(Callback):
    """Write the state of training to a file after every epoch.

    Parameters
    ----------
    path : Path
        The file. A new file replaces it at once; it is never half-written.
    seed : int
        The seed of the fit.
    """

    def __init__(self, path: Path, seed: int):
        self.path = path
        self.seed = seed

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Write the net with its callbacks and optimizer, the seed and torch's generators."""
        state = {"net": net, "seed": self.seed, "generators": generator_states(net.device)}
        with name_in_errors(self.path, "cannot be written"):
            replace_file(self.path, pack_state(state, self.path.name))


def pack_state(state: dict[str, Any], fit: str) -> list[bytes]:
    """Return the content of a checkpoint.

    `MAGIC` and a checksum come first. The checksum is the SHA-256 of all that follows: a line with
    a header, and the pickled state.

    Parameters
    ----------
    state : dict
        The state of training.
    fit : str
        The name of the file, which identifies the fit.

    Returns
    -------
    list of bytes
        The parts of the content: `MAGIC`, the checksum, the header and the state.
    """
    header = json.dumps(expected_header(fit)).encode() + b"\n"
    payload = pickle.dumps(state)
    return [MAGIC, checksum_line(header, payload), header, payload]


def expected_header(fit: str) -> dict[str, Any]:
    """Return the header of a checkpoint of a fit, as this version writes it."""
    return {"format": FORMAT, "skdml": skdml.__version__, "fit": fit}


def checksum_line(*parts: bytes | memoryview) -> bytes:
    """Return the SHA-256 of some parts, as a line of hexadecimal digits."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest().encode() + b"\n"


def unpack_state(content: bytes, path: Path) -> dict[str, Any]:
    """Return the state of training in a checkpoint. Nothing is unpickled before all checks.

    Parameters
    ----------
    content : bytes
        The content of the file.
    path : Path
        The file, for error messages.

    Returns
    -------
    dict
        The state, as given to `pack_state`.

    Raises
    ------
    ValueError
        If the content is no intact checkpoint of this fit, written by this version.
    """
    remedy = f"Delete {path} to train from the start, or use another folder."
    if not content.startswith(MAGIC):
        is_cut = MAGIC.startswith(content)
        seen = "ends too early" if is_cut else "is no checkpoint of this version of skdml"
        raise ValueError(f"The checkpoint {path} {seen}. {remedy}")
    start = len(MAGIC) + len(checksum_line())
    if content[len(MAGIC) : start] != checksum_line(memoryview(content)[start:]):
        raise ValueError(
            f"The checkpoint {path} is damaged: its checksum does not match, because it ends too "
            f"early or was changed. {remedy}"
        )
    end = content.index(b"\n", start) + 1
    expected = expected_header(path.name)
    for name, found in json.loads(content[start:end]).items():
        if found != expected.get(name):
            raise ValueError(
                f"The checkpoint {path} is of {name} {found!r}, but this fit needs {name} "
                f"{expected.get(name)!r}. {remedy}"
            )
    try:
        state: dict[str, Any] = pickle.loads(memoryview(content)[end:])
    except Exception as error:  # unpickling runs code of other packages
        raise ValueError(
            f"The checkpoint {path} is intact, but cannot be read here: "
            f"{type(error).__name__}: {error}. Import the classes of its fit first, and use the "
            f"same versions of torch and skorch. Otherwise: {remedy}"
        ) from error
    return state


def replace_file(path: Path, parts: list[bytes]) -> None:
    """Write a file that replaces an earlier one at once; a failure leaves no temporary file.

    Parameters
    ----------
    path : Path
        The file. Its folder is made if it is missing.
    parts : list of bytes
        The content, in parts.

    Raises
    ------
    OSError
        If the file cannot be written. An earlier file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave a file without its content
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def name_in_errors(path: Path, failure: str) -> Iterator[None]:
    """Name a checkpoint in errors of the file system, and say what to do.

    Parameters
    ----------
    path : Path
        The file.
    failure : str
        What failed.

    Raises
    ------
    OSError
        If the file system raised one; it is of the same class.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(  # of the class that belongs to its number, like PermissionError
            error.errno,
            f"The checkpoint {failure}: {reason}. The learner is as it was. Free space, or set "
            "checkpoint to a folder that can be written to",
            str(path),
        ) from error


def generator_states(device: str | torch.device) -> list[torch.Tensor]:
    """Return the states of torch's random generators.

    Parameters
    ----------
    device : str
        The device of training.

    Returns
    -------
    list of Tensor
        The state of the CPU and, on a GPU, the state of that GPU.
    """
    states = [torch.get_rng_state()]
    if torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_generators(states: list[torch.Tensor], device: str | torch.device) -> None:
    """Set torch's random generators.

    Parameters
    ----------
    states : list of Tensor
        As `generator_states` returns them.
    device : str
        The device on which training goes on.
    """
    torch.set_rng_state(states[0])
    if len(states) > 1 and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
