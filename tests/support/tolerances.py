"""Bounds on the errors of float32 results, each with its reason."""

import numpy as np

U = np.float64(2.0**-24)  # unit roundoff: the relative error of a float32 operation

# A sum of K products, in any order and fused or not, differs from the exact one by at most
# γ_K Σ|x||w| with γ_K = K·U / (1 - K·U) (Higham, Accuracy and Stability, section 3.1). The
# bias is one more product. For K below 10⁵, γ_K < 1.01 · K · U.
PRODUCT_BOUND = 1.01

# For random terms, the root mean square of the error grows with √K. Measured: 0.2 · √K · U times
# the root mean square of Σ|x||w| for K = 64 … 785. The bound is twice that.
PRODUCT_RMS = 0.4

# The largest derivatives of activations, if not 1: that of the logistic function is at 0, and that
# of GELU was computed numerically.
SLOPES = {"logistic": 0.25, "gelu": 1.13}

# The error of an activation or a link, in units of U · max(1, |z|). Measured with ONNX Runtime,
# NumPy and the kernels: at most 3.3. The bound is twice that.
FUNCTION_ERROR = 6.6

# Relative differences of the mean loss between the engines, whose rounding errors grow in training.
# Measured: 2e-8, 4e-5 and 9e-5 in epochs 1 to 3 with batches of 128 rows. In 20 epochs of batch
# gradient descent: 2e-8 to 1.4e-5, for eight sets of initial weights.
FIRST_STEPS = FIRST_EPOCH = 1e-5
THREE_EPOCHS = 1e-3
BATCH_GD_20_EPOCHS = 1e-4


def assert_product(got: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Compare float32 `got` with the exact ``left @ right``, by element and by root mean square."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    terms = left.shape[1]
    error = np.abs(got - left @ right)
    size = np.abs(left) @ np.abs(right)
    excess = np.max(error - PRODUCT_BOUND * terms * U * size)
    assert excess <= 0, f"the error exceeds its bound by {excess:.3g}"
    if got.size >= 100:
        rms = np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(size**2))
        assert rms <= PRODUCT_RMS * np.sqrt(terms) * U, f"rms {rms:.3g}"
