"""The command line ``python -m fastnn.predict``: what a saved model says of the rows of a file."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnn.commands import running, session
from fastnn.errors import DataError
from fastnn.system.files import writable_target, write_atomically
from fastnn.system.terminal import print_line, printable

if TYPE_CHECKING:
    import numpy as np

    from fastnn.network import Network

PROGRAM = "fastnn.predict"
EXAMPLES = """\
  python -m fastnn.predict digits.safetensors digit.png
  python -m fastnn.predict digits.safetensors t10k-images-idx3-ubyte.gz --output t10k.csv
  python -m fastnn.predict iris.safetensors flowers.csv --format jsonl
  grep -v '^#' flowers.csv | python -m fastnn.predict iris.safetensors -

INPUT is a file of numbers, a row a sample, as the model was trained on:
  CSV              with a header or without, raw or in gzip; - for standard input
  .npy             (rows, columns) or images; may be larger than the memory
  .npz             the array x or x_test in it, or the only one of rank 2 or more
  IDX              the format of MNIST, raw or in gzip
or one picture, for models of digits:
  PNG              dark on bright or bright on dark; cut out, scaled and centred
                   as MNIST's digits are, or in 8x8 pixels as scikit-learn's"""

Rows = list[tuple[int, Any, list[float]]]  # number, what the model says, the probabilities


def main(argv: Sequence[str] | None = None) -> int:
    """Predict as the arguments say; return the exit code of the process."""
    return running.run(PROGRAM, lambda: predict(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises
    ------
    UsageError
        If it asks for what cannot be.
    """
    parser = running.Parser(PROGRAM, "Ask a saved model about the rows of a file.", EXAMPLES)
    parser.usage = f"python -m {PROGRAM} MODEL INPUT [options]"
    parser.add_argument("model", metavar="MODEL", type=Path, help="a file that was saved")
    parser.add_argument("input", metavar="INPUT", help="a file of features, see below")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write here, all or nothing (standard output)"
    )
    form = "a table, or a JSON object a line (csv)"
    parser.add_argument("--format", choices=FORMATS, default="csv", help=form)
    running.add_engine_options(parser)
    return parser.parse_args(argv)


def predict(options: argparse.Namespace) -> None:
    """Do what a command line asks for; `running.run` turns errors into exit codes."""
    if options.output is not None:
        running.check_directory(Path(writable_target(options.output)[0]).parent)
    elif sys.stdout is None:
        raise running.UsageError("standard output is closed: name a file with --output")
    session.import_ahead(PROGRAM, "fastnn.loading", "fastnn.data.files.detection")
    from fastnn.data.files.detection import read_rows
    from fastnn.loading import load

    model: Any = load(options.model)
    network: Network = getattr(model, "_network", model)  # that an estimator has, or a network is
    session.use_engine(PROGRAM, network, options.engine, options.threads, say)
    if model is not network:  # an estimator moves its network to the engine of its parameters
        model.set_params(engine=options.engine, n_threads=options.threads)
    feature_names = vars(model).pop("feature_names_in_", None)  # or it would warn of plain arrays
    blocks = read_rows(
        options.input,
        network.layers[0].inputs,
        input_scale=network.input_scale,
        names=None if feature_names is None else list(feature_names),
        say=say,
    )
    classes = classes_of(model, network)
    if not options.input.lower().endswith(".png"):
        blocks = watched(blocks, network.input_scale)
    pieces = FORMATS[options.format](answered(model, classes, blocks), classes)
    if options.output is not None:
        write_atomically(options.output, pieces)
        return
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def say(line: str) -> None:
    """Print a line that is no prediction."""
    print_line(f"{PROGRAM}: {line}", error=True)


def watched(blocks: "Iterator[np.ndarray]", input_scale: float) -> "Iterator[np.ndarray]":
    """Say so where features look as if they had been scaled, and the model scales them again."""
    for number, block in enumerate(blocks):
        if number == 0 and input_scale < 1 and block.dtype.kind == "f":
            if 0 <= block.min() and block.max() <= 1:
                session.warn(
                    PROGRAM,
                    "these features are from 0 to 1, and the model takes ones up to "
                    f"{1 / input_scale:g}, which it scales itself",
                )
        yield block


def classes_of(model: Any, network: "Network") -> list[str]:
    """Return what each column of `predict_proba` is the probability of; none for a regression."""
    if network.loss.score != "accuracy":
        return []
    if model is not network:
        return [str(name) for name in model.classes_]
    outputs = network.layers[-1].outputs
    if outputs == 1 and not network.loss.takes_labels:
        return ["1"]
    return [str(number) for number in range(outputs)]


def answered(model: Any, classes: list[str], blocks: "Iterator[np.ndarray]") -> Iterator[Rows]:
    """Yield what a model says of each block's rows.

    Raises
    ------
    DataError
        If it is not finite: features of another scale can do that.
    """
    first = 0
    for block in blocks:
        rows = range(first, first + len(block))
        if classes:
            said = model.predict(block).tolist()
            probabilities = rounded(model.predict_proba(block), first)
        else:
            said = rounded(model.predict(block), first)
            probabilities = [[]] * len(rows)
        yield list(zip(rows, said, probabilities, strict=True))
        first += len(rows)


def rounded(values: "np.ndarray", first: int) -> list[Any]:
    """Return numbers that print as float32 does, with no more digits than tell it from others."""
    import numpy as np

    values = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if bad.size:
        raise DataError(
            f"row {first + bad[0]}: the model's outputs are not finite; check the scale of the "
            "features"
        )
    # Not astype(str), which swallows a KeyboardInterrupt and takes a third longer.
    return np.reshape([float(str(value)) for value in values.ravel()], values.shape).tolist()


def as_csv(answers: Iterator[Rows], classes: list[str]) -> Iterator[bytes]:
    """Yield a table as RFC 4180 has it, but for its line ends, with a header."""
    word = "label" if classes else "value"
    has_header = False
    for rows in answers:
        lines: list[list[Any]] = []
        if not has_header:
            said = rows[0][1]
            words = [f"{word}_{i}" for i in range(len(said))] if isinstance(said, list) else [word]
            lines.append(["row", *words, *(f"p_{name}" for name in classes)])
            has_header = True
        for number, said, probabilities in rows:
            several = said if isinstance(said, list) else [said]
            lines.append([number, *several, *probabilities])
        yield "".join(",".join(map(csv_field, line)) + "\n" for line in lines).encode()


def csv_field(value: Any) -> str:
    """Return a value as a field of a table that a terminal shows or a spreadsheet opens.

    Control characters are escaped. A text that a spreadsheet would take for a formula gets a
    single quote in front, as OWASP's page *CSV Injection* recommends; numbers stay as they are.
    """
    if not isinstance(value, str):
        return str(value)
    text = printable(value)
    if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not is_number(value):
        text = f"'{text}"
    elif not any(character in text for character in ',"'):
        return text
    return '"' + text.replace('"', '""') + '"'


def is_number(text: str) -> bool:
    """Return whether a text is a number for a spreadsheet, too."""
    try:
        return math.isfinite(float(text)) and text.isascii() and "_" not in text
    except ValueError:
        return False


def as_json_lines(answers: Iterator[Rows], classes: list[str]) -> Iterator[bytes]:
    """Yield a JSON object a line and row."""
    for rows in answers:
        lines = []
        for number, said, probabilities in rows:
            fields = {"row": number, "label" if classes else "value": said}
            if classes:
                fields["probabilities"] = dict(zip(classes, probabilities, strict=True))
            lines.append(json.dumps(fields) + "\n")
        yield "".join(lines).encode()


FORMATS = {"csv": as_csv, "jsonl": as_json_lines}
