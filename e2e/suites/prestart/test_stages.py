"""What is made ready before memory is restored: nobody sees a difference, and none is left or used twice."""

import concurrent.futures
import contextlib
import random
import threading

from harness import env, host
from harness.wait import until
from suites.crash.scene import fill_slots, none
from suites.crash.test_crash import steady
from suites.prestart.ahead import settle_stages, stages, wait_for_stage
from suites.prestart.test_prestart import limits, more
from suites.state import box

SERVER = {"config": {**box.SERVER["config"], "node": {"keep_warm_secs": 0}, "prestart": {"most": 0, "restores": 4}}}
SECONDS = 20
ASKS = "import socket\ntry: print(socket.getaddrinfo('web.tarn.test', 80)[0][4][0])\nexcept OSError as e: print(e.errno)"


def test_restores_resumes_and_copies_find_it(server):
    source = box.with_witness(server, mib=8)
    identity, own = box.ask(server, source), limits(server, source)
    snapshot = box.snapshot(server, source, "memory")["id"]
    settle_stages(server, 1)
    restored = [box.restore(server, snapshot, exposed_ports=[box.PORT])]
    settle_stages(server, 1)
    # As many as were asked for at once are made ready.
    asks = [{}, {"network": {"allow_internet_access": False}}]
    with concurrent.futures.ThreadPoolExecutor(2) as at_once:
        restored += at_once.map(lambda ask: box.restore(server, snapshot, exposed_ports=[box.PORT], **ask), asks)
    assert stages(server)["hit"] >= 2, stages(server)
    names = [server.run(sandbox, 'python3 -c "$ASKS"', env={"ASKS": ASKS}).out for sandbox in (source, *restored)]
    # Only who may reaches the resolver's answers.
    assert names[0] == names[1] == names[2] and names[3].count(".") == 0, names
    settle_stages(server, 2, 3)
    before = stages(server)
    box.suspend(server, source)
    wait_for_stage(server, before)
    box.resume(server, source)
    assert stages(server)["hit"] == before["hit"] + 1, (before, stages(server))
    copies = box.copy(server, source, 3)
    now = stages(server)
    assert now["hit"] + now["joined"] > before["hit"] + before["joined"] + 1, (before, now)
    everybody = [source, *restored, *copies]
    for sandbox in everybody:
        assert box.ask(server, sandbox) == identity
        until(lambda s=sandbox: limits(server, s) == own, what="the limits of any other")
    machines = {server.run(sandbox, "cat /etc/machine-id").out for sandbox in everybody}
    assert len(machines) == len(everybody)
    box.forget(server, [snapshot])
    box.gone(server, everybody)
    settle_stages(server, 0)
    left = lambda: [g for g in host.cgroups(host.tag_of(server.data)) if len(g.rsplit("/", 1)[1]) == 21]  # noqa: E731
    until(lambda: not left(), what="nothing of them on the host")


def test_killed_at_any_moment_it_is_used_once_and_none_is_left(new_server):
    own = new_server("-kill", **SERVER)
    source = box.with_witness(own, mib=8)
    identity = box.ask(own, source)
    snapshot = box.snapshot(own, source, "memory")["id"]
    settle_stages(own, 1)
    # One that was restored has a file more than one that was not.
    box.suspend(own, source)
    box.resume(own, source)
    own.restart()
    fill_slots(own, 12)
    before = steady(own)
    rng = random.Random(37)
    for _ in range(env.scale(1, 25)):
        now = stages(own)
        box.suspend(own, source)
        wait_for_stage(own, now)
        restored: list[str] = []

        def restore(restored=restored):
            with contextlib.suppress(OSError):
                reply = own.call("POST", "/sandboxes", {"snapshot_id": snapshot, "exposed_ports": [box.PORT]}, timeout=20)
                if reply.status == 200:
                    restored.append(reply.json()["sandbox_id"])

        def resume():
            with contextlib.suppress(OSError):
                box.post(own, source, "resume?wait_ms=20000", timeout=20)

        threads = [threading.Thread(target=work) for work in (restore, resume)]
        for thread in threads:
            thread.start()
        threads[1].join(rng.uniform(0, 0.4))
        own.kill()
        for thread in threads:
            thread.join()
        own.start()
        until(lambda: own.info(source)["status"] in ("running", "suspended"), what="the source at rest")
        box.resume(own, source)
        for sandbox in (source, *restored):
            until(lambda s=sandbox: own.info(s)["status"] == "running", what=f"{sandbox} to run")
            assert box.ask(own, sandbox) == identity
        others = {s["id"] for s in own.call("GET", "/sandboxes").json()["sandboxes"]} - {source}
        box.gone(own, others)
    own.restart()
    none(lambda: more(own, before), "more on the host than before")
    box.gone(own, [source])
