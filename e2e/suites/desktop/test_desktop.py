"""The desktop image through the Python SDK: see, point, type, browse."""

import asyncio

import pytest
from harness.picture import near
from harness.sdk import Sdk
from harness.wait import until
from tensorlake.sandbox import AsyncSandbox, CheckpointType, Sandbox, SandboxError

from . import screen
from .screen import Screen, keep

SECONDS = 100
SERVER = {"config": {"pool": {"initial_mb": 3072, "max_mb": 6144}}}
PAGE_COLOUR = (255, 153, 0)
PAGE = f"<!doctype html><title>tarn</title><body style='background:rgb{PAGE_COLOUR}'><h1>Served inside</h1>"


@pytest.fixture(scope="module")
def ready(server):
    """A snapshot of a desktop that is all there, so that not every test waits for one to come up."""
    kit = Sdk(server)
    box = kit.create(image=screen.IMAGE)
    with box.connect_desktop(password=screen.PASSWORD, connect_timeout=screen.PATIENCE) as desktop:
        Screen(desktop).whole()
    snapshot = box.checkpoint(checkpoint_type=CheckpointType.MEMORY).snapshot_id
    kit.close()
    return snapshot


@pytest.fixture
def box(sdk, ready):
    return sdk.create(snapshot_id=ready)


@pytest.fixture
def desk(box):
    """A connection whose desktop is all there."""
    with box.connect_desktop(password=screen.PASSWORD, connect_timeout=screen.PATIENCE) as desktop:
        desk = Screen(desktop)
        desk.whole()
        yield desk


def test_what_comes_up(sdk):
    box = sdk.create(image=screen.IMAGE)
    with box.connect_desktop(password=screen.PASSWORD, connect_timeout=screen.PATIENCE) as desktop:
        picture = Screen(desktop).whole()
        assert (desktop.width, desktop.height) == picture.size == screen.SIZE
    keep("start", picture.png)
    assert picture.colours() > 150
    # The same user, home and tools as in the minimal image.
    shown = box.run("sh", args=["-c", "id -un; pwd; echo $DISPLAY; sudo id -un; python3 -c 'print(1 + 1)'; git --version"])
    assert shown.stdout.splitlines()[:5] == ["tl-user", "/home/tl-user", ":1", "root", "2"], shown
    # Nobody but this sandbox reaches the port.
    listening = box.run("python3", args=["-c", LISTENERS]).stdout.split()
    loopbacks = {"0100007F:170D", "00000000000000000000000001000000:170D"}
    assert "0100007F:170D" in listening and set(listening) <= loopbacks, listening


# Who listens on 5901 (0x170D), over IPv4 and IPv6.
LISTENERS = """
for name in ("tcp", "tcp6"):
    for line in open("/proc/net/" + name).readlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[1].endswith(":170D"):
            print(words[1])
"""


def test_the_menu_opens_under_the_mouse(desk):
    before = desk.picture()
    desk.desktop.click(*screen.MENU_BUTTON)
    menu = desk.wait_change(before, screen.MENU, 0.5, "the open menu")
    keep("menu", menu.png)
    desk.desktop.press("escape")
    desk.wait(lambda now: now.changed(before, screen.MENU) < 0.02, "the closed menu")


def test_a_double_click_opens_the_file_manager(desk):
    before = desk.picture()
    desk.desktop.double_click(*screen.HOME_ICON)
    files = desk.wait_change(before, screen.NOT_DOCK, 0.2, "the file manager's window")
    keep("files", files.png)


def test_typing_in_the_terminal(box, desk):
    before = desk.picture()
    desk.desktop.click(*screen.TERMINAL_BUTTON)
    desk.wait_change(before, screen.NOT_DOCK, 0.2, "the terminal's window")
    until(lambda: "Terminal" in active_window(box), screen.PATIENCE, "the terminal's focus")
    desk.desktop.type_text('echo "Typed: $((6*7)) {}~" | tee typed.txt\n')
    until(lambda: typed(box) == "Typed: 42 {}~", screen.PATIENCE, "what was typed")
    desk.desktop.move_mouse(900, 600)
    keep("terminal", desk.picture().png)
    desk.desktop.press(["ctrl", "d"])
    desk.wait(lambda now: now.changed(before, screen.NOT_DOCK) < 0.05, "the terminal's end")


def active_window(box) -> str:
    return box.run("xdotool", args=["getactivewindow", "getwindowname"]).stdout


def typed(box) -> str:
    return box.run("cat", args=["typed.txt"]).stdout


def test_the_browser_shows_a_page(box, desk):
    box.write_file("/tmp/www/index.html", PAGE.encode())
    box.start_process("python3", args=["-m", "http.server", "--directory", "/tmp/www", "8000"])
    until(lambda: box.run("curl", args=["-sf", "http://127.0.0.1:8000/"]).exit_code == 0, what="the page's server")
    desk.desktop.click(*screen.BROWSER_BUTTON)
    until(lambda: "hromium" in active_window(box), screen.PATIENCE, "the browser's window")
    # The way a user goes: the address bar.
    desk.desktop.press(["ctrl", "l"])
    desk.desktop.type_text("127.0.0.1:8000\n")
    shown = desk.wait(lambda now: now.share(near(PAGE_COLOUR)) > 0.3, "the page")
    keep("browser", shown.png)
    # What runs the page is confined by the browser's own sandbox, as on any machine.
    modes = box.run("sh", args=["-c", "for p in $(pgrep -f type=[r]enderer); do grep ^Seccomp: /proc/$p/status; done"])
    assert set(modes.stdout.split()) == {"Seccomp:", "2"}, modes


def test_what_dies_is_started_again(box, desk):
    before = processes(box)
    for victim in ("xfce4-session", "Xtigervnc"):
        assert box.run("pkill", args=["-KILL", "-x", victim]).exit_code == 0
        after = until(lambda: again(box, before, victim), screen.PATIENCE, f"another {victim}", longest_pause=1)  # noqa: B023
        with box.connect_desktop(password=screen.PASSWORD, connect_timeout=screen.PATIENCE) as desktop:
            Screen(desktop).whole()
        before = after


def again(box, before: dict[str, str], victim: str) -> dict[str, str] | None:
    now = processes(box)
    return now if now.get(victim) not in (None, before[victim]) else None


def processes(box) -> dict[str, str]:
    """The ids by name."""
    lines = box.run("ps", args=["-eo", "comm=,pid="]).stdout.splitlines()
    return dict(line.split() for line in lines if len(line.split()) == 2)


def test_a_wrong_password_is_refused_each_time(box, desk):
    # More often than the server's black list would stand.
    for _ in range(7):
        with pytest.raises(SandboxError):
            box.connect_desktop(password="wrong")
    assert desk.picture().size == screen.SIZE
    with box.connect_desktop(password=screen.PASSWORD) as second:
        assert second.width == screen.SIZE[0]


def test_another_entrypoint_replaces_the_desktop(sdk):
    box = sdk.create(image=screen.IMAGE, entrypoint=["sleep", "infinity"])
    names = processes(box)
    assert "sleep" in names and "Xtigervnc" not in names, names
    with pytest.raises(SandboxError):
        box.connect_desktop(password=screen.PASSWORD, connect_timeout=2)


def test_another_size(sdk):
    box = sdk.create(image=screen.IMAGE, entrypoint=["start-desktop", "1024x768"])
    with box.connect_desktop(password=screen.PASSWORD, connect_timeout=screen.PATIENCE) as desktop:
        assert (desktop.width, desktop.height) == (1024, 768)


def test_beside_the_asynchronous_sdk(server):
    """AsyncSandbox has no desktop of its own; both kinds of handle serve one sandbox at once."""
    where = {"api_url": server.api, "api_key": server.key}

    def look(sandbox: str) -> bytes:
        box = Sandbox.connect(sandbox, **where)
        with box.connect_desktop(password=screen.PASSWORD, connect_timeout=screen.PATIENCE) as desktop:
            return Screen(desktop).whole().png

    async def main():
        async with await AsyncSandbox.create(image=screen.IMAGE, **where) as box:
            looking = asyncio.create_task(asyncio.to_thread(look, box.sandbox_id))
            while not looking.done():
                assert (await box.run("echo", args=["beside"])).stdout == "beside"
            return await looking

    keep("async", asyncio.run(main()))
