"""``dprobe snapshot``: a thread's stack with its variables, and nothing that stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client_support import PATIENCE, Cat, cat, dprobe, running_daemon, tracer_of
from tests.integration.script_support import started

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct item { int number; struct item *next; };
struct account { char user[8]; const char *password; struct item *items; double balance; };
static inline __attribute__((always_inline)) int price(struct item *item, int factor)
{
    int cost = item->number * factor;
    return cost + 1;                    /* the line */
}
__attribute__((noinline)) int work(struct account *account, int n)
{
    char label[16];
    int list[30] = {n, n + 1, n + 2};
    snprintf(label, sizeof label, "call %d", n);
    int sum = price(account->items, n) + list[0];
    return sum + (int)strlen(label);
}
__attribute__((noinline)) int serve(int first)
{
    struct item *last = malloc(sizeof *last), *head = malloc(sizeof *head);
    struct account account = {"me", "hidden", head, 2.5};
    *last = (struct item){20, NULL};
    *head = (struct item){10, last};
    int total = 0;
    for (int i = first; i < first + 3; i++)
        total += work(&account, i);
    free(head);
    free(last);
    return total;
}
int main(void)
{
    char line[100];
    while (fgets(line, sizeof line, stdin)) {
        serve(1);
        fputs(line, stdout);
        fflush(stdout);
    }
    return 0;
}
"""
LINE = SOURCE[: SOURCE.index("/* the line */")].count("\n") + 1


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.c").write_text(SOURCE)
    command = ["gcc", "-g", "-O0", "-o", str(folder / "shop"), str(folder / "shop.c")]
    subprocess.run(command, check=True, timeout=PATIENCE)
    return folder / "shop"


@pytest.fixture
def worker(shop: Path) -> Iterator[Cat]:
    with cat([shop]) as target:
        yield target


def taken(worker: Cat, folder: Path, *arguments: object) -> str:
    """What a snapshot shows, which ends itself; nothing of it is left."""
    environment = {**os.environ, "DPROBED_DUMPS": str(folder / "cores")}
    traced = started("snapshot", worker.pid, *arguments, env=environment)
    assert traced.stderr is not None
    said = traced.stderr.readline()
    assert "until 1h are over or 1 snapshot shown" in said, said + traced.stderr.read()
    worker.say("go")
    out, err = traced.communicate(timeout=PATIENCE)
    assert (traced.returncode, err) == (0, "")
    assert [path.name for path in (folder / "cores").iterdir() if path.suffix != ".hourly"] in (
        [],
        [".hourly"],
    )
    assert tracer_of(worker.pid) == 0
    worker.say("goes on")
    return out


def variables(frame: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in frame["variables"]}


def test_the_functions_of_a_stack_with_their_variables(worker: Cat, tmp_path: Path) -> None:
    place = f"shop.c:{LINE}"
    out = taken(worker, tmp_path, place, "--if", "factor == 2", "--json")
    found = json.loads(out)
    assert (found["pid"], found["tid"], found["comm"]) == (worker.pid, worker.pid, "shop")
    names = [(frame["function"], frame["inlined"]) for frame in found["frames"][:4]]
    assert names == [("price", True), ("work", False), ("serve", False), ("main", False)]
    price, work, serve, main = found["frames"][:4]
    assert (price["file"].rpartition("/")[2], price["line"]) == ("shop.c", LINE)
    assert variables(price)["factor"] == 2 and variables(price)["cost"] == 20
    assert variables(price)["item"]["value"]["next"]["value"] == {"number": 20, "next": "0x0"}
    assert variables(work)["label"] == "call 2" and variables(work)["n"] == 2
    assert variables(work)["list"][:4] == [2, 3, 4, 0] and variables(work)["list"][-1] == {
        "...": 10
    }
    account = variables(serve)["account"]
    assert (account["user"], account["balance"]) == ("me", 2.5)
    assert account["items"]["value"]["number"] == 10
    assert variables(serve)["i"] == 2 and variables(main)["line"] == "go\n"
    assert "hidden" not in out and account["password"] == {"unknown": "redacted"}


def test_limits_of_what_is_shown_and_text_for_people(worker: Cat, tmp_path: Path) -> None:
    limits = ("--depth", 1, "--width", 2, "--string", 3, "--frames", 2, "--redact", "SUM")
    out = taken(worker, tmp_path, "work", "--if", "n == 3", *limits)
    lines = out.splitlines()
    assert f"shop[{worker.pid}] at work" in lines[0]
    assert lines[1].startswith("#0  work at ") and "shop.c:" in lines[1]
    assert "      sum = <redacted>" in lines and "      label = <not set yet>" in lines
    assert "      n = 3" in lines
    assert any(line.startswith("#1  serve at ") for line in lines)
    assert not any(line.startswith("#2") for line in lines)
    assert lines[-1] == "    (more frames than were asked for)"
    (account,) = (line for line in lines if line.startswith("      account = 0x"))
    assert '.user = "me"' in account and "2 more" in account


def test_it_ends_without_one_when_its_time_is_over(worker: Cat) -> None:
    done = dprobe("snapshot", worker.pid, "work", "--for", "100ms")
    assert (done.returncode, done.stdout) == (1, "") and "until 100ms are over" in done.stderr
    worker.say("goes on")


def test_a_process_that_ends_right_after_it_is_shown_all_the_same(
    shop: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "DPROBED_DUMPS": str(tmp_path / "cores")}
    target = Cat([shop])
    traced = started("snapshot", target.pid, "work", "--json", env=environment)
    try:
        assert traced.stderr is not None and "until" in traced.stderr.readline()
        target.say("go")
    finally:
        target.process.send_signal(signal.SIGKILL)
        target.process.wait(PATIENCE)
        assert target.process.stdin is not None and target.process.stdout is not None
        target.process.stdin.close()
        target.process.stdout.close()
    out, _ = traced.communicate(timeout=PATIENCE)
    frames = json.loads(out)["frames"]
    assert [frame["function"] for frame in frames[:3]] == ["work", "serve", "main"]
    assert variables(frames[0])["n"] == 1


CPP = """
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>
struct Order { std::string name; std::vector<int> items; std::map<std::string, int> prices; };
class Shop {
public:
    __attribute__((noinline)) int sell(const Order &order, std::string who)
    {
        total += (int)order.items.size();
        return total + (int)who.size();
    }
    int total = 100;
};
int main()
{
    std::string line;
    Shop shop;
    while (std::getline(std::cin, line)) {
        Order order{"first", {1, 2, 3}, {{"a", 1}, {"b", 2}}};
        std::thread([&] { shop.sell(order, "someone with a long name"); }).join();
        std::cout << line << std::endl;
    }
}
"""


def test_a_thread_of_a_program_in_cpp(tmp_path: Path) -> None:
    (tmp_path / "shop.cc").write_text(CPP)
    path = tmp_path / "shop"
    command = ["g++", "-g", "-O0", "-pthread", "-o", str(path), str(tmp_path / "shop.cc")]
    subprocess.run(command, check=True, timeout=PATIENCE)
    line = CPP[: CPP.index("return total +")].count("\n") + 1
    with cat([path]) as worker:
        found = json.loads(taken(worker, tmp_path, f"shop.cc:{line}", "--frames", 1, "--json"))
    (sell,) = found["frames"]
    assert found["tid"] != worker.pid and sell["function"].startswith("Shop::sell(Order const&")
    assert variables(sell) == {
        "this": {"address": variables(sell)["this"]["address"], "value": {"total": 106}},
        "order": {"name": "first", "items": [1, 2, 3], "prices": {"a": 1, "b": 2}},
        "who": "someone with a long name",
    }


def test_who_may_not_dump_is_refused(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policies.d"
    folder.mkdir()
    rule = '[[policy]]\nname = "shops"\nmatch.exe = "{}"\nrights.user.root = ["observe"]\n'
    (folder / "shops.toml").write_text(rule.format(shop))
    config = tmp_path / "dprobed.toml"
    config.write_text(f'policies = "{folder}"\n')
    with running_daemon(tmp_path, "--config", config) as daemon, cat([shop]) as worker:
        done = daemon.dprobe("snapshot", worker.pid, "work")
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert "dump" in line and "shops" in line
        assert tracer_of(worker.pid) == 0
        done = daemon.dprobe("logpoint", worker.pid, "work", "n={n}", "--for", "100ms")
        assert done.returncode == 0, done.stderr
