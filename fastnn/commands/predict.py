"""The command ``python -m fastnn.predict``: predict the rows of a file with a saved model."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnn.commands import running, session
from fastnn.commands.options import Parser, UsageError, add_engine_options
from fastnn.errors import DataError
from fastnn.system.files import write_atomically
from fastnn.system.terminal import print_line, printable

if TYPE_CHECKING:
    import numpy as np

    from fastnn.network import Network

PROGRAM = "fastnn.predict"
EXAMPLES = """\
  python -m fastnn.predict mnist.safetensors digit.png
  python -m fastnn.predict mnist.safetensors t10k-images-idx3-ubyte.gz --output t10k.csv
  python -m fastnn.predict iris.safetensors flowers.csv --format jsonl
  grep -v '^#' flowers.csv | python -m fastnn.predict iris.safetensors -

INPUT is a file of features, one sample per row, in the units of the training data:
  CSV      with or without a header, plain or gzip; - is standard input
  .npy     (rows, columns) or images; may be larger than memory
  .npz     its array x or x_test, or its only array with 2 or more dimensions
  IDX      the format of MNIST, plain or gzip
or, for models of digits, an image of one digit:
  PNG      dark on light or light on dark; cropped, scaled and centred like
           MNIST's digits, or reduced to 8x8 pixels like scikit-learn's"""

Rows = list[tuple[int, Any, list[float]]]  # row number, prediction, probabilities


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code of the process."""
    return running.run(PROGRAM, lambda: predict(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, or raise a UsageError."""
    purpose = "Predict the rows of a file with a saved model."
    parser = Parser(PROGRAM, purpose, EXAMPLES, "MODEL INPUT [options]")
    model = "a file written by fastnn.train --save or by the save method of a model"
    parser.add_argument("model", metavar="MODEL", type=Path, help=model)
    parser.add_argument("input", metavar="INPUT", help="a file of features, see below")
    output = "write to this file, completely or not at all (default: standard output)"
    parser.add_argument("--output", metavar="FILE", type=Path, help=output)
    form = "csv, or jsonl for one JSON object per line (default: csv)"
    parser.add_argument("--format", choices=FORMATS, default="csv", help=form)
    add_engine_options(parser)
    return parser.parse_args(argv)


def predict(options: argparse.Namespace) -> None:
    """Predict the rows of the input and write the predictions."""
    if options.output is not None:
        session.check_replaceable(options.output)
    elif sys.stdout is None:
        raise UsageError("standard output is closed: use --output FILE")
    session.import_early(PROGRAM, "fastnn.loading", "fastnn.data.files.detection")
    from fastnn.data.files.detection import read_rows
    from fastnn.loading import load

    model: Any = load(options.model)
    network: Network = getattr(model, "_network", model)  # of an estimator, or the model itself
    session.use_engine(PROGRAM, network, options.engine, options.threads, say)
    if model is not network:  # an estimator predicts with the engine of its parameters
        model.set_params(engine=options.engine, n_threads=options.threads)
    feature_names = vars(model).pop("feature_names_in_", None)  # it would warn of plain arrays
    blocks = read_rows(
        options.input,
        network.layers[0].inputs,
        input_scale=network.input_scale,
        names=None if feature_names is None else list(feature_names),
        say=say,
    )
    classes = classes_of(model, network)
    if not options.input.lower().endswith(".png"):
        blocks = warn_of_scaled(blocks, network.input_scale)
    pieces = FORMATS[options.format](predictions(model, classes, blocks), classes)
    if options.output is not None:
        write_atomically(options.output, pieces)
        return
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def say(line: str) -> None:
    """Print a message on standard error."""
    print_line(f"{PROGRAM}: {line}", error=True)


def warn_of_scaled(blocks: "Iterator[np.ndarray]", input_scale: float) -> "Iterator[np.ndarray]":
    """Yield the blocks; warn if the features seem to be scaled already, as the model does it."""
    for number, block in enumerate(blocks):
        if number == 0 and input_scale < 1 and block.dtype.kind == "f":
            if 0 <= block.min() and block.max() <= 1:
                session.warn(
                    PROGRAM,
                    "all features are between 0 and 1, but the model expects values up to "
                    f"{1 / input_scale:g} and scales them itself",
                )
        yield block


def classes_of(model: Any, network: "Network") -> list[str]:
    """Return the class of each column of `predict_proba`; none for a regression."""
    if network.loss.score != "accuracy":
        return []
    if model is not network:
        return [str(name) for name in model.classes_]
    outputs = network.layers[-1].outputs
    if outputs == 1 and not network.loss.takes_labels:
        return ["1"]
    return [str(number) for number in range(outputs)]


def predictions(model: Any, classes: list[str], blocks: "Iterator[np.ndarray]") -> Iterator[Rows]:
    """Yield the predictions for the rows of each block.

    Raises
    ------
    DataError
        If they are not finite, for example because the features have the wrong scale.
    """
    first = 0
    for block in blocks:
        rows = range(first, first + len(block))
        if classes:
            predicted = model.predict(block).tolist()
            probabilities = rounded(model.predict_proba(block), first)
        else:
            predicted = rounded(model.predict(block), first)
            probabilities = [[]] * len(rows)
        yield list(zip(rows, predicted, probabilities, strict=True))
        first += len(rows)


def rounded(values: "np.ndarray", first: int) -> list[Any]:
    """Return floats that print with the fewest digits that identify the float32 values."""
    import numpy as np

    values = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if bad.size:
        raise DataError(
            f"row {first + bad[0]}: the model's outputs are not finite; check the scale of the "
            "features"
        )
    # astype(str) would lose a KeyboardInterrupt and take a third longer.
    return np.reshape([float(str(value)) for value in values.ravel()], values.shape).tolist()


def as_csv(answers: Iterator[Rows], classes: list[str]) -> Iterator[bytes]:
    """Yield a table with a header as in RFC 4180, but with the line ends of Unix."""
    word = "label" if classes else "value"
    has_header = False
    for rows in answers:
        lines: list[list[Any]] = []
        if not has_header:
            first = rows[0][1]
            is_list = isinstance(first, list)
            words = [f"{word}_{i}" for i in range(len(first))] if is_list else [word]
            lines.append(["row", *words, *(f"p_{name}" for name in classes)])
            has_header = True
        for number, predicted, probabilities in rows:
            several = predicted if isinstance(predicted, list) else [predicted]
            lines.append([number, *several, *probabilities])
        yield "".join(",".join(map(csv_field, line)) + "\n" for line in lines).encode()


def csv_field(value: Any) -> str:
    """Return a value as a field of a CSV file that is safe in terminals and spreadsheets.

    Control characters are escaped. Text that a spreadsheet would run as a formula gets a leading
    single quote, as OWASP's page *CSV Injection* recommends; numbers are not changed.
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
    """Return whether a spreadsheet, too, reads the text as a number."""
    try:
        return math.isfinite(float(text)) and text.isascii() and "_" not in text
    except ValueError:
        return False


def as_json_lines(answers: Iterator[Rows], classes: list[str]) -> Iterator[bytes]:
    """Yield one JSON object per row and line."""
    for rows in answers:
        lines = []
        for number, predicted, probabilities in rows:
            fields = {"row": number, "label" if classes else "value": predicted}
            if classes:
                fields["probabilities"] = dict(zip(classes, probabilities, strict=True))
            lines.append(json.dumps(fields) + "\n")
        yield "".join(lines).encode()


FORMATS = {"csv": as_csv, "jsonl": as_json_lines}
