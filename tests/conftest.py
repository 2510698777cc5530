"""One thread, and the same random examples in each run, so that results are reproducible."""

import contextlib

from hypothesis import settings
from threadpoolctl import threadpool_limits

# The arrays of the tests are small, so several threads would be slower.
threadpool_limits(1)
with contextlib.suppress(ModuleNotFoundError):  # tests of linear learners run without torch
    import torch

    torch.set_num_threads(1)

settings.register_profile("skdml", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("skdml")
