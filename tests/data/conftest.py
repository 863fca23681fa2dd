"""What the tests of data sets share: the check of a refusal."""

import pytest

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
