"""Modules of others that are imported late: nobody who uses them sees a difference."""

from __future__ import annotations

import subprocess
import sys
import textwrap

INSTALLED = "from dprobe import late; late.install()\n"


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", INSTALLED + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_late_module_is_executed_when_something_of_it_is_used_and_not_before() -> None:
    assert _run("""
        import sys, types
        import inspect
        import inspect  # a second time
        print(type(inspect) is types.ModuleType, "dis" in sys.modules)
        print(inspect.isclass(str), type(inspect) is types.ModuleType, "dis" in sys.modules)
        print(inspect is sys.modules["inspect"], inspect.getsource(inspect.cleandoc)[:12])
    """).splitlines() == ["False False", "True True True", "True def cleandoc"]


def test_what_is_there_of_a_late_module_before_is_the_same() -> None:
    assert _run("""
        import inspect, platform, sys
        texts = ["", " ", "one", "  one  ", "one\\n", "\\n\\n  one\\n    two\\n\\n  three\\n  ",
            "one\\ntwo", "one\\n   \\n\\ttwo\\n  \\tthree", "\\n \\n", "one\\n   two\\n \\n  three"]
        before = [inspect.cleandoc(each) for each in texts], platform.system()
        print({"ast", "subprocess"} & set(sys.modules))
        inspect.isclass, platform.node
        print(before == ([inspect.cleandoc(each) for each in texts], platform.system()))
        print("ast" in sys.modules)
    """).splitlines() == ["set()", "True", "True"]


def test_a_name_that_a_late_module_lacks() -> None:
    assert _run("""
        import textwrap, iced_x86
        for module in textwrap, textwrap, iced_x86:
            try:
                module.nothing_of_the_kind
            except AttributeError as error:
                print("nothing_of_the_kind" in str(error))
        try:
            from textwrap import nothing_of_the_kind
        except ImportError as error:
            print(error.name)
    """).splitlines() == ["True", "True", "True", "textwrap"]


def test_a_thread_that_uses_a_module_while_another_loads_it() -> None:
    assert (
        _run("""
        import threading, textwrap, inspect, tokenize
        seen = []
        both = threading.Barrier(8)
        def use():
            both.wait()
            seen.append((inspect.isclass(str), textwrap.dedent(" a"), tokenize.NAME))
        threads = [threading.Thread(target=use) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        print(seen == [(True, "a", 1)] * 8)
    """)
        == "True\n"
    )


def test_the_decoder_is_there_by_all_its_names() -> None:
    assert _run("""
        import sys
        from iced_x86 import Code, Decoder, FlowControl, Mnemonic
        made = next(iter(Decoder(64, b"\\xc3")))
        print(made.mnemonic == Mnemonic.RET, made.flow_control == FlowControl.RETURN)
        print("iced_x86.CpuidFeature" in sys.modules, made.code == Code.RETNQ)
    """).splitlines() == ["True True", "False True"]


def test_what_is_left_out_for_one_importer_is_there_for_others() -> None:
    assert _run("""
        import sys
        import msgspec, hashlib
        print({"typing_extensions", "_hashlib"} & set(sys.modules))
        print(hashlib.blake2b(b"", digest_size=4).hexdigest())
        import importlib.util
        for name in "typing_extensions", "_hashlib":
            print(importlib.util.find_spec(name) is not None or name == "typing_extensions")
    """).splitlines() == ["set()", "1271cf25", "True", "True"]


def test_messages_are_the_same() -> None:
    code = """
        from dprobed.wire import messages
        line = messages.encode(messages.Hello(id=0, protocol=messages.PROTOCOL))
        print(messages.decode_request(line))
    """
    plain = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert _run(code) == plain.stdout != ""
