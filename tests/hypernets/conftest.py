"""Fixtures of the library's tests."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Threads that wait for each other at every tiny operation make a recurrent layer ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
