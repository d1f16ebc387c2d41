"""GPUs, on an inventory that is simulated: match, count, busy, unknown, two models; what has them when the server dies.

A simulated GPU computes nothing. A sandbox finds the names of its own in a variable, as it would
find the devices, so that who has which is seen from inside.
"""

import json

import pytest
from harness import server as servers
from harness.wait import until
from tensorlake.sandbox import RemoteAPIError, SandboxStatus

SECONDS = 10
SERVER = {"flags": ["--simulated-gpus", "H100,H100,A10"]}
SHAPE = {"cpus": 0.25, "memory_mb": 256, "disk_mb": 1024}
SHOW = 'printf %s "${TARN_SIMULATED_GPUS-none}"'


def gpus(server) -> dict[str, tuple[str, str | None]]:
    """Each GPU's state, and who has it or what it lacks."""
    listed = json.loads(server.command("gpu", "ls", "--json").stdout)["gpus"]
    return {gpu["id"]: (gpu["state"], gpu.get("sandbox_id") or gpu.get("reason")) for gpu in listed}


def is_free(server, gpu: str) -> bool:
    return gpus(server)[gpu] == ("free", None)


def pending(server, count: int, model: str) -> str:
    """A sandbox that waits for what others have."""
    asked = {"resources": {**SHAPE, "gpus": [{"count": count, "model": model}]}, "wait": False}
    reply = server.call("POST", "/sandboxes", asked)
    assert reply.status == 202, reply
    return reply.json()["sandbox_id"]


def create(sdk, count: int | None, model: str | None):
    return sdk.create(cpus=0.25, memory_mb=256, gpus=count, gpu_model=model)


def test_whole_gpus_of_the_model_asked_for(server, sdk):
    assert [state for state, _ in gpus(server).values()] == ["free"] * 3
    two, default = create(sdk, 2, "H100"), create(sdk, 1, None)
    plain = sdk.create(cpus=0.25, memory_mb=256)
    seen = [server.run(one.sandbox_id, SHOW).out for one in (two, default, plain)]
    assert seen == ["GPU-sim-0,GPU-sim-1", "GPU-sim-2", "none"]
    shown = [server.info(one.sandbox_id)["resources"]["gpus"] for one in (two, default, plain)]
    assert shown == [[{"count": 2, "model": "H100"}], [{"count": 1, "model": "A10"}], []]
    # All of that model are somebody's: it waits, and who cannot wait is told so.
    waits = pending(server, 1, "H100")
    reason = ("pending", "no_resources_available")
    until(lambda: tuple(map(server.info(waits).get, ("status", "pending_reason"))) == reason, 10, "it waits")
    now = {"resources": {**SHAPE, "gpus": [{"count": 1, "model": "A10"}]}, "max_pending_secs": 0}
    refused = server.call("POST", "/sandboxes", now).json()
    assert (refused["status"], refused["termination_reason"]) == ("terminated", "no_capacity")
    # Its memory is not all of it.
    for path, body in [("snapshot", {"snapshot_type": "memory"}), ("copy", None)]:
        reply = server.call("POST", f"/sandboxes/{two.sandbox_id}/{path}", body)
        assert (reply.status, reply.json()["code"]) == (400, "NOT_SUPPORTED"), reply
    two.terminate()
    until(lambda: server.info(waits)["status"] == "running", 20, "it runs, now that they are free")
    assert server.run(waits, SHOW).out in ("GPU-sim-0", "GPU-sim-1")
    server.delete(waits)


@pytest.mark.parametrize(
    ("count", "model", "code", "part"),
    [
        (1, "T4", "NO_SUCH_GPU", "`T4`"),
        (3, "H100", "LIMIT_EXCEEDED", "at most 2"),
    ],
)
def test_what_no_node_has_is_refused(sdk, count, model, code, part):
    with pytest.raises(RemoteAPIError) as error:
        create(sdk, count, model)
    assert (error.value.status_code, error.value.code) == (400, code)
    assert part in str(error.value)


def test_two_models_are_refused(server):
    asked = [{"count": 1, "model": "H100"}, {"count": 1, "model": "A10"}]
    reply = server.call("POST", "/sandboxes", {"resources": {"gpus": asked}})
    assert (reply.status, reply.json()["code"]) == (400, "INVALID_REQUEST")
    assert reply.json()["error"].startswith("resources.gpus[1].model")


def test_they_outlive_the_server_and_come_back(server, sdk):
    lives, ends = create(sdk, 1, "A10"), create(sdk, 2, "H100")
    waits = pending(server, 2, "H100")
    server.restart(kill=True)
    held = gpus(server)
    assert held["GPU-sim-2"] == ("held", lives.sandbox_id)
    assert held["GPU-sim-0"] == held["GPU-sim-1"] == ("held", ends.sandbox_id)
    assert server.run(lives.sandbox_id, SHOW).out == "GPU-sim-2"
    assert server.info(waits)["status"] == "pending"
    ends.terminate()
    until(lambda: server.info(waits)["status"] == "running", 20, "the one that waited has them")
    assert gpus(server)["GPU-sim-0"] == ("held", waits)
    # One that comes back broken is named, and nobody's until it is mended.
    faults = server.data / "simulated-gpu-faults"
    faults.mkdir()
    (faults / "GPU-sim-2").write_text("it fell off the bus")
    server.allow("a GPU is put out of use")
    lives.terminate()
    until(lambda: gpus(server)["GPU-sim-2"][0] == "out_of_use", 20, "it is out of use")
    assert b'tarn_gpu_out_of_use{gpu="GPU-sim-2",model="A10"} 1' in server.call("GET", "/metrics").body
    told = servers.command(server.data, "doctor", "--json", "--assets-dir", server.assets)
    found = next(it for it in json.loads(told.stdout) if it["name"] == "GPUs out of use")
    assert not found["ok"] and "fell off the bus" in found["detail"]
    server.delete(waits)
    (faults / "GPU-sim-2").unlink()
    server.restart()
    until(lambda: all(is_free(server, gpu) for gpu in gpus(server)), 20, "all of them are free")
    assert server.running() == set()


def test_the_idle_limit_gives_a_gpu_back_and_keeps_the_files(server, sdk):
    made = sdk.create(name="with-a-gpu", cpus=0.25, memory_mb=256, gpus=1, gpu_model="A10", timeout_secs=1)
    assert made.run("sh", ["-c", "echo kept > /tmp/file"]).exit_code == 0
    reply = server.call("POST", f"/sandboxes/{made.sandbox_id}/suspend")
    assert (reply.status, reply.json()["code"]) == (400, "NOT_SUPPORTED")
    status = lambda: sdk.client.get(made.sandbox_id).status  # noqa: E731
    until(lambda: status() == SandboxStatus.SUSPENDED and is_free(server, "GPU-sim-2"), 20, "its limit")
    assert "files alone" in json.dumps(server.info(made.sandbox_id)["error_details"])
    assert server.run(made.sandbox_id, f"{SHOW}; cat /tmp/file").out == "GPU-sim-2kept"
