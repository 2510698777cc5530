"""Times of several functions, measured in turns: all meet the same load."""

import statistics
import time


def take_turns(functions, repeats, clock=time.perf_counter):
    """Time functions in turns, each turn in the reverse order of the last.

    Parameters
    ----------
    functions : dict of {str: callable}
        The functions to time. They are called without arguments. One extra turn warms up.
    repeats : int
        Number of timed turns.
    clock : callable
        Returns seconds: by the clock, or of the processor (``time.thread_time``).

    Returns
    -------
    dict of {str: list of float}
        Seconds of each function, turn by turn.
    """
    names = list(functions)
    seconds = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name in names:
            start = clock()
            functions[name]()
            if turn:  # the first turn warms up
                seconds[name].append(clock() - start)
        names.reverse()
    return seconds


def medians(seconds):
    """Return the median time of each function: a dict of {name: seconds}."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def median_ratio(seconds, name, baseline):
    """Return the ratio of a function's time to the baseline's: the median over the turns.

    Within a turn both ran on an equally busy machine. The ratio of two medians varies more.
    """
    pairs = zip(seconds[name], seconds[baseline], strict=True)
    return statistics.median(a / b for a, b in pairs)
