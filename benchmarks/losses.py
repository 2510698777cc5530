"""Time and memory of the deep losses, compared with the peer and with ``torch.cdist(z, z)``.

Run ``python -m benchmarks.losses``. ``--quick`` takes small batches and few repetitions; ``--only
NAME ...`` selects losses. The peer is pytorch-metric-learning 2.9.0. The first run installs it into
a separate folder. Both packages run in turns in one process. Times are by the clock, or with
``--cpu`` processor seconds of one thread, which hardly change when the machine is busy.
"""

import argparse
import importlib
import resource
import subprocess
import sys
import time
import warnings

import torch

from benchmarks._peers import CACHE
from benchmarks._timing import median_ratio, medians, take_turns
from skdml.deep import losses

PEER = "pytorch-metric-learning==2.9.0"
WIDTH = 128
N_PER_CLASS = 4
LARGEST_BATCH = 4096
SLOW_SECONDS = 1.0  # a slower pass of the peer runs only once
CDIST, OURS, THEIRS = "cdist", "skdml", "peer"
PLAIN = "LpDistance(normalize_embeddings=False)"

# Name: our loss, the peer's loss (or None), and the largest batch for the peer. Beyond it, the peer
# takes minutes or more than 10 GB. C is the number of classes, D the width of the embedding.
LOSSES = {
    "contrastive": ("ContrastiveLoss()", f"ContrastiveLoss(distance={PLAIN})", 2048),
    "triplet all": ("TripletLoss()", f"TripletMarginLoss(0.2, distance={PLAIN})", 512),
    "triplet hard": ("TripletLoss(miner='hard')", None, 0),
    "triplet semihard": ("TripletLoss(miner='semihard')", None, 0),
    "triplet easy_positive": ("TripletLoss(miner='easy_positive')", None, 0),
    "triplet soft": (
        "TripletLoss(soft=True)",
        f"TripletMarginLoss(0.2, smooth_loss=True, distance={PLAIN})",
        512,
    ),
    "triplet swap": (
        "TripletLoss(swap=True)",
        f"TripletMarginLoss(0.2, swap=True, distance={PLAIN})",
        512,
    ),
    "multi-similarity": ("MultiSimilarityLoss()", "MultiSimilarityLoss()", 2048),
    "circle": ("CircleLoss()", "CircleLoss()", 2048),
    "lifted": ("LiftedStructureLoss()", f"LiftedStructureLoss(distance={PLAIN})", 128),
    "lifted smooth": (
        "LiftedStructureLoss(smooth=True)",
        f"GeneralizedLiftedStructureLoss(distance={PLAIN})",
        2048,
    ),
    "intra-pair variance": ("IntraPairVarianceLoss()", "IntraPairVarianceLoss()", 2048),
    "signal-to-noise": (
        "SignalToNoiseRatioContrastiveLoss()",
        "SignalToNoiseRatioContrastiveLoss()",
        512,
    ),
    "margin": ("MarginLoss()", f"MarginLoss(learn_beta=True, distance={PLAIN})", 512),
    "angular": ("AngularLoss()", "AngularLoss()", 512),
    "n-pairs": ("NPairsLoss()", "NPairsLoss()", 2048),
    "nt-xent": ("NTXentLoss()", "NTXentLoss()", 128),
    "supcon": ("SupConLoss()", "SupConLoss()", 2048),
    "nca": ("NCALoss()", "NCALoss()", 2048),
    "fast-ap": ("FastAPLoss()", "FastAPLoss()", 2048),
    "smooth-ap": ("SmoothAPLoss()", "SmoothAPLoss()", 512),
    "histogram": ("HistogramLoss()", "HistogramLoss()", 512),
    "cosent": ("CoSENTLoss()", None, 0),
    "info-nce": ("InfoNCELoss()", None, 0),
    # Only one direction, because the peer's symmetric form has other negatives.
    "info-nce one way": (
        "InfoNCELoss(symmetric=False)",
        "SelfSupervisedLoss(NTXentLoss(), symmetric=False)",
        512,
    ),
    "vicreg": ("VICRegLoss()", "VICRegLoss()", 2048),
    "proxy-nca": ("ProxyNCALoss(C, D, plus=False, temperature=1)", None, 0),
    "proxy-nca++": ("ProxyNCALoss(C, D)", "ProxyNCALoss(C, D, softmax_scale=9)", 2048),
    "proxy-anchor": ("ProxyAnchorLoss(C, D)", "ProxyAnchorLoss(C, D)", 2048),
    "soft-triple": ("SoftTripleLoss(C, D)", "SoftTripleLoss(C, D)", 2048),
    "normalized softmax": ("NormalizedSoftmaxLoss(C, D)", "NormalizedSoftmaxLoss(C, D)", 2048),
    "cosface": ("CosFaceLoss(C, D)", "CosFaceLoss(C, D)", 2048),
    "arcface": ("ArcFaceLoss(C, D)", "ArcFaceLoss(C, D)", 2048),
    "subcenter arcface": (
        "SubCenterArcFaceLoss(C, D)",
        "SubCenterArcFaceLoss(num_classes=C, embedding_size=D)",
        2048,
    ),
    "sphereface": ("SphereFaceLoss(C, D, scale=1)", "SphereFaceLoss(C, D)", 2048),
    "center": ("CenterLoss(C, D)", None, 0),
}
VIEWS = ("info-nce", "info-nce one way", "vicreg")  # losses of two views per point


def load_peer():
    """Return the names of the peer's losses and distances."""
    folder = CACHE / PEER
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", str(folder), PEER], check=True)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    names = vars(importlib.import_module("pytorch_metric_learning.losses"))
    return names | vars(importlib.import_module("pytorch_metric_learning.distances"))


def make_batch(batch):
    """Return embeddings of unit length, a second view of each, and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(batch) // N_PER_CLASS
    centres = torch.randn(batch // N_PER_CLASS, WIDTH, generator=generator)
    views = [centres[labels] + torch.randn(batch, WIDTH, generator=generator) for _ in range(2)]
    return *(torch.nn.functional.normalize(view).requires_grad_() for view in views), labels


def make_steps(name, batch, sides=(CDIST, OURS, THEIRS)):
    """Return functions that run one forward and backward pass: a dict of {side: callable}."""
    x, y, labels = make_batch(batch)
    counts = {"C": batch // N_PER_CLASS, "D": WIDTH}
    calls, parameters = {CDIST: lambda: torch.cdist(x, x).sum()}, [x, y]

    def add(side, loss):
        parameters.extend(loss.parameters())
        if name not in VIEWS:
            calls[side] = lambda: loss(x, labels)
        elif type(loss).__name__ == "SelfSupervisedLoss":  # this loss takes both views directly
            calls[side] = lambda: loss(x, y)
        else:
            calls[side] = lambda: loss(x, ref_emb=y)

    if name != CDIST:
        ours, theirs, largest = LOSSES[name]
        add(OURS, eval(ours, vars(losses) | counts))
        if theirs and batch <= largest and THEIRS in sides:
            add(THEIRS, eval(theirs, load_peer() | counts))

    def step(call):
        for parameter in parameters:
            parameter.grad = None
        call().backward()

    return {side: lambda c=call: step(c) for side, call in calls.items() if side in sides}


def measure(name, batch, repeats, clock):
    """Return the seconds of each side, turn by turn. A slow peer runs once for all turns."""
    steps = make_steps(name, batch)
    slow = {}
    if THEIRS in steps:
        start = clock()
        steps[THEIRS]()
        if (seconds := clock() - start) > SLOW_SECONDS:
            slow = {THEIRS: [seconds] * repeats}
            del steps[THEIRS]
    return take_turns(steps, repeats, clock) | slow


def peak_memory(name, batch, side):
    """Return the peak resident memory in MiB of a process that runs one step."""
    command = [sys.executable, "-m", "benchmarks.losses", "--memory-of", name, str(batch), side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches, few repetitions")
    parser.add_argument("--only", nargs="+", choices=LOSSES, default=list(LOSSES), metavar="NAME")
    parser.add_argument("--cpu", action="store_true", help="processor seconds of one thread")
    parser.add_argument("--batches", nargs="+", type=int, help="batch sizes")
    parser.add_argument("--memory", action="store_true", help="print peak memory instead of times")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def show_memory(names):
    """Print the peak memory of each loss at the largest batch, and at 512 with the peer's."""
    print("peak MiB of a process that runs one pass")
    print(f"{'':22}{'B=512':>8}{'peer':>8}{f'B={LARGEST_BATCH}':>8}")
    for name in (CDIST, *names):
        side = CDIST if name == CDIST else OURS
        has_peer = name != CDIST and LOSSES[name][1] and LOSSES[name][2] >= 512
        cells = [f"{peak_memory(name, 512, side):8.0f}"]
        cells += [f"{peak_memory(name, 512, THEIRS):8.0f}" if has_peer else f"{'':8}"]
        print(f"{name:22}{''.join(cells)}{peak_memory(name, LARGEST_BATCH, side):8.0f}", flush=True)


def show_times(names, batches, quick, clock):
    """Print the milliseconds of each loss, their ratio to cdist, and those of the peer."""
    print("forward + backward: ms, ratio to cdist, ms of the peer, ratio to the peer")
    for batch in batches:
        print(f"B = {batch}")
        for name in names:
            seconds = measure(name, batch, 5 if quick else max(7, 10240 // batch), clock)
            ms = {side: 1e3 * value for side, value in medians(seconds).items()}
            line = f"{name:22}{ms[OURS]:9.2f}{median_ratio(seconds, OURS, CDIST):7.2f}"
            if THEIRS in ms:
                line += f"{ms[THEIRS]:11.2f}{median_ratio(seconds, OURS, THEIRS):7.2f}"
            print(line, flush=True)


def main():
    """Print the table."""
    options = parse()
    warnings.simplefilter("ignore")  # torch warns about the peer
    torch.set_num_threads(1 if options.cpu else 2)
    if options.cpu:
        torch.autograd.set_multithreading_enabled(False)
    if options.memory_of:
        name, batch, side = options.memory_of
        make_steps(name, int(batch), (side,))[side]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif options.memory:
        show_memory(options.only)
    else:
        batches = options.batches or ((128, 512) if options.quick else (128, 512, 1024, 2048))
        clock = time.thread_time if options.cpu else time.perf_counter
        show_times(options.only, batches, options.quick, clock)


if __name__ == "__main__":
    main()
