"""Multiply two matrices by NumPy as often as asked: ``python numpy_product.py a.npy b.npy c.npy``.

A process of its own, so that BLAS's choice of kernels and number of threads can be set, and its
idle threads stay away from what else is timed. It saves the product, says so by an empty line, and
then answers each line of input, a number of products to compute, by an empty line.
"""

import sys

import numpy as np


def main() -> None:
    """Compute products until the input ends."""
    a, b = np.load(sys.argv[1]), np.load(sys.argv[2])
    c = np.matmul(a, b)
    np.save(sys.argv[3], c)
    print(flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            np.matmul(a, b, out=c)
        print(flush=True)


if __name__ == "__main__":
    main()
