"""One thread, and the same examples in each run: tests say the same on every machine."""

import contextlib

from hypothesis import settings
from threadpoolctl import threadpool_limits

# The arrays of the tests are small: threads would only get in each other's way.
threadpool_limits(1)
with contextlib.suppress(ModuleNotFoundError):  # the linear tests run without it
    import torch

    torch.set_num_threads(1)

settings.register_profile("skdml", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("skdml")
