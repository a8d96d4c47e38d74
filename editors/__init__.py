"""The model and how to change it."""

import os

# Idle OpenMP threads spin, and on a machine with other work they take the cores from those
# that compute: two models on two cores ran nine times slower than with a short spin, which
# costs a lone one little (docs/log.md). Read when torch is first imported; a user's own
# setting stands.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
