"""A kill reaches everybody; an exit is told as it was; nobody stays that has gone."""

import pathlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import env
from harness.wait import until

from . import inside

SERVER = {"config": {"node": {"processes": 1024}}}
TREES = env.scale(24, 500)
EXITS = env.scale(60, 500)
PROGRAM = pathlib.Path(__file__).with_name("tree.py").read_bytes()

# Those that end a shell: not the ones that stop it, or that it is not told of by default.
SIGNALS = [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, 34, 40, 64]


@pytest.fixture
def forest(server):
    """A sandbox with the program that grows trees."""
    made = server.create(memory_mb=2048)
    assert server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/tree.py", PROGRAM).status == 204
    yield made
    server.delete(made)


@pytest.mark.timeout(env.scale(180, 1500))
def test_whole_trees_go(server, forest):
    chosen = random.Random(20250911)
    slow, times = [], []
    for seed in range(TREES):
        started = inside.start(server, forest, "python3", "/tmp/tree.py", str(seed))
        if chosen.random() < 0.8:
            until(lambda: inside.get(server, forest, started["pid"])["status"] == "running")
            # Its top is there; the rest may still grow.
            script = "import time; time.sleep(%f)" % chosen.uniform(0, 0.15)
            assert server.run(forest, f"python3 -c '{script}'").status == 0
        ended, took = timed_kill(server, forest, started["pid"])
        times.append(took)
        if took > 0.5:
            slow.append((seed, took))
        assert ended["status"] == "signaled" and ended["signal"] == 9, ended
        if seed % 25 == 24:
            nobody(server, forest, seed)
    nobody(server, forest, TREES)
    times.sort()
    print(f"{TREES} trees: top gone p50 {times[len(times) // 2] * 1e3:.0f} ms, worst {times[-1] * 1e3:.0f} ms")
    assert not slow, f"not gone within 500 ms: {slow}"
    assert not [p for p in inside.listed(server, forest) if p["status"] == "running"]


def timed_kill(server, sandbox, pid) -> tuple[dict, float]:
    """Kills, and tells how long the process ran on, by its own stamp: the way back is not its time."""
    began = time.time()
    inside.kill(server, sandbox, pid)
    ended = inside.wait_end(server, sandbox, pid)
    return ended, ended["ended_at"] / 1000 - began


def nobody(server, sandbox, seed) -> None:
    until(lambda: not inside.strangers(server, sandbox), 20, f"the end of everybody after tree {seed}", 1.0)


def test_a_timeout_takes_the_whole_tree(server, forest):
    for seed in range(env.scale(5, 40)):
        body = {"command": "python3", "args": ["/tmp/tree.py", str(1000 + seed)], "timeout": 0.4}
        reply = server.sandbox_call(forest, "POST", f"{inside.PROCESSES}/run", body)
        assert b'"reason":"timed_out"' in reply.body and b'"signal":9' in reply.body, reply
    nobody(server, forest, "timeouts")


@pytest.mark.timeout(env.scale(180, 1500))
def test_exit_codes_and_signals_under_load(server, forest):
    load = [inside.shell(server, forest, "while :; do :; done")["pid"] for _ in range(2)]
    forks = inside.shell(server, forest, "while :; do (:); done")["pid"]
    chosen = random.Random(7)
    wanted = [chosen.choice([("exit", chosen.randrange(256)), ("signal", chosen.choice(SIGNALS))]) for _ in range(EXITS)]
    # Ones that end while their descendants live on, and ones with a zombie below them.
    extra = ["", "sleep 600 & ", "setsid sleep 600 & ", "(sleep 0.01 &); "]
    wrong = []

    def one(what):
        kind, number = what
        script = chosen.choice(extra) + (f"exit {number}" if kind == "exit" else f"kill -{number} $$; sleep 5")
        pid = inside.start(server, forest, "sh", "-c", script)["pid"]
        ended = inside.wait_end(server, forest, pid, 60)
        told = ("exit", ended.get("exit_code")) if ended["status"] == "exited" else ("signal", ended.get("signal"))
        if told != what or ended["ended_at"] < ended["started_at"]:
            wrong.append((what, ended))
        inside.kill(server, forest, pid)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, wanted))
    assert not wrong, wrong[:5]
    running = {p["pid"] for p in inside.listed(server, forest) if p["status"] == "running"}
    assert running == {*load, forks}
    for pid in running:
        inside.kill(server, forest, pid)
    nobody(server, forest, "exits")
    finished = inside.listed(server, forest)
    assert min(EXITS, inside.FINISHED_KEPT) <= len(finished) <= inside.FINISHED_KEPT
    assert not [p for p in finished if p["status"] == "running"]


def test_orphans_are_reaped(server, forest):
    script = "for i in $(seq 100); do (setsid sleep 0.05 &); done; sleep 0.3"
    assert server.run(forest, script).status == 0
    nobody(server, forest, "orphans")


def test_many_processes_stay_quick(server, forest):
    """A tree of hundreds is started beside, looked through and killed in a moment."""
    crowd = env.scale(150, 600)
    top = inside.shell(server, forest, f"for i in $(seq {crowd}); do sleep 600 & done; echo ready; wait")["pid"]
    until(lambda: inside.lines(server, forest, top) == ["ready"], 60, what="the crowd")
    began = time.perf_counter()
    for _ in range(10):
        assert server.run(forest, "true").status == 0
    runs = (time.perf_counter() - began) / 10
    ended, took = timed_kill(server, forest, top)
    nobody(server, forest, "the crowd")
    print(f"{crowd} processes: a run beside them {runs * 1e3:.0f} ms, top gone after {took * 1e3:.0f} ms")
    assert ended["signal"] == 9 and took < (0.5 if env.FULL else 5)


def test_a_kill_beside_kills(server, forest):
    """Several at once do not get into each other's way."""
    tops = [inside.start(server, forest, "python3", "/tmp/tree.py", str(5000 + n))["pid"] for n in range(8)]
    bystander = inside.shell(server, forest, "setsid -f sleep 601; sleep 602; :")["pid"]
    threads = [threading.Thread(target=inside.kill, args=(server, forest, pid)) for pid in tops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pid in tops:
        assert inside.wait_end(server, forest, pid)["signal"] == 9
    expected = lambda: sorted(line.split()[-1] for line in inside.strangers(server, forest))  # noqa: E731
    until(lambda: expected() == ["601", "602", ":"], 20, "only the bystander's")
    assert inside.get(server, forest, bystander)["status"] == "running"
