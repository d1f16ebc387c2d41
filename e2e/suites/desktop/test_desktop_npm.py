"""The desktop image through the npm package 0.5.89."""

import json
import pathlib
import subprocess

from harness import env
from harness.picture import Picture

from . import screen

PROGRAM = pathlib.Path(__file__).with_name("desktop.mjs")
SERVER = {"config": {"pool": {"initial_mb": 3072, "max_mb": 6144}}}


def test_see_point_and_type(server, sdk):
    box = sdk.create(image=screen.IMAGE)
    # A click before the dock is there would be lost, and the program cannot read pictures.
    with box.connect_desktop(password=screen.PASSWORD, connect_timeout=screen.PATIENCE) as desktop:
        screen.Screen(desktop).whole()
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
    }
    command = [env.NODE, str(PROGRAM), box.sandbox_id, str(env.LOGS)]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["size"] == list(screen.SIZE)
    assert seen["mouse"].startswith("x:592 y:776 "), seen
    assert (seen["file"], seen["wrong"]) == (0, "SandboxError"), seen
    start, terminal = (Picture((env.LOGS / f"desktop-npm-{name}.png").read_bytes()) for name in ("start", "terminal"))
    assert start.size == screen.SIZE and start.colours() > 150
    assert terminal.changed(start, screen.NOT_DOCK) > 0.2
