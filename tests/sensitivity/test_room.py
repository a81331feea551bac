"""Memory that runs short: in a process of its own, with the limit of the operating system."""

import sys

import pytest

from tests.forked import ROOT, python
from topograph.tracing.short import is_short

SCRIPT = """
import resource
import torch
from topograph.errors import MemoryShortError
from topograph.sensitivity.asked import Asked
from topograph.sensitivity.room import in_parts

def asked(count, batches):
    return Asked(None, batches, None, tuple(range(count)), None, print)

def measure(asked):
    sizes.append(len(asked.wanted))
    torch.empty(len(asked.wanted) * each, dtype=torch.uint8)
    return [number * 10 for number in asked.wanted]

def told(count, batches):
    try:
        return in_parts(measure, asked(count, batches))
    except MemoryShortError as error:
        return str(error)

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 210 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for each, count, batches in [(60, 7, []), (400, 1, []), (60, 7, iter([])), (400, 3, [])]:
    each, sizes = each * 2**20, []
    print(told(count, batches), sizes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_fewer_candidates_at_a_time_and_then_one_clear_error():
    found = python("-c", SCRIPT, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    parted, single, once, all_fail = found.stdout.splitlines()
    assert parted == "[0, 10, 20, 30, 40, 50, 60] [7, 3, 4, 2, 2]"
    assert single.startswith("memory is short for 1 candidate on one batch (")
    assert "allocate memory" in single
    assert single.endswith("give smaller batches; nothing was changed [1]")
    assert once.startswith("memory is short for 7 candidates on one batch (")
    assert "give the batches as a list, so that fewer candidates are scored at a time" in once
    assert all_fail.endswith("[3, 1]")


def test_what_counts_as_short():
    assert is_short(MemoryError())
    assert not is_short(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
