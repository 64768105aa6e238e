"""What every test needs: one thread per worker, so that two workers do not fight for two cores."""

from __future__ import annotations

import pytest
import torch as th

th.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Markers and warnings of this suite."""
    config.addinivalue_line("markers", "cuda: needs a GPU; skipped without one")
    # Tests fit for seconds and to few episodes. What is said of terminations then is tested in test_report.py.
    config.addinivalue_line("filterwarnings", "ignore:The learned termination:UserWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not th.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))
