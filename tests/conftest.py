"""One thread: the arrays of the tests are small, and the same sums come out on every machine."""

import torch

torch.set_num_threads(1)
