"""The desktop image through the npm package 0.5.89."""

import json
import pathlib
import subprocess

from harness import env
from harness.picture import Picture
from harness.wait import until

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
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=variables, text=True, **pipes) as program:
        try:
            # The terminal is there before it is drawn.
            until(lambda: terminal_seen(program), screen.PATIENCE, "the terminal in the npm package's picture")
            said, wrong = program.communicate(timeout=60)
        except BaseException:
            program.kill()
            raise
    assert program.returncode == 0, wrong
    seen = json.loads(said.splitlines()[-1])
    assert seen["size"] == list(screen.SIZE)
    assert seen["mouse"].startswith("x:592 y:776 "), seen
    assert (seen["file"], seen["wrong"]) == (0, "SandboxError"), seen
    start = picture("start")
    assert start.size == screen.SIZE and start.colours() > 150


def terminal_seen(program: subprocess.Popen) -> bool:
    """Looks at the picture that the program has just taken, and tells it whether to take another."""
    line = program.stdout.readline()
    assert line == "look\n", line + program.stderr.read()
    shown = picture("terminal").changed(picture("start"), screen.NOT_DOCK) > 0.2
    program.stdin.write("seen\n" if shown else "again\n")
    program.stdin.flush()
    return shown


def picture(name: str) -> Picture:
    return Picture((env.LOGS / f"desktop-npm-{name}.png").read_bytes())
