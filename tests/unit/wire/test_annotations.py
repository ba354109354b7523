"""Decoders are made at the start of each process: the types of fields are no text to compile."""

from __future__ import annotations

from types import ModuleType

import msgspec
import pytest

from dprobed.wire import protocol, resolver
from dprobed.wire.messages import common, listings, replies, reports, requests


@pytest.mark.parametrize(
    "module", [common, listings, protocol, replies, reports, requests, resolver]
)
def test_the_types_of_fields_are_types(module: ModuleType) -> None:
    structs = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, msgspec.Struct)
        and each.__module__ == module.__name__
    ]
    assert structs
    for struct in structs:
        types = vars(struct).get("__annotations__", {}).values()
        assert not [each for each in types if isinstance(each, str)]
