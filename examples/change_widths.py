"""Widen a transformer's hidden layer, halve its heads, and take both back.

Run it: ``python examples/change_widths.py``
"""

import torch
from torch import Tensor, nn

import topograph as tg


class Block(nn.Module):
    """Attention with fused q, k and v, and an MLP, on one residual stream."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after attention and MLP; x is [rows, tokens, width]."""
        rows, tokens, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(rows, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


def main() -> dict[str, float]:
    """Run the example; return how far each change moved the output."""
    torch.manual_seed(0)
    tokens = torch.randn(2, 10, 32)
    model = nn.Sequential(Block(), nn.Linear(32, 4)).eval()
    optimizer = torch.optim.AdamW(model.parameters())
    expected, moved = model(tokens), {}

    traced = tg.trace(model, example_inputs=(tokens,))
    for space in tg.spaces(traced):
        print(space)

    widen = tg.WidenLayer(where=tg.named("0.fc1"), to=192)
    plan = tg.plan(traced, [widen])
    print(f"\n{plan}")
    wider = tg.apply(traced, plan)
    print(f"\noptimizer: {tg.migrate(wider, optimizer=optimizer)}")
    moved["widen"] = (tg.recompile(wider.after).eval()(tokens) - expected).abs().max().item()

    narrow = tg.NarrowLayer(where=tg.named("0.qkv"), to=48)
    fewer = tg.apply(wider.after, tg.plan(wider.after, [narrow]))
    block = tg.recompile(fewer.after)[0]  # type: ignore[index]
    print(f"heads: {model[0].num_heads} -> {block.num_heads}")
    moved["narrow"] = (tg.recompile(fewer.after).eval()(tokens) - expected).abs().max().item()

    back = tg.recompile(tg.undo(wider)).eval()
    moved["undo"] = (back(tokens) - expected).abs().max().item()
    print(moved)
    return moved


if __name__ == "__main__":
    main()
