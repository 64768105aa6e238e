"""Thread limits, which must be set before the numeric libraries are imported."""

from __future__ import annotations

import os

_XLA_SINGLE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def limit_threads(num_threads: int) -> None:
    """Limit OpenMP, BLAS, torch and (for one thread) XLA to ``num_threads`` per process.

    Call it before the first import of numpy, torch or jax: OpenMP and XLA read the environment once.

    Args:
        num_threads: threads per process; 0 leaves everything as it is.

    Raises:
        ValueError: if ``num_threads`` is negative.
    """
    if num_threads < 0:
        raise ValueError(f"--num-threads must be 0 (no limit) or more, got {num_threads}.")
    if num_threads == 0:
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    os.environ["PJRT_NPROC"] = str(num_threads)  # the size of XLA's thread pool, which XLA_FLAGS does not reach
    if num_threads == 1 and _XLA_SINGLE_THREAD not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_SINGLE_THREAD}".strip()

    import torch  # after the environment is set

    torch.set_num_threads(num_threads)
