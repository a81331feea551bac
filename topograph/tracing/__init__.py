"""Module to graph: trace, shapes without side effects, the guard on generated code, verify."""

from topograph.tracing.trace import TracedModel, trace
from topograph.tracing.verify import verify

__all__ = ["TracedModel", "trace", "verify"]
