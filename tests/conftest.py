"""What every test needs: one thread per worker, so that two workers do not fight for two cores."""

from __future__ import annotations

import torch as th

th.set_num_threads(1)
