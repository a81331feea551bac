"""Small networks, written by hand: chains with branches."""

from topograph.topology import Node, Parameter, Topology


class Net:
    """Builds a chain with branches: each call reads the last one unless told otherwise."""

    def __init__(self, name="Net"):
        self.name, self.nodes, self.parameters = name, [], []
        self("x", "input", kind="input", shape=("N", 8), reads=())

    def __call__(self, name, op, *, reads=None, shape=None, kind="function", weight=None, **fields):
        last = self.nodes[-1] if self.nodes else None
        inputs = tuple(reads) if reads is not None else (last.name,)
        path = fields.pop("path", name.replace("_", "."))
        if weight:
            self.parameters.append(
                Parameter(path=f"{path}.weight", shape=weight, dtype="float32", trainable=True)
            )
            kind, fields["parameters"] = "module", (f"{path}.weight",)
        self.nodes.append(
            Node(name=name, kind=kind, op=op, target=path if weight else op, inputs=inputs,
                 shape=shape or last.shape, **fields)
        )  # fmt: skip
        return self

    def linear(self, name, into, out, **fields):
        detail = f"in_features={into}, out_features={out}, bias=False"
        return self(name, "linear", weight=(out, into), detail=detail, shape=("N", out), **fields)

    def done(self):
        self("output", "output", kind="output")
        return Topology(name=self.name, nodes=tuple(self.nodes), parameters=tuple(self.parameters))
