"""Progress of a long run: a bar with the time left, or a line every few seconds."""

import sys
import threading
import time
from typing import Any, Self

from skorch.callbacks import Callback

# Seconds between two lines, and between two updates of the bar.
SECONDS_PER_LINE = 5.0
SECONDS_PER_UPDATE = 0.5

_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left"


class Progress:
    """Show on stderr what is being done, and about how long the rest takes.

    On a terminal, tqdm draws a bar. Elsewhere, or without tqdm, a line is printed every few
    seconds. The time left is estimated from the work that is done. Work is counted in a unit of
    your choice, for example one training point in one epoch.

    Parameters
    ----------
    seconds_per_line : float, default=5.0
        Seconds between two lines where no bar is drawn.

    Examples
    --------
    >>> from skdml._command.progress import Progress
    >>> with Progress() as progress:
    ...     progress.plan(10)
    ...     progress.begin("first half", 5)
    ...     progress.work(5)
    ...     progress.end()
    ...     progress.done, progress.total
    (5, 10)
    """

    def __init__(self, seconds_per_line: float = SECONDS_PER_LINE) -> None:
        self.done = 0
        self.total = 0
        self._stage = ""
        self._planned = self._done_before = 0
        self._began = self._planned_at = time.monotonic()
        self._bar: Any = None
        self._seconds_per_line = seconds_per_line
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show_until_stopped, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def plan(self, total: int) -> None:
        """Announce the amount of all work that follows. From now on, the time left is shown."""
        self.done, self.total = 0, total
        self._planned_at = time.monotonic()
        self._bar = _open_bar(total)

    def begin(self, stage: str, planned: int = 0) -> None:
        """Begin a stage, with the planned amount of its work."""
        self._stage, self._planned, self._done_before = stage, planned, self.done

    def work(self, amount: int) -> None:
        """Count work that is done."""
        self.done += amount
        self.total = max(self.total, self.done)

    def end(self) -> None:
        """End the stage. Planned work that was not needed no longer counts."""
        needed = self.done - self._done_before
        self.total = max(self.done, self.total + needed - self._planned)

    def print(self, text: str) -> None:
        """Print text to stdout, without damage to the bar."""
        self._write(text, sys.stdout)

    def note(self, text: str) -> None:
        """Print one line to stderr, without damage to the bar."""
        self._write(one_line(text), sys.stderr)

    def _write(self, text: str, stream: Any) -> None:
        if self._bar is None:
            print(text, file=stream, flush=True)
        else:
            self._bar.write(text, file=stream)
            stream.flush()

    def _show_until_stopped(self) -> None:
        next_line = self._began + self._seconds_per_line
        while not self._stop.wait(min(SECONDS_PER_UPDATE, self._seconds_per_line)):
            if self._bar is not None:
                self._bar.set_description_str(self._stage, refresh=False)
                self._bar.total, self._bar.n = self.total, self.done
                self._bar.refresh()
            elif time.monotonic() >= next_line:
                next_line = time.monotonic() + self._seconds_per_line
                print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return the line that is printed where no bar is drawn."""
        now = time.monotonic()
        line = f"  {self._stage}: {_duration(now - self._began)} passed"
        if not 0 < self.done < self.total:
            return line
        left = (now - self._planned_at) * (self.total - self.done) / self.done
        return f"{line}, {self.done / self.total:.0%}, about {_duration(left)} left"


def _open_bar(total: int) -> Any:
    """Return a bar on stderr. None if stderr is no terminal, or tqdm is not installed."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    # smoothing=0: the time left is that of the mean speed so far.
    return tqdm(total=total, smoothing=0, leave=False, dynamic_ncols=True, bar_format=_BAR)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d} min" if minutes else f"{seconds} s"


def one_line(text: object) -> str:
    """Return a text on one line: white space and line breaks become single spaces."""
    return " ".join(str(text).split())


class CountEpochs(Callback):
    """skorch callback that counts each epoch as work.

    Parameters
    ----------
    progress : Progress
        Counts the work.
    amount : int
        The work of one epoch.
    """

    def __init__(self, progress: Progress, amount: int) -> None:
        self.progress = progress
        self.amount = amount

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a fit copies its callbacks, and the copy has to count in the same place

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Count the epoch."""
        self.progress.work(self.amount)
