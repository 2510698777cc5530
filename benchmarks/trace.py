"""The way of a fit through the code: ``python -m benchmarks.trace``.

Runs two epochs of the siamese learner on digits, and lists the functions of skdml in the order of
their first call, each once. It prints how many functions, files and changes of file there are: how
often a reader who follows the fit has to open another file.
"""

import argparse
import itertools
import sys
from pathlib import Path

from sklearn.datasets import load_digits

import skdml

PACKAGE = Path(skdml.__file__).parent
NOT_FUNCTIONS = {"<module>", "<lambda>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"}


def first_calls(function):
    """Return (file, function) of each function of skdml in the order of first calls."""
    found = {}

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            file = str(Path(code.co_filename).relative_to(PACKAGE))
            if code.co_name not in NOT_FUNCTIONS:
                found.setdefault((file, code.co_qualname))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return list(found)


def file_changes(calls):
    """Return how often the file changes from one call to the next."""
    files = [file for file, _ in calls]
    return sum(one != other for one, other in itertools.pairwise(files))


def main():
    """Trace a fit of the siamese learner on digits, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the functions")
    options = parser.parse_args()
    X, y = load_digits(return_X_y=True)
    learner = skdml.DeepSiameseEmbedder(max_epochs=2, random_state=0)
    calls = first_calls(lambda: learner.fit(X, y))
    if options.list:
        previous = None
        for file, name in calls:
            print("" if file == previous else f"{file}\n", f"    {name}", sep="")
            previous = file
    n_files = len({file for file, _ in calls})
    print(f"{len(calls)} functions in {n_files} files; {file_changes(calls)} changes of file")


if __name__ == "__main__":
    main()
