"""A network, told in a few lines of text."""

from fastnn.network import Network


def summary_of(network: Network) -> str:
    """Return a table of a network's layers, with its number of parameters below.

    Examples
    --------
    >>> print(summary_of(Network([784, 128, 10], dropout=0.2)))
    layer  inputs  outputs  activation  dropout  parameters
        1     784      128  relu                    100,480
        2     128       10  softmax         0.2       1,290
    101,770 parameters, 397.5 KiB in float32
    """
    rows = [("layer", "inputs", "outputs", "activation", "dropout", "parameters")]
    for number, layer in enumerate(network.layers, start=1):
        is_last = number == len(network.layers)
        rows.append(
            (
                str(number),
                f"{layer.inputs:,}",
                f"{layer.outputs:,}",
                network.loss.link if is_last else layer.activation,
                f"{layer.dropout:g}" if layer.dropout else "",
                f"{layer.parameters:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[3] = row[3].ljust(widths[3])
        lines.append("  ".join(cells))
    kib = 4 * network.n_parameters / 1024
    lines.append(f"{network.n_parameters:,} parameters, {kib:,.1f} KiB in float32")
    return "\n".join(lines)
