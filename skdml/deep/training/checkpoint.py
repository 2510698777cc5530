"""The state of a training on disk, so that a fit that was killed can go on."""

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import joblib
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback

from skdml.deep.settings import Settings

# Parameters that change nothing of what is learned.
IRRELEVANT = ("checkpoint", "verbose", "device")


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
    """

    def __init__(self, path: Path):
        self.path = path
        self.state: dict[str, Any] | None = None
        with contextlib.suppress(FileNotFoundError):
            self.state = pickle.loads(path.read_bytes())

    @property
    def refit_path(self) -> Path:
        """The file of the refit that follows this training."""
        return self.path.with_suffix(".refit.fit")

    def remove(self) -> None:
        """Remove the files of this training and of its refit."""
        self.path.unlink(missing_ok=True)
        self.refit_path.unlink(missing_ok=True)


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
        If a parameter cannot be pickled.
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}")
        state = {"net": net, "seed": self.seed, "generators": generator_states(net.device)}
        temporary.write_bytes(pickle.dumps(state))
        os.replace(temporary, self.path)


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
