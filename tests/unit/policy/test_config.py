"""The configuration file: what it says of the kernel's module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dprobed.policy import config
from dprobed.policy.errors import PolicyError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", False), ("load_kernel_module = false\n", False), ("load_kernel_module = true\n", True)],
)
def test_whether_the_kernels_module_is_loaded(tmp_path: Path, text: str, wanted: bool) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text(text)
    assert config.load(file, os.geteuid()).load_kernel_module is wanted


@pytest.mark.parametrize("value", ['"yes"', "1", "[]"])
def test_that_is_true_or_false(tmp_path: Path, value: str) -> None:
    file = tmp_path / "dprobed.toml"
    file.write_text(f"load_kernel_module = {value}\n")
    with pytest.raises(PolicyError, match="`load_kernel_module` is"):
        config.load(file, os.geteuid())
