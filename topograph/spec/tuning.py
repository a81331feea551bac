"""Mutations of what is trained: freeze, unfreeze, untie, adapters."""

from typing import Annotated, Literal

from pydantic import Field

from topograph.spec.blocks import Units
from topograph.spec.selectors import Glob, Selector
from topograph.topology import Record


class Freeze(Record):
    """Stop training the parameters of nodes; the function stays.

    A tied parameter is frozen under all its names, a shared module for all its calls. The values
    stay shared with the model before, which keeps its own flags.

    Args:
        where: The nodes; `named` also matches the paths of parameters, as in ``*.bias``.
        only: A glob on the parameters' paths; None for all parameters of the nodes.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> import topograph as tg
        >>> tg.Freeze(where=tg.named("encoder.*")).kind
        'freeze'

    References:
        Howard, Ruder, Universal Language Model Fine-tuning, arXiv:1801.06146.
    """

    kind: Literal["freeze"] = "freeze"
    where: Selector
    only: Glob | None = None


class Unfreeze(Record):
    """Train the parameters of nodes again; the function stays.

    Args:
        where: The nodes; `named` also matches the paths of parameters, as in ``*.bias``.
        only: A glob on the parameters' paths; None for all parameters of the nodes.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> import topograph as tg
        >>> tg.Unfreeze(where=tg.after(op="layer_norm"), only="*.weight").only
        '*.weight'

    References:
        Howard, Ruder, Universal Language Model Fine-tuning, arXiv:1801.06146.
    """

    kind: Literal["unfreeze"] = "unfreeze"
    where: Selector
    only: Glob | None = None


class Untie(Record):
    """Give nodes their own copies of the parameters that they share with others.

    Each name under which a matched node holds a tied parameter gets a copy; the last one keeps the
    original. A module that is called at several places is cloned for the matched call, buffers
    too, and so is a parameter that a function reads beside others: the copies stand in a new
    module ``untied_1``. All old state keys stay valid, and the function stays.

    Args:
        where: The nodes whose parameters get copies.

    Raises:
        pydantic.ValidationError: A field is missing or unknown.

    Example:
        >>> import topograph as tg
        >>> tg.Untie(where=tg.named("head")).where.pattern
        'head'

    References:
        Press, Wolf, Using the Output Embedding to Improve Language Models, arXiv:1608.05859.
    """

    kind: Literal["untie"] = "untie"
    where: Selector


class AddAdapter(Record):
    r"""Add a small trainable part to a layer, which starts as nothing.

    ``low_rank`` is LoRA beside a Linear or a convolution,
    :math:`y = W x + b + \frac{\alpha}{r} B A x`, with :math:`B = 0` and :math:`A` drawn as torch
    draws a Linear; beside a convolution :math:`A` has its kernel, stride, padding and dilation,
    and :math:`B` is 1 x 1. ``bottleneck`` stands behind the layer,
    :math:`y + W_2\,\sigma(W_1 y + b_1)`, with :math:`W_2 = 0`. An adapter belongs to one call: a
    module that is called twice gets one for each call that is matched.

    Args:
        where: The layers; of many nodes only Linear layers and convolutions are taken.
        rank: Rows of :math:`A` or :math:`W_1`, 1 to 65,536.
        alpha: :math:`\alpha`, for ``low_rank``, above 0; None means the rank, a factor of 1.
        style: ``low_rank`` or ``bottleneck``.
        activation: :math:`\sigma`, for ``bottleneck``.
        freeze: Whether the layer's own parameters are frozen by the same change.

    Raises:
        pydantic.ValidationError: A field is missing, unknown or out of its bounds.

    Example:
        >>> import topograph as tg
        >>> tg.AddAdapter(where=tg.after(op="linear"), rank=8, alpha=16.0, freeze=True).style
        'low_rank'

    References:
        Hu et al., LoRA, arXiv:2106.09685; Houlsby et al., arXiv:1902.00751.
    """

    kind: Literal["add_adapter"] = "add_adapter"
    where: Selector
    rank: Units
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    style: Literal["low_rank", "bottleneck"] = "low_rank"
    activation: Literal["gelu", "silu", "tanh"] = "gelu"
    freeze: bool = False

    @property
    def scale(self) -> float:
        """The factor of the adapter, alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank
