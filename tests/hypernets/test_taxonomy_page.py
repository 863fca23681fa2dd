"""The code of docs/taxonomy.md, and what the page says that it prints."""

import contextlib
import io
import re
from pathlib import Path

import torch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "taxonomy.md").read_text()


def test_the_code_of_the_page():
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S))
    printed = io.StringIO()
    torch.manual_seed(0)
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    expected = re.findall(r"print\(.*\)  # (.*)$", PAGE, re.M) + re.findall(
        r"^    (\S.*)$", PAGE.split("```")[-1], re.M
    )
    assert printed.getvalue().splitlines() == expected
