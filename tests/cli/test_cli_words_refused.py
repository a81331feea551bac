"""Bad words on the command line, and bad factories, data and losses: one message, code 2."""

import pytest
from cli_words import refused, tree

SCORE = ("score", "cli_models:make_model", "--data", "cli_models:probe", "--loss", "cross_entropy")
INSPECT = ("inspect", "cli_models:make_model")


@pytest.mark.parametrize(
    ("command", "phrases"),
    [
        (("inspekt",), ("no such command 'inspekt'", "'inspect'?", "topograph --help")),
        (("inspect",), ("missing argument 'model'", "topograph inspect --help")),
        ((*INSPECT, "--inptu", "2,8"), ("no such option", "--inptu")),
        ((*INSPECT, "--input"), ("--input", "requires an argument")),
        ((*SCORE, "--units", "0"), ("--units", "greater than or equal to 1")),
        ((*SCORE, "--units", "99999999999"), ("--units 99999999999", "65536")),
        ((*SCORE, "--top", "0"), ("--top",)),
        ((*SCORE, "--block", "botleneck"), ("--block botleneck", "conv_bottleneck")),
        ((*SCORE, "--where", "foo"), ("--where foo", "after:OP")),
        ((*SCORE, "--where", "between:linear_0"), ("between:SOURCE,TARGET",)),
        ((*SCORE, "--where", "between:0,1"), ("'0' is no name", "topograph inspect")),
        ((*SCORE, "--where", "at:linear_9"), ("no node is called 'linear_9'", "nearest: linear_")),
        ((*SCORE, "--where", "after:rel"), ("no node has the operation 'rel'", "nearest: relu")),
        ((*SCORE, "--where", "named:layer*"), ("matches 'layer*'", "nearest:")),
        (
            (*SCORE, "--where", "between:linear_0,relu_3"),
            ("no edge goes from 'linear_0' to 'relu_3'", "by relu_1"),
        ),
        ((*SCORE, "--where", "at:__import__('os')"), ("no name of a node",)),
        ((*SCORE, "--block", "linear", "--units", "4"), ("--units: a linear block has no",)),
        ((*SCORE, "--mutations", "insert.json", "--units", "4"), ("--mutations and --units",)),
        ((*SCORE, "--mutations", "insert.json", "--block", "linear"), ("and --block: the file",)),
        ((*SCORE, "--mutations", "insert.json", "--where", "all"), ("and --where: the file",)),
        (("schema", "polcy"), ("no document is called 'polcy'", "policy")),
        (("diff", "a", "b", "--format", "svg"), ("--format", "'svg'", "'mermaid'")),
        (("undo", "run", "--to", "x"), ("--to", "valid integer", "topograph undo --help")),
        (("demo", "--epochs", "0"), ("--epochs",)),
        (("policy", "make"), ("no such command 'make'", "topograph policy --help")),
    ],
)
def test_words_that_mean_nothing(cli, folder, command, phrases):
    before = tree(folder)
    refused(cli(*command), *phrases)
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("shape", "phrase"),
    [
        ("1,2,x", "give sizes, e.g. 2,3,32,32"),
        ("", "give sizes"),
        ("-1,8", "give sizes"),
        ("0,8", "0 elements"),
        ("99999999,99999999", "9,999,999,800,000,001 elements"),
        ("9" * 5000, "give sizes"),
        ("2,8:float33", "no dtype 'float33'"),
        ("2,8:Tensor", "give sizes"),
        ("2,8:nn", "no dtype 'nn'"),
        ("2,8:qint8", "no dtype 'qint8'; give one of float32"),
        ("2,9", "fails on the example inputs, also without topograph"),
        ("2,8:int64", "fails on the example inputs"),
    ],
)
def test_an_input_that_is_no_shape_or_does_not_fit(cli, shape, phrase):
    refused(cli(*INSPECT, "--input", shape), phrase)


def test_inputs_come_from_one_place_and_in_the_right_number(cli):
    refused(cli(*INSPECT, "--input", "2,8", "--data", "cli_models:probe"), "not both")
    refused(cli(*INSPECT, "--input", "2,8", "--input", "2,8"), "do not fit", "too many")
    refused(cli("inspect", "cli_models:Two", "--input", "2,4"), "do not fit", "'ids'")


@pytest.mark.parametrize(
    ("reference", "phrases"),
    [
        ("cli_models", ("not of the form pkg.mod:name",)),
        ("cli_models:make_model()", ("not of the form pkg.mod:name",)),
        ("cli_models:ResNet.forward", ("not of the form pkg.mod:name",)),
        ("__import__('os').system('touch x'):a", ("not of the form pkg.mod:name",)),
        ("no_such_module:make", ("no module 'no_such_module'", "run from the folder")),
        ("cli_models.deeper:make", ("no module 'cli_models.deeper'",)),
        ("cli_models:make_modle", ("has no 'make_modle'", "nearest: make_model")),
        ("cli_models:zzzz", ("has no 'zzzz'; nearest: ResNet, Transformer",)),
        ("cli_broken:number", ("is a int", "without arguments")),
        ("cli_broken:no_module", ("returns a dict", "must return an nn.Module")),
        ("cli_broken:no_probe", ("returns nothing", "must return an nn.Module")),
        ("cli_broken:raises", ("ValueError: the\\x1b[31mweights", "(cli_broken.py, line ")),
        ("cli_broken:two_numbers", ("cli_broken:two_numbers() fails", "missing 2 required")),
        ("cli_syntax:make", ("importing cli_syntax fails: SyntaxError",)),
        ("cli_exits:make", ("importing cli_exits ends the program", "__main__")),
        ("cli_needs:make", ("no module 'no_such_thing'",)),
    ],
)
def test_a_factory_that_makes_no_model(cli, folder, reference, phrases):
    (folder / "cli_syntax.py").write_text("def make(:\n")
    (folder / "cli_exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "cli_needs.py").write_text("import no_such_thing\n")
    before = tree(folder)
    for command in (("inspect", reference), ("plan", reference, "insert.json", "-o", "p")):
        refused(cli(*command, "--input", "2,8"), *phrases)
    assert tree(folder) == before


def test_a_model_that_cannot_be_traced_says_why(cli):
    refused(cli("inspect", "cli_broken:Leaving", "--input", "2,8"), "Leaving", "submodule")


def test_a_model_that_decides_by_a_value_is_shown_with_a_note(cli):
    found = cli("inspect", "cli_broken:Stepping", "--input", "2,8")
    assert (found.code, found.err) == (0, "")
    assert "reads a tensor's value (Tensor.item)" in " ".join(found.out.split())


def test_what_imports_the_factory_may_itself_be_a_model(cli, folder):
    (folder / "cli_ready.py").write_text("from cli_models import make_model\nnet = make_model()\n")
    assert cli("inspect", "cli_ready:net", "--input", "2,8").code == 0


@pytest.mark.parametrize(
    ("data", "phrases"),
    [
        ("no_probe", ("returns nothing", "(inputs, target)")),
        ("empty_probe", ("returns no batches",)),
        ("one_pair", ("returns one (inputs, target)", "put it in a list")),
        ("triples", ("batch 0 is a tuple", "(inputs, target)")),
        ("stopping_probe", ("RuntimeError: the disk went away", "(cli_broken.py, line ")),
        ("endless_probe", ("more than 10,000 batches",)),
        ("number", ("is a int",)),
        ("far_targets", ("the loss cross_entropy fails", "Target 99")),
        ("nan_targets", ("batch 0", "nan")),
    ],
)
def test_data_that_is_no_batches(cli, folder, data, phrases):
    before = tree(folder)
    options = ("--data", f"cli_broken:{data}", "--loss", "cross_entropy", "-o", "best.json")
    refused(cli("score", "cli_models:make_model", *options), *phrases)
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("loss", "phrases"),
    [
        ("cros_entropy", ("there is no such loss", "cross_entropy")),
        ("relu", ("there is no such loss", "mse_loss")),
        ("cli_broken:number", ("name a function of output and target",)),
        ("cli_broken:lost", ("has no 'lost'",)),
        ("cli_broken:two_numbers", ("one number",)),
        ("cli_broken:no_probe", ("the loss cli_broken:no_probe fails", "TypeError")),
    ],
)
def test_a_loss_that_is_none(cli, loss, phrases):
    words = ("score", "cli_models:make_model", "--data", "cli_models:probe", "--loss", loss)
    refused(cli(*words), *phrases)
