"""Every registered mechanism through the whole battery of ``kit.py``: a new one gets it by being registered."""

from __future__ import annotations

import pytest

from harken.attention import attention_class, list_attention
from tests.attention.kit import Check, Subject, battery


@pytest.mark.parametrize(
    ("check", "subject"), [parameter for name in list_attention() for parameter in battery(attention_class(name))]
)
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
