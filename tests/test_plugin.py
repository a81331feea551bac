"""The example plugin, installed in a folder of its own, works wherever built-in kinds do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.plugins import run, run_code, run_fresh
from topograph.errors import SpecError
from topograph.spec import Plan, Policy, load_mutations

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "plugin"
BUILDERS = ("pip", "setuptools")
SCALE = {"kind": "scale_layer", "where": {"kind": "after", "op": "relu"}}
GATED = {
    "kind": "insert_layer",
    "where": {"kind": "after", "op": "relu"},
    "block": {"kind": "gated", "units": 4},
}
TENSORS = "print('torch' in sys.modules, 'acme_layers.scale_layer' in sys.modules)"


def release(name: str) -> int:
    """Return the first number of an installed distribution's version; 0 where there is none.

    Not even looked for as a module: setuptools takes that for pip and exchanges distutils.
    """
    try:
        return int(version(name).split(".")[0])
    except PackageNotFoundError:
        return 0


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder into which pip has put the example."""
    here = {name: release(name) for name in BUILDERS}
    if here["pip"] < 1 or here["setuptools"] < 77:
        pytest.skip(f"pip and setuptools 77 or newer install the example; here are {here}")
    folder = tmp_path_factory.mktemp("plugin")
    copy = shutil.copytree(SOURCE, folder / "source")  # a build leaves files beside the source
    quiet = ("--quiet", "--disable-pip-version-check", "--no-index")
    alone = ("--no-deps", "--no-build-isolation", "--target", str(folder / "site"))
    words = [sys.executable, "-m", "pip", "install", *quiet, *alone, str(copy)]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder / "site"


@pytest.fixture
def work(tmp_path) -> Path:
    """A user's folder: a model, mutations and a policy that name the plugin's kinds."""
    shutil.copy(ROOT / "tests" / "cli" / "cli_models.py", tmp_path)
    (tmp_path / "both.json").write_text(json.dumps([SCALE, GATED]))
    every = {"kind": "every", "steps": 1}
    policy = {"trigger": every, "candidates": [SCALE, GATED], "scorer": "none"}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    return tmp_path


def commands(
    installed: Path, work: Path, *lines: str, after: str = "", how: Callable[..., str] = run
) -> list[tuple[int, str]]:
    """Run commands in one process; return each one's exit code and what it printed."""
    code = f"""
import contextlib, io, json, sys
from topograph.cli.app import main
from topograph.cli.output import console, errors
found = []
for line in {lines!r}:
    sys.argv = ["topograph", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as ended:
            found.append((ended.code, out.getvalue()))
print(json.dumps(found))
{after}
"""
    first, *rest = how(installed, "-c", code, cwd=work).splitlines()
    return [tuple(row) for row in json.loads(first)] + [(0, line) for line in rest]


def test_its_own_tests_pass(installed, tmp_path):
    copy = shutil.copytree(SOURCE / "tests", tmp_path / "acme_tests")
    out = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(copy), cwd=tmp_path)
    assert out.strip().splitlines()[-1].startswith("6 passed")


def test_a_round_on_the_command_line(installed, work):
    model = "cli_models:make_model --input 2,8"
    base = "cli_models:make_model --input=2,8"
    found = commands(
        installed,
        work,
        f"plan {model} both.json -o plan.json",
        f"apply {model} plan.json --run run",
        f"plan {model} both.json --run run",
        "history run",
        "replay run --model cli_models:make_model --input 2,8 -o a.safetensors",
        "report run",
        f"explain {base} both.json",
        "undo run",
        "doctor",
    )
    assert [code for code, _ in found] == [2, 0, 0, 0, 0, 0, 0, 0, 0], found
    plan, _, again, history, _, _, explained, undone, doctor = (out for _, out in found)
    assert "+ scale_1_product" in plan
    assert "+ gated_1_gate" in plan
    assert "max |Δy| = 0" in plan
    assert again.startswith("no changes (2 requests already applied)")
    assert "scale_1, scale_2, gated_1, gated_2" in history
    assert (
        "1  scale_layer: scale layer, at: after every relu\n   ok       after relu_1" in explained
    )
    assert "insert_layer: gated, units 4, at" in explained
    assert undone.startswith("entry 2: back at topology")
    assert "mutation scale_layer" in doctor
    assert "acme-layers 1.0" in doctor
    saved = json.loads((work / "plan.json").read_text())
    assert saved["changes"][0]["mutation"]["kind"] == "scale_layer"
    with pytest.raises(SpecError, match=r"changes\.0\.mutation: no mutation is called 'scale_la"):
        Plan.load(work / "plan.json")  # it is not installed here


def test_documents_are_read_without_torch(installed, work):
    lines = ("--help", "validate policy.json", "schema mutation")
    help_, valid, schema, light = commands(installed, work, *lines, after=TENSORS, how=run_fresh)
    assert help_[0] == 0
    assert "candidates insert_layer, scale_layer" in valid[1]
    assert "#/$defs/ScaleLayer" in schema[1]
    assert light[1] == "False False"


def test_schemas_name_its_kinds_but_the_exported_ones_do_not(installed, work, tmp_path_factory):
    code = """
    import json
    from topograph.spec import schema
    from topograph.spec.schemas import main
    print(json.dumps({name: schema(name) for name in ("mutation", "policy")}))
    main()
    """
    found = json.loads(run_code(installed, code, cwd=work))
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    mutation = validator(found["mutation"])
    assert mutation.is_valid([SCALE, GATED])
    assert not mutation.is_valid({**SCALE, "factor": 2})
    assert not mutation.is_valid({**GATED, "block": {"kind": "gated", "units": 0}})
    assert validator(found["policy"]).is_valid(json.loads((work / "policy.json").read_text()))
    exported = {path.name: path.read_text() for path in (work / "schemas").iterdir()}
    (plain := tmp_path_factory.mktemp("plain")).joinpath("here").mkdir()
    run_code(plain, "from topograph.spec.schemas import main; main()", cwd=plain / "here")
    assert exported == {
        path.name: path.read_text() for path in (plain / "here" / "schemas").iterdir()
    }


def test_a_run_keeps_its_weights_and_its_optimizer(installed, work):
    """Journal, undo and replay give back the trained weights; moments stay where they were."""
    code = """
    import cli_models, torch
    import topograph as tg
    from topograph.spec import load_mutations
    model, (batch, *_) = cli_models.make_model(), cli_models.probe()
    traced = tg.trace(model, batch[:1])
    optimizer = torch.optim.AdamW(traced.module.parameters(), lr=0.1)
    run = tg.Run.create("run", traced, model="cli_models:make_model")
    def learn(network):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch[0]), batch[1]).backward()
        optimizer.step()
    learn(traced.module)
    old = {key: value.clone() for key, value in traced.module.state_dict().items()}
    moments = [optimizer.state[p]["exp_avg"].clone() for p in traced.module.parameters()]
    kept = list(traced.module.parameters())
    revision = tg.apply(traced, tg.plan(traced, load_mutations("both.json")))
    tg.migrate(revision, optimizer=optimizer)
    assert all(torch.equal(optimizer.state[p]["exp_avg"], m) for p, m in zip(kept, moments))
    assert torch.equal(revision.after.module(batch[0]), revision.before.module(batch[0]))
    run.commit(revision)
    factor = revision.after.module.get_parameter("scale_1.factor")
    learn(revision.after.module)
    assert factor.item() != 1
    run.checkpoint(revision.after, metrics={})
    run.close()
    again = tg.replay("run", cli_models.make_model(), batch[:1])
    now = revision.after.module.state_dict()
    found = again.module.state_dict()
    assert found.keys() == now.keys()
    assert all(torch.equal(found[key], now[key]) for key in now)
    assert torch.equal(again.module(batch[0]), revision.after.module(batch[0]))
    (plan,) = [entry.plan for entry in tg.read_history("run").entries if entry.kind == "apply"]
    kinds = [change.mutation.kind for change in plan.changes]
    with tg.Run.open("run") as run:
        run.undo(to=0)
    print(*kinds, tg.undo(revision).topology == traced.topology)
    """
    out = run_code(installed, code, cwd=work)
    assert out == "scale_layer scale_layer insert_layer insert_layer True\n"


def test_a_policy_whose_candidates_no_scorer_knows_is_refused(installed, work):
    code = """
    import cli_models, torch
    import topograph as tg
    model, (batch, *_) = cli_models.make_model(), cli_models.probe()
    loss = torch.nn.functional.cross_entropy
    try:
        tg.Grower(model, tg.Policy.load("gated.json"), example_inputs=batch[:1], loss=loss,
                  optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    except tg.RefusedError as error:
        print(error)
    try:
        tg.Policy.load("scaled.json")
    except tg.SpecError as error:
        print(error)
    """
    for name, candidate in (("gated", GATED), ("scaled", SCALE)):
        policy = {"trigger": {"kind": "every", "steps": 1}, "candidates": [candidate]}
        (work / f"{name}.json").write_text(json.dumps(policy))
    out = run_code(installed, code, cwd=work)
    assert "there is no closed form of insert_layer with a gated" in out
    assert "scaled.json: scorer: Value error, " in out
    assert "auto scores add_adapter and add_branch and insert_layer and widen_layer, not" in out
    assert "not scale_layer" in out


def test_without_the_plugin_the_kinds_are_unknown(work):
    with pytest.raises(SpecError) as error:
        load_mutations(str(work / "both.json"))
    first, second = str(error.value).splitlines()
    assert "0: no mutation is called 'scale_layer'; there are insert_layer, " in first
    assert "a plugin that defines it may not be installed" in first
    assert "1.insert_layer.block: no block is called 'gated'; there are bottleneck, " in second
    with pytest.raises(SpecError, match=r"candidates\.0: no mutation is called 'scale_layer'"):
        Policy.load(work / "policy.json")
