"""Whether two commits compute the same, bit for bit: ``python -m benchmarks.results REV``.

Every learner is fitted on fixed data with a fixed seed, and its `transform` is hashed. The value
and the gradient of every loss, and the choices of every miner, are hashed as well. The same code
runs on a copy of the commit REV and on this working tree, with one thread, and the hashes are
compared.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SMALL = {"max_epochs": 3, "random_state": 0}


def digest(*arrays):
    """Return a hash of the bytes, shapes and types of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


def table():
    """Return the wines: 178 x 13, three classes."""
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def pictures():
    """Return 300 digits as images, as rows, and their classes."""
    X, y = load_digits(return_X_y=True)
    return X[:300].reshape(-1, 1, 8, 8) / 16, X[:300], y[:300]


def tuples_of(X, y, kind):
    """Return the arguments of `fit` for a kind of supervision."""
    rng = np.random.default_rng(0)
    if kind == "chunks":
        return X, np.where(rng.random(len(y)) < 0.7, y * 5 + rng.integers(5, size=len(y)), -1)
    if kind == "pairs":
        rows = rng.integers(len(X), size=(300, 2))
        return X[rows], (y[rows[:, 0]] == y[rows[:, 1]]).astype(int)
    rows = rng.integers(len(X), size=(2000, 3 if kind == "triplets" else 4))
    if kind == "triplets":
        fits = (y[rows[:, 0]] == y[rows[:, 1]]) & (y[rows[:, 0]] != y[rows[:, 2]])
    else:
        fits = (y[rows[:, 0]] == y[rows[:, 1]]) & (y[rows[:, 2]] != y[rows[:, 3]])
    return (X[rows[fits]],)


def linear_cases():
    """Yield the name and the call of each linear case."""
    import skdml
    from skdml import linear

    X, y = table()
    names = [name for name in linear.__all__ if name in skdml.__all__]
    extra = {"MahalanobisMetric": [{"within_class": True}, {"covariance": "ledoit_wolf"}]}
    for name in names:
        kind = getattr(linear, name)
        takes = kind().get_params()
        options = {"random_state": 0} if "random_state" in takes else {}
        if "max_iter" in takes:
            options["max_iter"] = 30
        choices = [{}, *extra.get(name, [])]
        choices += [{"n_components": 3}] if "n_components" in takes else []
        choices += [{"init": init} for init in ("pca", "identity") if "init" in takes]
        kinds = ("pairs", "triplets", "quadruplets", "chunks") if "supervision" in takes else ()
        choices += [{"supervision": one} for one in kinds]
        for choice in choices:
            for dtype in (np.float64, np.float32):
                yield (
                    f"linear {name} {choice} {np.dtype(dtype)}",
                    lambda k=kind, p=options | choice, t=dtype: fit_linear(k, p, X.astype(t), y),
                )


def fit_linear(kind, params, X, y):
    """Fit a linear learner, and hash what it makes of the points."""
    supervision = params.get("supervision", "labels")
    if supervision == "labels":
        target = y.astype(float) if kind.__name__ == "MLKR" else y
        given = (X, target)
    else:
        given = tuples_of(X, y, supervision)
    learner = kind(**params).fit(*given)
    return digest(learner.transform(X), learner.components_)


EMBEDDERS = ("DeepEmbedder", "DeepSiameseEmbedder", "DeepTripletEmbedder", "DeepProxyEmbedder")


def flip(batch):
    """Augment points: add a little noise."""
    import torch

    return batch + 0.05 * torch.randn_like(batch)


def fit_deep(name, *given, partial=False, again=False, **params):
    """Fit a deep learner, and hash what it makes of the points and what it recorded."""
    import skdml

    learner = getattr(skdml, name)(**SMALL | params)
    for _ in range(2 if partial or again else 1):
        (learner.partial_fit if partial else learner.fit)(*given)
    points = np.asarray(given[0])
    if params.get("supervision", "labels") != "labels":
        points = points.reshape(-1, points.shape[-1])
    found = [learner.transform(points), np.array([learner.best_epoch_, learner.best_share_])]
    found += [learner.history_["loss"], learner.history_["spread"]]
    if hasattr(learner, "predict_proba"):
        found.append(learner.predict_proba(points))
    return digest(*found)


def settings_of(name):
    """Return the settings of a deep learner: names, arguments of `fit`, and parameters."""
    import torch

    images, rows, digits = pictures()
    X, y = table()
    on_table, on_rows = (X, y), (rows, digits)
    settings = {
        "table": (on_table, {}),
        "rows": (on_rows, {}),
        "images": ((images, digits), {}),
        "to the end": (on_table, {"early_stopping": False}),
        "no refit": (on_rows, {"refit": False}),
        "patience": (on_rows, {"patience": 1, "scoring": "recall_at_1"}),
        "partial": (on_table, {"partial": True}),
        "warm": (on_table, {"again": True, "warm_start": True}),
        "groups": ((*on_rows, np.arange(300) % 6), {"lr": 1e-3}),
        "apart": ((*on_rows, np.arange(300) % 3), {"group_batches": "apart"}),
        "balanced": (on_rows, {"balance_classes": True, "batch_size": 32}),
        "chunks": (on_rows, {"chunk_size": 50}),
        "amp": (on_table, {"amp": True}),
        "augment": (on_rows, {"augment": flip}),
        "frozen": (on_table, {"freeze": "module", "module": torch.nn.Identity()}),
        "unit": (on_table, {"normalize": True, "distance": "cosine"}),
        "options": (on_table, {"optimizer__weight_decay": 0.1, "module__n_layers": 1}),
    }
    if name != "DeepProxyEmbedder":
        settings["memory"] = (on_rows, {"memory_size": 100})
        settings["margin"] = (on_table, {"margin": 0.7})
    return settings | own_settings(name, X, y, rows)


def own_settings(name, X, y, rows):
    """Return the settings that only one deep learner has."""
    if name == "DeepEmbedder":
        return {
            "views": ((rows, None), {"augment": flip, "loss": "info_nce"}),
            "targets": ((X, X[:, 0]), {"loss": "cosent"}),
            "sets": ((X, (X > 0)[:, :4].astype(int)), {"loss": "cosent"}),
        }
    if name == "DeepSiameseEmbedder":
        return {
            "pairs": (tuples_of(X, y, "pairs"), {"supervision": "pairs"}),
            "squared": ((X, y), {"criterion__power": 2}),
        }
    if name == "DeepTripletEmbedder":
        return {
            "triplets": (tuples_of(X, y, "triplets"), {"supervision": "triplets"}),
            "soft": ((X, y), {"criterion__soft": True}),
        }
    return {}


def deep_cases():
    """Yield the name and the call of each deep case."""
    from skdml.deep.losses import LOSSES, learns_from
    from skdml.deep.miners import MINERS

    X, y = table()
    _, rows, digits = pictures()
    for name in EMBEDDERS:
        for setting, (given, params) in settings_of(name).items():
            yield (
                f"deep {name} {setting}",
                lambda n=name, g=given, p=params: fit_deep(n, *g, **p),
            )
    for loss in LOSSES:
        params = {"loss": loss}
        target = X[:, 0] if learns_from(loss) == "targets" else y
        if learns_from(loss) == "views":
            params["augment"] = flip
        if loss in ("fastap", "histogram"):  # these need distances that are bounded
            params["normalize"] = True
        yield (
            f"deep DeepEmbedder loss={loss}",
            lambda p=params, t=target: fit_deep("DeepEmbedder", X, t, **p),
        )
    for miner in MINERS:
        yield (
            f"deep DeepEmbedder miner={miner}",
            lambda m=miner: fit_deep("DeepEmbedder", rows, digits, miner=m, loss="triplet"),
        )
    for loss, kind in LOSSES.items():
        yield f"loss {loss}", lambda k=kind: value_and_gradient(k)
    for miner in MINERS:
        yield f"miner {miner}", lambda m=miner: mined(m)


def batch(seed=0, dtype=None):
    """Return embeddings of 48 points in 8 dimensions, and their six classes."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(48, 8, generator=generator, dtype=dtype or torch.float64)
    return Z.requires_grad_(), torch.arange(48) % 6


def value_and_gradient(kind):
    """Hash value and gradients of a loss: both precisions, with and without references."""
    import torch

    from skdml.deep.losses import learns_from

    found = []
    needed = {"n_classes": 6, "n_components": 8}
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        try:
            loss = kind(**needed)
        except TypeError:
            loss = kind()
        loss = loss.to(dtype)
        Z, labels = batch(dtype=dtype)
        others, other_labels = batch(1, dtype)
        views = learns_from(kind) == "views"
        calls = [((Z, None), {"ref_emb": others})] if views else [((Z, labels), {})]
        if not views and not list(loss.parameters()):
            calls.append(((Z, labels), {"ref_emb": others, "ref_labels": other_labels}))
            a, p = (torch.arange(40), torch.arange(40) + 6)
            keep = p < 48
            calls.append(((Z, labels, (a[keep], p[keep], (a[keep] + 1) % 48)), {}))
        for given, named in calls:
            Z.grad = None
            try:
                value = loss(*given, **named)
                value.backward()
            except ValueError:
                found.append(np.array([np.nan]))
                continue
            found += [value.detach().numpy(), Z.grad.numpy()]
            found += [w.grad.numpy() for w in loss.parameters() if w.grad is not None]
    return digest(*found)


def mined(name):
    """Hash what a miner chooses, within a batch and among references."""
    import torch

    from skdml.deep.miners import get_miner

    miner = get_miner(name)
    Z, labels = batch()
    others, other_labels = batch(1)
    torch.manual_seed(0)
    chosen = miner(Z.detach(), labels)
    chosen += miner(Z.detach(), labels, others.detach(), other_labels)
    return digest(*[part.numpy() for part in chosen])


def print_hashes(pattern):
    """Print a JSON line of name and hash for each case whose name holds the pattern."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for cases in (linear_cases(), deep_cases()):
        for name, call in cases:
            if pattern not in name:
                continue
            try:
                found = call()
            except Exception as error:  # a refusal is a result, too; its words may change
                found = type(error).__name__
            print(json.dumps([name, found]), flush=True)


def hashes(tree, pattern):
    """Run the cases on a tree: a dict of name and hash."""
    env = os.environ | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": str(tree)}
    command = [sys.executable, str(ROOT / "benchmarks/results.py"), "--hashes", "--only", pattern]
    done = subprocess.run(command, env=env, cwd=tree, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


def compare(revision, pattern):
    """Compare this tree with a commit; return the names of the cases that differ."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        before = hashes(folder, pattern)
    after = hashes(ROOT, pattern)
    differing = [name for name in before | after if before.get(name) != after.get(name)]
    for name in differing:
        print(f"{name}: {before.get(name)} before, {after.get(name)} now")
    refused = [name for name, found in after.items() if len(found) != 16]
    print(f"{len(after)} cases, {len(differing)} differ; {len(refused)} are refused now")
    return differing


def main():
    """Compare, or print the hashes of one tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", nargs="?", default="HEAD", help="the commit to compare with")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds TEXT")
    parser.add_argument("--hashes", action="store_true", help="print the hashes of this tree")
    options = parser.parse_args()
    if options.hashes:
        print_hashes(options.only)
    else:
        sys.exit(bool(compare(options.revision, options.only)))


if __name__ == "__main__":
    main()
