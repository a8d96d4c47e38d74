"""The model and how to change it."""

import os

# Idle OpenMP threads spin by default, and on a machine with other work they take the cores
# from those that compute: two models on two cores ran nine times slower than with this (docs/
# log.md). It must be set before torch is first imported; a user's own setting stands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
