"""Which widths must change together: the channel spaces of a model."""

from topograph.widths.spaces import spaces

__all__ = ["spaces"]
