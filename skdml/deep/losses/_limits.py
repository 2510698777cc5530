"""Bounds that keep exponentials, squares and their sums finite."""

# Logits are clipped to this size. It is far above any learned value, and two such logits can still
# be subtracted.
MAX_LOGIT = 1e30

# Subtracted from the logits of masked entries, so that they are below all other logits.
MASKED_LOGIT = 1e32

# exp(-60) is negligible beside 1, in double precision as well. Exponentials near the end of the
# range of single precision would take up to a hundred times as long to compute and to use.
MAX_EXPONENT = 60.0

# The squares of larger numbers, and sums of such squares, overflow single precision.
MAX_SQUARABLE = 1e15
