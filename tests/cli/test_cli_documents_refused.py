"""Bad mutations, plans, policies and topologies: one message, code 2, nothing written."""

import json

import pytest
from cli_words import MODEL, refused, tree, write_json

HOSTILE = (
    "__import__('os').system('touch broken')",
    "a b",
    "a\nb",
    "x\x1b[31m",
    "a;b",
    "a" * 300,
    "",
    "ａ",
    "../x",
)


def insert(units=4, **fields):
    block = {"kind": "bottleneck", "units": units}
    return {"kind": "insert_layer", "where": {"kind": "all"}, "block": block, **fields}


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        (b"", ("asked.json: the document is empty",)),
        (b"\xff\xfe[]", ("not UTF-8 text",)),
        (b"[{", ("not valid JSON at line 1",)),
        (b"[]", ("at least 1",)),
        (b"7", ("asked.json",)),
        (b'{"kind": "explode"}', ("explode", "insert_layer")),
        (b'{"kind": "insert_layer"}', ("where", "block")),
        (json.dumps(insert(10**12)).encode(), ("block.bottleneck.units", "65536")),
        (json.dumps(insert(0)).encode(), ("units",)),
        (json.dumps(insert(unit=3)).encode(), ("unit", "not permitted")),
        (b'{"kind": "add_branch", "source": "relu_1", "target": "relu_3", "gate": NaN}', ("NaN",)),
        (
            b'{"kind": "add_branch", "source": "relu_1", "target": "relu_3", "gate": 1e999}',
            ("too large",),
        ),
        (b'{"kind": "x", "kind": "y"}', ("'kind' is given twice",)),
        (b"[" * 100_000, ("nested too deeply",)),
    ],
)
def test_mutations_that_are_none(cli, folder, content, phrases):
    (folder / "asked.json").write_bytes(content)
    before = tree(folder)
    refused(cli("plan", *MODEL, "asked.json", "-o", "plan.json"), *phrases)
    assert tree(folder) == before


def test_a_mutations_file_that_is_a_folder_or_is_not_there(cli, folder):
    (folder / "asked.json").mkdir()
    refused(cli("plan", *MODEL, "asked.json"), "asked.json: cannot be read (Is a directory)")
    refused(cli("plan", *MODEL, "none.json"), "none.json: no such file")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["source", "node", "op", "pattern"])
def test_names_in_mutations_never_become_code(cli, folder, name, field):
    place = {
        "source": {"kind": "between", "source": name, "target": "relu_1"},
        "node": {"kind": "at", "node": name},
        "op": {"kind": "after", "op": name},
        "pattern": {"kind": "named", "pattern": name},
    }[field]
    write_json(folder / "asked.json", insert(where=place))
    before = tree(folder)
    refused(cli("plan", *MODEL, "asked.json", "-o", "plan.json"), f"{field}: String should")
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("asked", "phrases"),
    [
        ({"kind": "add_branch", "source": "input_1", "target": "linear_4"}, ("[N, 8]", "[N, 3]")),
        ({"kind": "add_branch", "source": "linear_4", "target": "relu_1"}, ("linear_4",)),
        (
            {"kind": "remove_layer", "where": {"kind": "at", "node": "linear_0"}},
            ("linear_0", "[N, 8]"),
        ),
        (insert(block={"kind": "conv_bottleneck", "units": 4}), ("relu_1: ",)),
        (insert(where={"kind": "at", "node": "relu"}), ("no node is called 'relu'", "nearest")),
    ],
)
def test_places_that_do_not_fit(cli, folder, asked, phrases):
    write_json(folder / "asked.json", asked)
    refused(cli("plan", *MODEL, "asked.json"), *phrases)


def edited(folder, *path_and_value):
    *path, value = path_and_value
    document = json.loads((folder / "plan.json").read_text())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    write_json(folder / "plan.json", document)


def apply_refused(cli, folder, *phrases, model=MODEL):
    before = tree(folder)
    refused(cli("apply", *model, "plan.json", "--run", "run"), *phrases)
    assert tree(folder) == before


def test_a_plan_for_another_topology(planned, folder):
    other = ("cli_models:ResNet", "--input", "2,3,8,8")
    apply_refused(planned, folder, "the plan was made for the topology", model=other)


def test_a_plan_that_is_already_applied(applied, folder):
    apply_refused(applied, folder, "already applied")


def test_a_plan_cut_short(planned, folder):
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text[: len(text) // 2])
    apply_refused(planned, folder, "plan.json: not valid JSON")


@pytest.mark.parametrize(
    ("path", "value", "phrase"),
    [
        (("changes", 0, "mutation", "block", "units"), 5, "edited"),
        (("changes", 0, "name"), "other", "edited"),
        (("changes", 1, "mutation", "where", "node"), "linear_0", "edited"),
        (("changes",), [], "edited"),
        (("after_sha256",), "0" * 64, "edited"),
        (("base_sha256",), "0" * 64, "made for the topology 000000000000"),
        (("changes", 0, "name"), "__import__('os')", "changes.0.name"),
        (("changes", 0, "name"), "a.b", "changes.0.name"),
        (("changes", 0, "mutation", "where", "node"), "x;y", "node: String should"),
        (("format",), "topograph.plan/2", "format"),
        (("surprise",), 1, "surprise: Extra inputs"),
    ],
)
def test_an_edited_plan(planned, folder, path, value, phrase):
    edited(folder, *path, value)
    apply_refused(planned, folder, phrase)


@pytest.mark.parametrize(
    ("old", "new", "phrases"),
    [
        ('"steps": 2', '"steps": NaN', ("trigger.steps", "NaN")),
        ('"steps": 2', '"steps": 1e999', ("trigger.steps", "too large")),
        ('"steps": 2', '"steps": 0', ("steps",)),
        ('"steps": 2', '"stepps": 2', ("stepps", "not permitted")),
        ('"steps": 2', '"steps": 2, "steps": 3', ("'steps' is given twice",)),
        ('"units": 4', '"units": 1000000000000', ("units", "65536")),
        ('"units": 4', '"units": "4"', ("units", "valid integer")),
        ('"op": "relu"', '"op": "os.system(1)"', ("op: String should",)),
        ('"kind": "every"', '"kind": "never"', ("never", "plateau")),
        ("}]}", "", ("not valid JSON",)),
    ],
)
def test_a_policy_that_is_none(cli, folder, old, new, phrases):
    text = (folder / "every.json").read_text()
    assert old in text
    (folder / "every.json").write_text(text.replace(old, new))
    before = tree(folder)
    refused(cli("validate", "every.json"), "every.json: ", *phrases)
    words = ("grow", "cli_models:experiment", "--policy", "every.json", "--run", "run")
    refused(cli(*words), "every.json: ", *phrases)
    assert tree(folder) == before


def test_a_policy_is_not_overwritten(cli, folder):
    before = tree(folder)
    refused(cli("policy", "init", "every.json"), "every.json: already there")
    assert tree(folder) == before


def test_topologies_that_are_none(planned, folder):
    planned("inspect", *MODEL, "-o", "a.json")
    text = (folder / "a.json").read_text()
    (folder / "cut.json").write_text(text[:-100])
    (folder / "loop.json").write_text(text.replace('"linear_0"\n', '"output"\n', 1))
    refused(planned("diff", "a.json", "cut.json"), "cut.json: not valid JSON")
    refused(planned("diff", "loop.json", "a.json"), "loop.json", "not above it")
    refused(planned("diff", "a.json", "plan.json"), "plan.json: format", "topograph.topology/1")
    refused(planned("diff", "a.json", "none.json"), "none.json: no such file")
