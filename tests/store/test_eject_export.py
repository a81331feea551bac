"""Exported programs compute what the network computes in eval, with other batch sizes, too."""

import pytest
import torch

import topograph as tg
from tests.nets import make, same
from tests.often import often
from tests.zoo import BY_NAME


def grown():
    traced = make("residual", dtype=torch.float32)
    wanted = [tg.InsertLayer(where=tg.after(op="tanh"), block=tg.Bottleneck(units=3))]
    return tg.apply(traced, tg.plan(traced, wanted)).after


def example(name):
    found = BY_NAME[name]
    return tg.trace(found.model(), found.inputs, found.kwargs)


@pytest.mark.parametrize("name", often(["grown", "resnet", "keywords"], ["grown"]))
def test_programs_load_and_take_other_batches(name, tmp_path):
    traced = grown() if name == "grown" else example(name)
    before = {key: value.clone() for key, value in traced.module.state_dict().items()}
    ejected = tg.eject(traced, tmp_path / "a.pt2")
    assert all(module.training for module in traced.module.modules())
    assert same(dict(traced.module.state_dict()), before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]
    assert ejected.weights is None
    assert ejected.notes == ()
    assert ejected.checked.endswith(f"called by name: module()({'=…, '.join(traced.inputs)}=…)")
    assert b"site-packages" not in ejected.path.read_bytes()
    assert b"/tests/" not in ejected.path.read_bytes()
    inputs = {n: torch.cat([v] * 3) for n, v in traced.inputs.items() if hasattr(v, "ndim")}
    traced.module.eval()
    program = torch.export.load(ejected.path).module()
    rest = {n: v for n, v in traced.inputs.items() if n not in inputs}
    found, expected = program(**inputs, **rest), traced.module(**inputs)
    leaves = torch.utils._pytree.tree_leaves
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert torch.allclose(a, b, atol=1e-6) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", often(["grown", "keywords", "recurrent"], ["recurrent"]))
def test_onnx_is_checked_by_the_reference(name, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (the extra `export`)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (the extra `export`)")
    reference = pytest.importorskip("onnx.reference")
    traced = grown() if name == "grown" else example(name)
    ejected = tg.eject(traced, tmp_path / "a.onnx")
    assert 0 <= ejected.difference < 1e-4
    assert "by onnx's reference in eval" in ejected.checked
    assert b"/tests/" not in ejected.path.read_bytes()
    model = onnx.load(ejected.path)
    onnx.checker.check_model(model)
    if name == "grown":
        x = torch.randn(7, 5)
        (found,) = reference.ReferenceEvaluator(model).run(None, {"x": x.numpy()})
        assert torch.allclose(torch.as_tensor(found), traced.module.eval()(x), atol=1e-5)


def test_what_exporters_cannot_write_is_one_error(tmp_path, capfd):
    with pytest.raises(tg.EjectError, match=r"a\.pt2: the exporter of torch fails: .*; eject to"):
        tg.eject(example("on_data"), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""
