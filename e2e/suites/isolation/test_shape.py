"""A sandbox has its own size and keeps to it; nobody else feels it."""

import statistics
import threading
import time

import pytest
from harness import env, host, http
from harness.sdk import Sdk, value
from harness.wait import until

# The default is 1024; the small run asks for less, because each of them costs the machine time.
PROCESSES = env.scale(256, 1024)
ALONE = True
SERVER = {"config": {"node": {"processes": PROCESSES}}}
MEMORY_HOG = "held = []\nwhile True: held.append(bytearray(b'x' * (1 << 24)))"
SPIN = "import time\nend = time.time() + {}\nwhile time.time() < end: pass"


@pytest.fixture(scope="module")
def neighbour(server):
    """A bystander."""
    return server.create()


class Watch:
    """Measures how fast a bystander and the host's API answer while something else goes on."""

    def __init__(self, server, bystander) -> None:
        self.server, self.bystander = server, bystander
        self.runs: list[float] = []
        self.health: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._stop.is_set():
            start = time.perf_counter()
            result = self.server.run(self.bystander, "echo ok")
            self.runs.append(time.perf_counter() - start if result.out == "ok" else 999)
            start = time.perf_counter()
            ok = http.request(self.server.api + "/healthz").status == 200
            self.health.append(time.perf_counter() - start if ok else 999)

    def assert_responsive(self) -> None:
        """A share of two cores is left for the others: slower, but never stuck."""
        assert len(self.runs) >= 3, "the bystander was asked again and again"
        print(f"bystander: run p50 {statistics.median(self.runs) * 1e3:.0f} ms, worst {max(self.runs) * 1e3:.0f} ms")
        assert statistics.median(self.runs) < 1.0 and max(self.runs) < 5.0, self.runs
        assert statistics.median(self.health) < 0.25 and max(self.health) < 3.0, self.health


def test_free_and_nproc_show_the_own_shape(server):
    for cpus, memory in ((1, 256), (2, 1024)):
        made = server.create(resources={"cpus": cpus, "memory_mb": memory})
        result = server.run(made, "nproc; free -m | awk '/^Mem:/ {print $2}'; grep -c ^processor /proc/cpuinfo")
        shown_cpus, shown_memory, listed = map(int, result.out.split())
        assert shown_cpus == listed == cpus
        assert 0.9 * memory <= shown_memory <= memory, "what free shows is what there is"
        server.delete(made)


def test_a_full_disk_is_enospc_and_only_inside(server):
    made = server.create(resources={"disk_mb": 1024})
    shown = int(server.run(made, "df -m --output=size / | tail -n 1").out)
    assert 850 <= shown <= 1024
    result = server.run(made, "dd if=/dev/zero of=/home/tl-user/big bs=1M count=1200; echo status $?", timeout=120)
    assert "No space left on device" in result.err and result.out == "status 1", result
    size = int(server.run(made, "stat -c %s /home/tl-user/big").out) >> 20
    assert 700 <= size <= 1024
    put = server.sandbox_call(made, "PUT", "/api/v1/files?path=/tmp/more", b"x" * (300 << 20))
    assert (put.status, put.code) == (500, "INTERNAL_ERROR") and b"pace" in put.body, put
    assert server.run(made, "rm /home/tl-user/big && echo more > /tmp/ok && cat /tmp/ok").out == "more"
    server.delete(made)


def test_a_memory_hog_is_ended_and_the_sandbox_lives(server, neighbour):
    kit = Sdk(server)
    box = kit.create(memory_mb=256)
    keeper = box.start_process("sleep", args=["3000"]).pid
    with Watch(server, neighbour) as watch:
        for _ in range(3):
            result = box.run("python3", args=["-c", MEMORY_HOG], timeout=60)
            assert (result.exit_code, result.reason) == (-9, "oom_killed"), value(result)
            assert box.run("echo", args=["alive"]).stdout == "alive"
    watch.assert_responsive()
    assert box.get_process(keeper).status == "running", "the largest was ended, not the innocent"
    assert box.info().status == "running"
    kit.close()


def test_many_hogs_at_once(server):
    kit = Sdk(server)
    box = kit.create(memory_mb=256)
    hogs = [box.start_process("python3", args=["-c", MEMORY_HOG]).pid for _ in range(4)]
    until(lambda: all(box.get_process(p).status != "running" for p in hogs), timeout=60, what="the end of all hogs")
    assert {box.get_process(p).status for p in hogs} <= {"oom_killed"}
    assert box.run("echo", args=["alive"]).stdout == "alive"
    kit.close()


def test_a_fork_bomb_stays_inside(server, neighbour):
    made = server.create(resources={"memory_mb": 512})
    before = len(host.sandbox_processes(server.data, made))
    body = {"command": "bash", "args": ["-c", "bomb() { bomb | bomb & }; bomb; sleep 1000"]}
    with Watch(server, neighbour) as watch:
        assert server.sandbox_call(made, "POST", "/api/v1/processes", body).status == 201
        count = lambda: len(host.sandbox_processes(server.data, made))  # noqa: E731
        until(lambda: count() > before + 100, timeout=30, what="an explosion")
        until(lambda: len(watch.runs) >= 5, timeout=60, what="five answers of the bystander")
        peak = count()
        server.delete(made)
        until(lambda: count() == 0, timeout=30, what="the end of all its processes")
    watch.assert_responsive()
    assert peak < 4096, peak


def test_the_number_of_processes_inside_is_bounded(server):
    made = server.create()
    script = "import subprocess\nn = 0\ntry:\n while n < 3000: subprocess.Popen(['sleep', '1000']); n += 1\n"
    script += "except OSError as e: print(n, e.strerror)"
    result = server.run(made, "exec python3 -c \"$SCRIPT\"", env={"SCRIPT": script}, timeout=120)
    count, _, reason = result.out.partition(" ")
    assert reason == "Resource temporarily unavailable" and 0.9 * PROCESSES < int(count) <= PROCESSES, result
    server.delete(made)


def test_half_a_core_is_half_a_core(server):
    """The host's own accounting: what a spinning sandbox used, over the time it spun."""
    shares = {}
    for cpus in (0.5, 1.0):
        made = server.create(resources={"cpus": cpus})
        before, start = host.cpu_seconds(server.data, made), time.perf_counter()
        # Two spinners: with a whole core free, only the quota holds them.
        result = server.run(made, "exec sh -c 'python3 -c \"$SPIN\" & python3 -c \"$SPIN\"; wait'", env={"SPIN": SPIN.format(env.scale(2, 4))})
        assert result.status == 0, result
        shares[cpus] = (host.cpu_seconds(server.data, made) - before) / (time.perf_counter() - start)
        server.delete(made)
    print(f"share of a core used: {shares}")
    assert 0.35 <= shares[0.5] <= 0.6, shares
    assert shares[1.0] <= 1.15, shares
    assert shares[1.0] / shares[0.5] >= 1.3, shares


def test_a_spinning_sandbox_leaves_the_others_alone(server, neighbour):
    made = server.create(resources={"cpus": 2})
    body = {"command": "sh", "args": ["-c", "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait"]}
    assert server.sandbox_call(made, "POST", "/api/v1/processes", body).status == 201
    with Watch(server, neighbour) as watch:
        until(lambda: len(watch.runs) >= 10, timeout=60, what="ten answers of the bystander")
    watch.assert_responsive()
    server.delete(made)


def test_root_inside_is_not_root_outside(server):
    made = server.create()
    script = "id -u; cat /proc/1/cmdline | tr '\\0' ' '; uname -r; dmesg 2>&1 | head -n 1"
    result = server.run(made, script, user="root")
    assert result.lines["stdout"][0] == "0"
    kernel = open("/proc/sys/kernel/osrelease").read().strip()
    assert kernel not in result.out, "the kernel inside is gVisor's"
    for device in ("/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/loop0", "/dev/kvm"):
        assert server.run(made, f"head -c 1 {device}", user="root").status != 0, device
    server.delete(made)
