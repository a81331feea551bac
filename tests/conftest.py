"""Settings of the whole suite: one thread for torch, and how hard Hypothesis tries."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported

from hypothesis import settings

settings.register_profile("suite", max_examples=16, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=2_000, deadline=None)
settings.load_profile("suite")  # `pytest --hypothesis-profile=long` takes its place
