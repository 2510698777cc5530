"""Time and memory of the deep losses, beside ``torch.cdist(z, z).sum()`` forward and backward.

Run ``python -m benchmarks.losses``, or with ``--quick`` for small batches and few repetitions.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch

from skdml.deep.losses import ContrastiveLoss, TripletLoss

WIDTH = 128
PER_CLASS = 4
LARGEST = 4096
BASELINE = "cdist"
LOSSES = {
    "contrastive": ContrastiveLoss,
    "triplet all": TripletLoss,
    "triplet hard": lambda: TripletLoss(miner="hard"),
    "triplet semihard": lambda: TripletLoss(miner="semihard"),
    "triplet easy_positive": lambda: TripletLoss(miner="easy_positive"),
    "triplet soft": lambda: TripletLoss(soft=True),
}


def make_step(name, batch):
    """Return a function that runs one forward and backward pass."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(batch) // PER_CLASS
    centres = torch.randn(batch // PER_CLASS, WIDTH, generator=generator)
    z = centres[labels] + torch.randn(batch, WIDTH, generator=generator)
    z = torch.nn.functional.normalize(z).requires_grad_()
    loss = None if name == BASELINE else LOSSES[name]()

    def step():
        z.grad = None
        (torch.cdist(z, z).sum() if loss is None else loss(z, labels)).backward()

    return step


def median_times(batch, repeats):
    """Median milliseconds per pass; the runs take turns, so that all meet the same disturbances."""
    steps = {name: make_step(name, batch) for name in (BASELINE, *LOSSES)}
    times = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:  # the first turn warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(t) for name, t in times.items()}


def peak_memory(name, batch):
    """Peak resident memory, in MiB, of a process that runs one step."""
    command = [sys.executable, "-m", "benchmarks.losses", "--memory-of", name, str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches, few repetitions")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.memory_of:
        name, batch = options.memory_of
        if name != "nothing":
            make_step(name, int(batch))()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    batches = (128, 512) if options.quick else (128, 512, 1024, 2048, LARGEST)
    # Memory first: a child process counts what its parent held when it started.
    memory = {name: peak_memory(name, batches[-1]) for name in ("nothing", BASELINE, *LOSSES)}
    results = {}
    for batch in batches:
        repeats = max(7, 20480 // batch)
        results[batch] = median_times(batch, min(7, repeats) if options.quick else repeats)
    print("milliseconds forward + backward (times cdist); peak MiB of a process at the largest")
    print(f"{'':22}" + "".join(f"{f'B={b}':>18}" for b in batches) + f"{'MiB':>8}")
    for name in (BASELINE, *LOSSES):
        cells = ""
        for batch in batches:
            ms = results[batch][name]
            ratio = ms / results[batch][BASELINE]
            cells += f"{f'{ms:.2f} ({ratio:.2f})':>18}"
        print(f"{name:22}{cells}{memory[name]:8.0f}")
    print(f"{'(imports only)':22}{'':{18 * len(batches)}}{memory['nothing']:8.0f}")


if __name__ == "__main__":
    main()
