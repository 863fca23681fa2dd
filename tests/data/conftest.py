"""What the tests of data sets share: the check of a refusal, and where the real sets are."""

import os
from pathlib import Path

import pytest

import data
from hypernets.errors import UserError


@pytest.fixture
def refusal():
    """Calls a function that must refuse, and returns the message, which is one line that ends like a sentence."""

    def check(function, *arguments, **settings):
        with pytest.raises(UserError) as caught:
            function(*arguments, **settings)
        message = str(caught.value)
        assert "\n" not in message and message.endswith("."), message
        return message

    return check


@pytest.fixture
def real():
    """Returns the folder of the real data sets; skips the test if it does not have the given one."""

    def check(name):
        root = Path(os.environ.get("HYPERNETS_DATA") or Path(data.__file__).parent / "cache")
        if not (root / name).exists():
            pytest.skip(f"{name} is not in HYPERNETS_DATA")
        return root

    return check
