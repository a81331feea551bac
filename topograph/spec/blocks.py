"""Blocks: what an inserted layer is made of."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic.config import JsonDict

from topograph.topology import Record

WIDEST = 65_536
ODD: JsonDict = {"not": {"multipleOf": 2}}
Units = Annotated[int, Field(ge=1, le=WIDEST)]
Activation = Literal["gelu", "silu", "tanh"]


class Bottleneck(Record):
    r"""Two matrices around an activation: :math:`x + W_2\,\sigma(W_1 g(x) + b_1)`.

    Works feature-wise on ``[N, C]`` and token-wise on ``[N, T, C]``; the channel is the last axis.

    Args:
        units: Rows of :math:`W_1`, the width of the hidden layer, 1 to 65,536.
        activation: :math:`\sigma`; all have :math:`\sigma(0) = 0` and a slope there.
        norm: Whether :math:`g` is a LayerNorm instead of the identity.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> Bottleneck(units=16).activation
        'gelu'

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885; Houlsby et al., arXiv:1902.00751.
    """

    kind: Literal["bottleneck"] = "bottleneck"
    units: Units
    activation: Activation = "gelu"
    norm: bool = False


class ConvBottleneck(Record):
    r"""Two convolutions around an activation, :math:`x + W_2 * \sigma(W_1 * x + b_1)`.

    Works on ``[N, C, L]``, ``[N, C, H, W]`` and ``[N, C, D, H, W]``, stride 1, zero padding.

    Args:
        units: Channels between the two convolutions, 1 to 65,536.
        kernel: Odd size of the spatial convolution in pixels; the other one is 1.
        activation: :math:`\sigma`.
        spatial: Which convolution has the kernel: the first (``in``) or the second (``out``).

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> ConvBottleneck(units=8).kernel
        3

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
    """

    kind: Literal["conv_bottleneck"] = "conv_bottleneck"
    units: Units
    kernel: Annotated[int, Field(ge=1, le=15, json_schema_extra=ODD)] = 3
    activation: Activation = "gelu"
    spatial: Literal["in", "out"] = "in"

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("an even kernel would shift the image; give an odd one")
        return kernel


class Linear(Record):
    """One matrix: ``x + W x + b``, which starts as the identity.

    Works feature-wise on ``[N, C]`` and token-wise on ``[N, T, C]``; the channel is the last axis.

    Args:
        bias: Whether there is a ``b``.

    Raises:
        pydantic.ValidationError: A field is unknown.

    Example:
        >>> Linear().bias
        True

    References:
        Chen, Goodfellow, Shlens, Net2Net, arXiv:1511.05641.
    """

    kind: Literal["linear"] = "linear"
    bias: bool = True


Block = Annotated[Bottleneck | ConvBottleneck | Linear, Field(discriminator="kind")]
