"""The desktop image while it is not built, and when it comes to a server that runs."""

import json
import pathlib
import shutil

from harness import env, server as servers

from .screen import IMAGE

MINIMAL = "tensorlake/ubuntu-minimal"
COMMAND = "./x image ubuntu-vnc"


def test_a_running_server_takes_the_image_that_comes(new_server, tmp_path):
    assets = tmp_path / "assets"
    (assets / "images").mkdir(parents=True)
    (assets / "runsc").symlink_to(pathlib.Path(env.ASSETS) / "runsc")
    lend(MINIMAL, assets)
    server = new_server(assets=str(assets))

    refused = server.call("POST", "/sandboxes", {"image": IMAGE})
    assert (refused.status, refused.code) == (404, "IMAGE_NOT_FOUND"), refused
    assert f"`{COMMAND}`" in refused.json()["error"], refused
    found = doctor(server, assets)
    assert (found["ok"], found["optional"], found["remedy"]) == (False, True, COMMAND)

    lend(IMAGE, assets)
    sandbox = server.create(image=IMAGE)
    listed = server.sandbox_call(sandbox, "GET", "/api/v1/processes").json()["processes"]
    assert [(p["command"], p["status"]) for p in listed] == [("/usr/local/bin/start-desktop", "running")]
    assert server.run(sandbox, "id -un").out == "tl-user"
    assert doctor(server, assets)["ok"]
    # The default is still the small one.
    assert server.info(server.create())["image"] == MINIMAL


def lend(image: str, assets: pathlib.Path) -> None:
    """Adds an image of the set-up to other assets; its tree stays where it is."""
    for file in pathlib.Path(env.ASSETS).glob("images/*/image.json"):
        if image in json.loads(file.read_text())["names"]:
            home = assets / "images" / file.parent.name
            home.mkdir()
            (home / "rootfs").symlink_to(file.parent / "rootfs")
            shutil.copy(file, home)
            return
    raise AssertionError(f"{image} is not built: ./x setup --test")


def doctor(server, assets: pathlib.Path) -> dict:
    """What the doctor says of the desktop image."""
    told = servers.command(server.data, "doctor", "--json", "--assets-dir", str(assets))
    return next(f for f in json.loads(told.stdout) if f["name"] == f"image {IMAGE}")
