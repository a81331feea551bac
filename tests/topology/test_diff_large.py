"""A difference takes time linear in the network."""

import time

from tests.topology.chains import Net
from topograph.topology import diff


def deep(prefix, blocks, skip=-1):
    net = Net(prefix)
    for i in range(blocks):
        if i != skip:
            start = net.nodes[-1].name
            net.linear(f"{prefix}{i}", 8, 8)(f"{prefix}relu{i}", "relu")
            net(f"{prefix}add{i}", "add", reads=(start, net.nodes[-1].name))
    return net.done()


def twins(prefix, count):
    net = Net(prefix)
    for i in range(count):
        net(f"{prefix}{i}", "relu", reads=("x",))
    return net("sum", "add", reads=[node.name for node in net.nodes]).done()


def test_five_thousand_nodes_take_seconds():
    pairs = [
        (deep("a", 1_700), deep("a", 1_700, skip=800), 5),
        (deep("a", 1_700), deep("b", 1_700), 5_100),
        (deep("a", 1_700), deep("b", 1_700, skip=800), 5_101),
        (twins("a", 5_000), twins("b", 4_999), 5_001),
    ]
    for before, after, most in pairs:
        assert before.fingerprint != after.fingerprint
        began = time.perf_counter()
        found = diff(before, after)
        assert time.perf_counter() - began < 8
        assert 0 < len(found.changes) <= most
