"""A table of a network's layers."""

from fastnn.network import Network


def summary_of(network: Network) -> str:
    """Return a table of a network's layers, followed by the number of its parameters.

    Examples
    --------
    >>> print(summary_of(Network([784, 128, 10], dropout=0.2)))
    layer  inputs  outputs  activation  input dropout  parameters
        1     784      128  relu                          100,480
        2     128       10  softmax               0.2       1,290
    101,770 parameters, 397.5 KiB in float32
    """
    rows = [("layer", "inputs", "outputs", "activation", "input dropout", "parameters")]
    activations = [layer.activation for layer in network.layers[:-1]] + [network.loss.link]
    for number, (layer, activation) in enumerate(zip(network.layers, activations, strict=True), 1):
        dropout = f"{layer.dropout:g}" if layer.dropout else ""
        sizes = f"{layer.inputs:,}", f"{layer.outputs:,}"
        rows.append((str(number), *sizes, activation, dropout, f"{layer.parameters:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Activations are aligned to the left, numbers to the right.
    cells = [f"{{:{side}{width}}}" for side, width in zip(">>><>>", widths, strict=True)]
    lines = ["  ".join(cells).format(*row) for row in rows]
    kib = 4 * network.n_parameters / 1024
    lines.append(f"{network.n_parameters:,} parameters, {kib:,.1f} KiB in float32")
    return "\n".join(lines)
