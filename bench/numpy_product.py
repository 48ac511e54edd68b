"""Multiply two matrices by NumPy as often as asked: ``python numpy_product.py a.npy b.npy c.npy``.

A separate process, so that the environment can set BLAS's kernels and threads, and its idle threads
do not slow down other measurements. It saves the product and prints an empty line. Then it reads
numbers of products from standard input, computes them, and prints an empty line for each.
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
