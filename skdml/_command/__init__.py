"""The parts of ``python -m skdml``: reading a table, comparing learners, progress and plots."""
