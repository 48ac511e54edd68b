"""The peers with automatic differentiation: PyTorch, torch.compile and JAX."""

from typing import Any

import numpy as np
from peer_work import Epochs, Work, timed

# ---- PyTorch --------------------------------------------------------------------------------


def torch_eager(work: Work) -> Epochs:
    """Train `nn.Sequential` with `optim.SGD`; losses are summed without leaving PyTorch."""
    import torch

    torch.set_num_threads(work.threads)
    x, y = torch.from_numpy(work.x), torch.from_numpy(work.data.y_train.astype(np.int64))
    model = torch.nn.Sequential()
    for w, b in work.parameters:
        linear = torch.nn.Linear(*w.shape)
        linear.weight.data = torch.from_numpy(w.T.copy())
        linear.bias.data = torch.from_numpy(b)
        model.extend([linear, torch.nn.ReLU()])
    del model[-1]
    optimizer = torch.optim.SGD(model.parameters(), lr=work.case.learning_rate)

    def run_epoch(order: torch.Tensor) -> float:
        total = torch.zeros((), dtype=torch.float64)
        for index in order.split(work.batch_rows):
            logits = model(x.index_select(0, index))  # 7 % less than x[index]
            loss = torch.nn.functional.cross_entropy(logits, y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        return float(total) / len(order)

    return timed(run_epoch, [torch.from_numpy(work.order(e)) for e in range(work.epochs)])


def torch_compiled(work: Work) -> Epochs:
    """Train with the whole step, gather to update, compiled as one graph.

    Compiling model and loss alone, with `backward` and `optim.SGD` as usual, took 1.5 times as
    long at batch 128.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear, relu

    torch.set_num_threads(work.threads)
    x, y = torch.from_numpy(work.x), torch.from_numpy(work.data.y_train.astype(np.int64))
    rate = work.case.learning_rate
    layers = [(torch.from_numpy(w.T.copy()), torch.from_numpy(b)) for w, b in work.parameters]

    def loss_of(layers: Any, a: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        for w, b in layers[:-1]:
            a = relu(linear(a, w, b))
        return cross_entropy(linear(a, *layers[-1]), labels)

    @torch.compile(dynamic=False, fullgraph=True)  # the last batch is a second shape
    def step(layers: Any, x: torch.Tensor, y: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        batch = x.index_select(0, index)
        gradients, loss = torch.func.grad_and_value(loss_of)(layers, batch, y[index])
        for (w, b), (dw, db) in zip(layers, gradients, strict=True):
            w.sub_(dw, alpha=rate)
            b.sub_(db, alpha=rate)
        return loss

    def run_epoch(order: torch.Tensor) -> float:
        total = torch.zeros((), dtype=torch.float64)
        for index in order.split(work.batch_rows):
            total += step(layers, x, y, index) * len(index)
        return float(total) / len(order)

    return timed(run_epoch, [torch.from_numpy(work.order(e)) for e in range(work.epochs)])


# ---- JAX ------------------------------------------------------------------------------------


def jax_scan(work: Work) -> Epochs:
    """Train with one compiled function per epoch: a scan over full batches, then the rest."""
    import jax
    import jax.numpy as jnp

    x, y = jnp.asarray(work.x), jnp.asarray(work.data.y_train)
    rate, whole = work.case.learning_rate, work.rows - work.rows % work.batch_rows

    def loss_of(parameters: Any, a: jax.Array, labels: jax.Array) -> jax.Array:
        for w, b in parameters[:-1]:
            a = jax.nn.relu(a @ w + b)
        w, b = parameters[-1]
        log_probs = jax.nn.log_softmax(a @ w + b)
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean()

    def epoch(parameters: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> Any:
        def step(parameters: Any, index: jax.Array) -> Any:
            # mode="clip" gathers faster than x[index]: a full-batch epoch took 7 % less.
            batch = (jnp.take(array, index, axis=0, mode="clip") for array in (x, y))
            loss, gradients = jax.value_and_grad(loss_of)(parameters, *batch)
            updated = jax.tree.map(lambda p, g: p - rate * g, parameters, gradients)
            return updated, loss * len(index)

        if work.batch_rows == work.rows:  # a scan over one batch cost 4 % more
            return step(parameters, order)
        batches = order[:whole].reshape(-1, work.batch_rows)
        parameters, losses = jax.lax.scan(step, parameters, batches)
        if whole == work.rows:
            return parameters, losses.sum()
        parameters, loss = step(parameters, order[whole:])
        return parameters, losses.sum() + loss

    compiled = jax.jit(epoch, donate_argnums=0)
    parameters = jax.tree.map(jnp.asarray, work.parameters)

    def run_epoch(order: jax.Array) -> float:
        nonlocal parameters
        parameters, total = jax.block_until_ready(compiled(parameters, x, y, order))
        return float(total) / work.rows

    orders = [jnp.asarray(work.order(e).astype(np.int32)) for e in range(work.epochs)]
    return timed(run_epoch, orders)
