"""How far float32 results may lie from exact ones, each bound with its reason."""

import numpy as np

U = np.float64(2.0**-24)  # unit roundoff: a float32 operation is exact up to a factor 1 ± U

# A sum of K products, added in any order and fused or not, differs from the exact one by at most
# γ_K Σ|x||w| with γ_K = K·U / (1 - K·U) (Higham, Accuracy and Stability, section 3.1). The
# bias is one more product. For K below 10⁵, γ_K < 1.01 · K · U.
PRODUCT_BOUND = 1.01

# The root mean square of such an error, for random terms, grows with √K, and is far smaller.
# Recorded: 0.2 · √K · U of the root mean square of Σ|x||w| at K = 64 … 785; doubled for luck.
PRODUCT_RMS = 0.4

# The steepest slope of an activation, where it is not 1. GELU is z / 2 · (1 + tanh u), and its
# slope was found by its derivative; the other is at 0.
SLOPES = {"logistic": 0.25, "gelu": 1.13}

# An activation or a link, in units of U of the larger of 1 and its argument: tanh and the logistic
# function are rational approximations, and GELU is up to nine operations. Measured
# with ONNX Runtime, NumPy and the kernels: 3.3 at most; doubled for luck.
FUNCTION_ERROR = 6.6

# Whole runs. Rounding errors of two engines differ and grow by training: measured 2e-8, 4e-5,
# 9e-5 relative in the mean loss of epochs 1 to 3; in 20 epochs of batch gradient descent 2e-8 to
# 1.4e-5, by eight sets of initial weights.
FIRST_STEPS = FIRST_EPOCH = 1e-5
THREE_EPOCHS = 1e-3
BATCH_GD_20_EPOCHS = 1e-4


def assert_product(got: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Check float32 `got` against the exact ``left @ right``, each element and on the whole."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    terms = left.shape[1]
    error = np.abs(got - left @ right)
    size = np.abs(left) @ np.abs(right)
    worst = np.max(error - PRODUCT_BOUND * terms * U * size)
    assert worst <= 0, f"off by {worst:.3g} beyond the bound"
    if got.size >= 100:  # enough for a mean to mean something
        rms = np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(size**2))
        assert rms <= PRODUCT_RMS * np.sqrt(terms) * U, f"rms {rms:.3g}"
