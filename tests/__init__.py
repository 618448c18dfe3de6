"""The tests: a package, so that no other one of this name is found in its place, and computed by one thread."""

import os

# Small tensors: two threads wait for each other on a busy machine. Set before torch is imported here, or processes that
# tests start would have one thread and these two, and other last digits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
