"""Create, run, delete, over and over: the host has what it had before."""

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from harness import env, host
from harness.sdk import Sdk
from harness.server import command
from harness.wait import until
from suites.crash.test_crash import smaller, steady

ROUNDS = env.scale(12, 100)
AT_ONCE = 4
# Twice as many network slots as are in use at once, those of what is started ahead and of what is being removed among
# them: as many as were, and half of the spare ones beside, are kept for a while, which is no leak.
SERVER = {"config": {"network": {"spare_slots": 32}}}


def lifecycles(server, count):
    """Runs whole lives of sandboxes through the SDK, some at a time."""

    def live(number):
        kit = Sdk(server)
        box = kit.create()
        assert box.run("sh", args=["-c", f"echo {number} | tee /tmp/f; sleep 300 >/dev/null 2>&1 &"]).stdout == str(number)
        box.terminate()
        kit.client.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(live, range(count)))


def open_files(pid):
    """How many descriptors and threads a process has."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def test_nothing_is_left(server):
    # One round first: what is kept warm (slots, blank layers) is then there and counted.
    lifecycles(server, AT_ONCE * 2)
    before, descriptors = steady(server), open_files(server.process.pid)
    start = time.perf_counter()
    lifecycles(server, ROUNDS)
    took = time.perf_counter() - start
    until(lambda: smaller(host.counts(server.data), before), timeout=30, what=f"nothing more than {before}")
    after = host.counts(server.data)
    print(f"{ROUNDS} lives, {AT_ONCE} at a time, in {took:.1f} s\nbefore {before}\nafter  {after}")
    assert server.running() == set()
    until(
        lambda: open_files(server.process.pid)[0] <= descriptors[0] + 8,
        timeout=30,
        what=f"no more descriptors than {descriptors}",
    )


def test_failed_starts_leave_nothing(server):
    lifecycles(server, AT_ONCE)
    before = steady(server)

    def fail(_):
        reply = server.call("POST", "/sandboxes", {"entrypoint": ["/no/such"]})
        assert (reply.status, reply.json()["status"]) == (200, "terminated"), reply
        assert reply.json()["termination_reason"] == "ConfigurationError"
        assert "/no/such" in reply.json()["error_details"]["message"]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fail, range(env.scale(8, 40))))
    until(lambda: smaller(host.counts(server.data), before), timeout=30, what=f"nothing more than {before}")


def test_deleted_while_pending_leaves_nothing(server):
    lifecycles(server, AT_ONCE)
    before = steady(server)

    def cancel(_):
        made = server.call("POST", "/sandboxes", {"wait": False}).json()["sandbox_id"]
        server.delete(made)
        info = until(lambda: (i := server.info(made))["status"] == "terminated" and i, what="its end")
        assert info["outcome"] == "Success(UserTerminated)"
        assert info["termination_reason"] in ("cancelled", None)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(cancel, range(env.scale(8, 40))))
    until(lambda: smaller(host.counts(server.data), before), timeout=30, what=f"nothing more than {before}")


def test_purge_leaves_nothing_at_all(new_server):
    own = new_server("-purge")
    made = own.create()
    assert own.run(made, "sleep 1000 >/dev/null 2>&1 & echo on").out == "on"
    own.kill()
    assert any(host.objects(own.data).values())
    purge = own.command("purge", "--yes")
    assert purge.returncode == 0, purge.stderr
    left = {kind: names for kind, names in host.objects(own.data).items() if names}
    assert not left, left


def test_purge_keeps_off_what_others_mounted(new_server):
    own = new_server("-mounted")
    made = own.create()
    own.kill()
    disk = own.data / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True)
    try:
        (disk / "file").write_text("kept")
        refused = own.command("purge", "--yes")
        assert refused.returncode != 0 and str(disk) in refused.stderr, refused
        assert (disk / "file").read_text() == "kept"
        assert host.sandbox_processes(own.data, made), "nothing was ended"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    purge = own.command("purge", "--yes")
    assert purge.returncode == 0 and not own.data.exists(), purge
    again = own.command("purge", "--yes")
    assert again.returncode == 0 and "nothing to purge" in again.stderr, again


def test_purge_refuses_a_directory_that_is_no_servers(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    refused = command(tmp_path, "purge", "--yes")
    assert refused.returncode != 0 and "not the data directory" in refused.stderr, refused
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
