"""Numbers as text."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "epoch"), counted(60_000, "row")
    ('1 epoch', '60,000 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def loss_text(loss: float) -> str:
    """Return a loss in at most eight characters, with an exponent if it is small or large.

    Examples
    --------
    >>> loss_text(0.07712), loss_text(3.2e-7)
    ('0.0771', '3.20e-07')
    """
    return f"{loss:.4f}" if loss == 0 or 1e-3 <= abs(loss) < 1e3 else f"{loss:.2e}"


def number_text(number: float) -> str:
    """Return a number with three significant digits.

    Examples
    --------
    >>> number_text(0.09412), number_text(1234.5)
    ('0.0941', '1,234')
    """
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"
