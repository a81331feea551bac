"""`inspect --spaces` prints which widths must change together."""

import json

MODEL = ("tests.zoo:ResNet", "--input", "2,3,8,8")


def test_the_table_names_makers_readers_and_what_is_fixed(cli):
    found = cli("inspect", *MODEL, "--spaces")
    assert found.code == 0
    assert "channel spaces" in found.out
    assert "it is a size of the model's output" in found.out
    assert "it is a size of the model's input" in found.out


def test_the_document_lists_every_member(cli):
    found = cli("inspect", *MODEL, "--spaces", "--json")
    spaces = json.loads(found.out)
    assert {"name", "size", "members", "output", "mixed", "lock"} == set(spaces[0])
    members = [member["path"] for space in spaces for member in space["members"]]
    assert any(path.endswith("running_mean") for path in members)
    assert len({space["name"] for space in spaces}) == len(spaces)
