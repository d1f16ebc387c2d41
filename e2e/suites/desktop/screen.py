"""Looks at the desktop of a sandbox until it shows something, and keeps what it saw."""

from collections.abc import Callable

from harness import env
from harness.picture import Box, Picture
from harness.wait import until

IMAGE = "tensorlake/ubuntu-vnc"
PASSWORD = "tensorlake"
SIZE = (1280, 800)
# On a loaded machine a program takes a while to draw its first window.
PATIENCE = 60
# Where things are on the desktop as it comes.
MENU_BUTTON = (50, 14)
MENU = (0, 30, 250, 300)
HOME_ICON = (70, 200)
TERMINAL_BUTTON = (592, 776)
BROWSER_BUTTON = (688, 776)
DOCK = (520, 752, 760, 798)
NOT_DOCK = (0, 30, 1280, 750)


class Screen:
    """One connection of an SDK; `desktop.screenshot` is what every SDK has."""

    def __init__(self, desktop) -> None:
        self.desktop = desktop

    def picture(self) -> Picture:
        return Picture(self.desktop.screenshot(timeout=20))

    def wait(self, shows: Callable[[Picture], bool], what: str) -> Picture:
        """Returns the first picture that shows it; the last one seen is kept when none does."""
        last = None

        def look():
            nonlocal last
            last = self.picture()
            return last if shows(last) else None

        try:
            return until(look, PATIENCE, what, longest_pause=1)
        except AssertionError:
            if last is not None:
                keep("failed", last.png)
            raise

    def whole(self) -> Picture:
        """The desktop with its panels and icons, and nothing else."""
        return self.wait(is_whole, "the whole desktop")

    def wait_change(self, before: Picture, box: Box, least: float, what: str) -> Picture:
        """Waits until a part of a box differs from an earlier picture."""
        return self.wait(lambda now: now.changed(before, box) >= least, what)


def is_whole(picture: Picture) -> bool:
    """Panel above, dock below, the icons on the left: each is many colours where else are few."""
    return (
        picture.size == SIZE
        and picture.share(lambda c: max(c) < 60, (400, 2, 900, 26)) > 0.9
        and picture.colours(DOCK) > 40
        and picture.colours((20, 40, 120, 240)) > 80
    )


def keep(name: str, png: bytes) -> None:
    """Puts a picture beside the logs, for people to look at."""
    env.LOGS.mkdir(parents=True, exist_ok=True)
    (env.LOGS / f"desktop-{name}.png").write_bytes(png)
