"""The state of a training that may be killed, on disk, so that the same fit can go on."""

import contextlib
import os
import pickle

import torch
from skorch.callbacks import Callback


class SaveState(Callback):
    """Write all of training to a file after every epoch.

    Parameters
    ----------
    path : Path
        The file. It is replaced at once, never left half-written.
    seed : int
        The seed of the fit.
    """

    def __init__(self, path, seed):
        self.path = path
        self.seed = seed

    def on_epoch_end(self, net, **kwargs):
        """Write the net with its callbacks and optimizer, the seed and torch's generators."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(f".{os.getpid()}")
        written.write_bytes(
            pickle.dumps({"net": net, "seed": self.seed, "generators": generators(net.device)})
        )
        os.replace(written, self.path)


def load_state(path):
    """Read what `SaveState` wrote.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict or None
        "net", "seed" and "generators"; None if there is no file.
    """
    with contextlib.suppress(FileNotFoundError):
        return pickle.loads(path.read_bytes())
    return None


def whole_path(path):
    """Return the file of the training on everything that follows after one that was stopped.

    Parameters
    ----------
    path : Path
        The file of the first.

    Returns
    -------
    Path
        The file of the second.
    """
    return path.with_suffix(".whole.fit")


def set_generators(states, device):
    """Set torch's generators to where a training had left them.

    Parameters
    ----------
    states : list of Tensor
        The CPU's state and, after training on a GPU, that GPU's.
    device : str
        Where training goes on.
    """
    torch.set_rng_state(states[0])
    if len(states) > 1 and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def generators(device):
    """Return the states of torch's generators.

    Parameters
    ----------
    device : str
        Where training is.

    Returns
    -------
    list of Tensor
        The CPU's state and, on a GPU, that GPU's.
    """
    states = [torch.get_rng_state()]
    if torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states
