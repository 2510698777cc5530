"""One thread a process: the tests run side by side, and threads of one would wait for another's."""

import torch

torch.set_num_threads(1)
