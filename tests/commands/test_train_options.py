"""`fastnn.commands.train_options`: values, defaults, and options that exclude each other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import arguments, assert_one_line

import fastnn
from fastnn import EarlyStopping, engine
from fastnn.commands import options as cli
from fastnn.commands import train
from fastnn.commands.train_options import parse
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.model.randomness import SEED_LIMIT


@pytest.mark.parametrize(
    ("option", "code", "answer"),
    [
        ("--help", 0, "usage: python -m fastnn.train [options]"),
        ("--version", 0, f"fastnn {fastnn.__version__}"),
        ("--hlep", 2, "fastnn.train: error: unrecognized arguments: --hlep"),
    ],
)
@pytest.mark.process
def test_help_and_usage_errors_do_not_import_numpy(
    option: str, code: int, answer: str, folder: Path
) -> None:
    program = "import sys; from fastnn.train import main; code = main(sys.argv[1:]); "
    program += "assert not {'numpy', 'rich', 'matplotlib'} & set(sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", program, option], capture_output=True, text=True)
    assert done.returncode == code
    assert answer in (done.stderr if code else done.stdout)


def help_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    assert train.main(["--help"]) == 0
    return capsys.readouterr().out


def test_help_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert max(map(len, help_text(monkeypatch, capsys).splitlines())) <= 80


def test_help_names_the_default_of_every_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(help_text(monkeypatch, capsys).split())
    for option, default in (
        ("--hidden", "128,64"),
        ("--activation", "relu"),
        ("--dropout", "0"),
        ("--epochs", "20"),
        ("--batch-size", "128; lbfgs full"),
        ("--optimizer", "sgd"),
        ("--learning-rate", "sgd 0.1, momentum 0.01, nesterov 0.01, adam 0.001, adamw 0.001"),
        ("--momentum", "0.9"),
        ("--weight-decay", "adamw 0.01, others 0"),
        ("--l2", "0"),
        ("--clip-norm", "0"),
        ("--schedule", "constant"),
        ("--warmup-epochs", "0"),
        ("--class-weight", "none"),
        ("--validation-fraction", "none; with early stopping 0.1"),
        ("--monitor", "val_loss"),
        ("--patience", "10"),
        ("--min-delta", "0.0001"),
    ):
        assert re.search(rf" {option} (?:(?! --).)*\(default: {re.escape(default)}[;)]", text), (
            option
        )


def test_help_describes_the_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(help_text(monkeypatch, capsys).split())
    assert " --save FILE write the trained network to this file, which fastnn.load" in text
    assert " --log-json FILE " in text
    assert " --plots DIR write plots to this directory as PNG files: " in text


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_depend_on_the_optimizer(name: str) -> None:
    options, chosen = parse(["--optimizer", name]), OPTIMIZERS[name]
    searches = name == "lbfgs"
    assert options.batch_size == ("full" if searches else 128)
    assert options.learning_rate == (None if searches else chosen.learning_rate)
    assert options.momentum == (0.9 if name in ("momentum", "nesterov") else None)
    assert options.weight_decay == (None if searches else chosen.weight_decay)
    assert (options.schedule, options.warmup_epochs, options.clip_norm) == ("constant", 0, 0)
    assert (options.activation, options.dropout, options.class_weight) == ("relu", 0, None)
    assert options.validation_fraction is None and not options.early_stopping


def test_early_stopping_has_defaults() -> None:
    options = parse(["--early-stopping"])
    assert options.validation_fraction == 0.1
    rule = EarlyStopping(options.monitor, options.patience, options.min_delta)
    assert rule == EarlyStopping()
    options = parse(["--early-stopping", "--patience", "0", "--validation-fraction", "0.3"])
    assert (options.patience, options.validation_fraction) == (0, 0.3)


def test_activation_and_dropout_are_one_value_or_one_per_layer() -> None:
    options = parse(["--activation", "tanh", "--dropout", "0.5"])
    assert (options.activation, options.dropout) == ("tanh", 0.5)
    options = parse(["--activation", "tanh,gelu", "--dropout", "0.1,0,0.5"])
    assert (options.activation, options.dropout) == (("tanh", "gelu"), (0.1, 0.0, 0.5))


def test_lbfgs_accepts_options_that_it_has() -> None:
    options = ["--batch-size", "full", "--l2", "0.1", "--early-stopping", "--activation", "tanh"]
    assert parse(["--optimizer", "lbfgs", *options]).batch_size == "full"


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["--optimizer", "lbfgs"], ["--dropout", "0"]),
        (["--optimizer", "lbfgs"], ["--dropout", "0,0,0"]),
        (["--optimizer", "lbfgs"], ["--schedule", "constant", "--warmup-epochs", "0"]),
        (["--optimizer", "lbfgs"], ["--weight-decay", "0", "--clip-norm", "0"]),
        (["--optimizer", "adam"], ["--momentum", "0"]),
        (["--hidden", ""], ["--dropout", "0"]),
    ],
)
def test_values_without_effect_are_accepted(
    argv: list[str], options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for given in (argv, [*argv, *options]):
        assert train.main(arguments("--quiet", *given)) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_checkpoint_options() -> None:
    assert parse(["--checkpoint", "a"]).checkpoint_every == 1
    options = parse(["--resume", "a", "--checkpoint-every", "5"])
    assert (options.resume, options.checkpoint, options.checkpoint_every) == (Path("a"), None, 5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--checkpoint a --resume b", "argument --resume: not allowed with argument --checkpoint"),
        (
            "--checkpoint-every 2",
            "argument --checkpoint-every: cannot be used without --checkpoint or --resume",
        ),
        ("--checkpoint a --checkpoint-every 0", "argument --checkpoint-every: must be a whole num"),
        ("--optimizer lbfgs --checkpoint a", "argument --checkpoint: cannot be used with --op"),
        ("--optimizer lbfgs --resume a", "argument --resume: cannot be used with --optimizer lb"),
    ],
)
def test_rejects_invalid_checkpoint_options(argv: str, message: str) -> None:
    with pytest.raises(cli.UsageError) as raised:
        parse(argv.split())
    assert str(raised.value).startswith(message)


def test_zero_replaces_a_default() -> None:
    assert parse(["--optimizer", "adamw", "--weight-decay", "0"]).weight_decay == 0
    assert parse(["--optimizer", "nesterov", "--momentum", "0"]).momentum == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--fast"], "unrecognized arguments: --fast"),
        (["extra"], "unrecognized arguments: extra"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--engine", "gpu"], "argument --engine: invalid choice: 'gpu'"),
        (["--dataset", "mnits"], "argument --dataset: must be auto, mnist"),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--hidden", "0"], "argument --hidden: must be a whole number from 1 to 1000000, got '0'"),
        (["--hidden", "a,b"], "argument --hidden: must be a whole number"),
        (["--hidden", "128,,64"], "argument --hidden: must be a whole number"),
        (["--hidden", "99999999999"], "argument --hidden: must be a whole"),
        (["--learning-rate", "nan"], "argument --learning-rate: must be a positive number"),
        (["--learning-rate", "inf"], "argument --learning-rate: must be "),
        (["--optimizer", "sgdm"], "argument --optimizer: invalid choice: 'sgdm'"),
        (
            ["--momentum", "1"],
            "argument --momentum: must be a number of at least 0 and less than 1",
        ),
        (
            ["--save", "a/../b", "--log-json", "b"],
            "argument --save: names the same file as --log-json",
        ),
        (
            ["--plots", "p", "--log-json", "./p"],
            "argument --log-json: names the same file as --plots",
        ),
        (
            ["--save", "c", "--checkpoint", "c"],
            "argument --save: names the same file as --checkpoint",
        ),
        (["--momentum", "0.5"], "argument --momentum: cannot be used with --optimizer sgd"),
        (["--weight-decay", "-1"], "argument --weight-decay: must be a number of at least 0"),
        (["--l2", "nan"], "argument --l2: must be a number"),
        (
            ["--activation", "relu,swish"],
            "argument --activation: must be one of identity, logistic",
        ),
        (["--activation", "relu,relu,relu"], "argument --activation: must be one value, or 2 "),
        (
            ["--activation", "relu,relu", "--hidden", "8"],
            "argument --activation: must be one value, or",
        ),
        (["--activation", "relu", "--hidden", ""], "argument --activation: cannot be used without"),
        (["--dropout", "1"], "argument --dropout: must be at least 0 and less than 1"),
        (["--dropout", "0.1,,0.2"], "argument --dropout: invalid dropout value: '0.1,,0.2'"),
        (["--dropout", "nan"], "argument --dropout: must be at least 0 and less than 1"),
        (["--dropout", "0.1,0.2"], "argument --dropout: must be one value, or 3 "),
        (["--dropout", "0,0.5,0", "--optimizer", "lbfgs"], "argument --dropout: cannot be used w"),
        (["--dropout", "0.1", "--hidden", ""], "argument --dropout: cannot be used without hidden"),
        (["--schedule", "linear"], "argument --schedule: invalid choice: 'linear'"),
        (["--warmup-epochs", "-1"], "argument --warmup-epochs: must be a number"),
        (["--clip-norm", "inf"], "argument --clip-norm: must be a number"),
        (["--class-weight", "even"], "argument --class-weight: invalid choice: 'even'"),
        (["--validation-fraction", "0"], "argument --validation-fraction: must be a number betw"),
        (["--validation-fraction", "1"], "argument --validation-fraction: must be "),
        (["--patience", "3"], "argument --patience: cannot be used without --early-stopping"),
        (["--min-delta", "0.1"], "argument --min-delta: cannot be used without"),
        (["--monitor", "val_loss"], "argument --monitor: cannot be used without --early-stopping"),
        (["--early-stopping", "--monitor", "loss"], "argument --monitor: invalid choice: 'loss'"),
        (["--early-stopping", "--patience", "-1"], "argument --patience: must be a whole number"),
        *(
            (["--optimizer", "lbfgs", option, value], f"argument {option}: cannot be used with")
            for option, value in (
                ("--batch-size", "128"),
                ("--learning-rate", "1"),
                ("--momentum", "0.5"),
                ("--weight-decay", "0.1"),
                ("--clip-norm", "1"),
                ("--schedule", "cosine"),
                ("--warmup-epochs", "1"),
                ("--dropout", "0.5"),
            )
        ),
        (["--seed", "-1"], "argument --seed: must be a whole number from 0"),
        (["--seed", str(2**64)], "argument --seed: must be a "),
        (["--seed", "1.5"], "argument --seed: must be a "),
        (["--epochs", str(2**31)], "argument --epochs: must be a whole"),
        *(
            ([f"--{option}", value], f"argument --{option}: must be ")
            for option in ("batch-size", "epochs", "learning-rate", "threads")
            for value in ("0", "-1", "many", "")
        ),
    ],
)
def test_rejects_invalid_usage_without_writing(
    argv: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--log-json", "log", "--plots", "plots", "--save", "net")
    assert train.main(arguments(*files, *argv)) == 2
    captured = capsys.readouterr()
    assert_one_line(captured.err)
    assert captured.err.startswith(f"fastnn.train: error: {message}")
    assert captured.out == "" and os.listdir(folder) == []


# Copies of constants from modules that import NumPy


def test_copied_constants_are_equal() -> None:
    assert cli.ENGINES == engine.ENGINES
    assert cli.SEED_LIMIT == SEED_LIMIT
