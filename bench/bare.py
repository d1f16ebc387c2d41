"""The bare runtime: the steps that a server has done, by gVisor's own commands, without the server.

Everything is made ready beforehand (root file system mounted, network there), so that what is timed is the runtime's
part alone: from the same image, with the same flags, on the same disk. Pausing and resuming goes over the sandbox's
control socket, as a command costs many times as much; everything else is a command.
"""

import ctypes
import fcntl
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from harness import env, host
from harness.server import Server

FICLONE = 0x40049409
LIMIT = 300
# As many at once as keep both cores busy: more only wait for each other.
AT_ONCE = 4
INSIDE, GATEWAY = "169.254.77.2/30", "169.254.77.1"
LAYER_OPTIONS = "noatime,nodev,noinit_itable,discard"
ROOT_OPTIONS = "redirect_dir=on,index=off,metacopy=off,xino=on"
_LIBC = ctypes.CDLL(None, use_errno=True)


def ask(control: pathlib.Path, method: str) -> None:
    """Calls a method of a sandbox by its control socket."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(LIMIT)
        peer.connect(str(control))
        peer.sendall(json.dumps({"method": f"containerManager.{method}", "arg": None}).encode())
        peer.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: peer.recv(1 << 16), b""))
    if not json.loads(reply)["success"]:
        raise RuntimeError(f"{method}: {reply}")


def clone(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a new file that shares the blocks of another."""
    with source.open("rb") as from_, target.open("xb") as to:
        fcntl.ioctl(to, FICLONE, from_.fileno())


def sync(path: pathlib.Path, whole: bool = False) -> None:
    """Makes a file or a directory durable; `whole`: the file system it is on."""
    file = os.open(path, os.O_RDONLY)
    try:
        if not whole:
            os.fsync(file)
        elif _LIBC.syncfs(file):
            raise OSError(ctypes.get_errno(), f"syncfs {path}")
    finally:
        os.close(file)


def command(*words, **options) -> None:
    """Runs a command to its end. Waits for it without a time limit of `subprocess`, which looks every 50 ms."""
    child = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, **options)
    limit = threading.Timer(LIMIT, child.kill)
    limit.daemon = True
    limit.start()
    try:
        status = child.wait()
    finally:
        limit.cancel()
    if status:
        raise subprocess.CalledProcessError(status, child.args)


class Place:
    """A bundle, a root file system and a network namespace for one sandbox at a time."""

    def __init__(self, bare: "Bare", number: int) -> None:
        # All ids have one length: gVisor takes an id's beginning for the id.
        self.bare, self.id = bare, f"bare{number:04}"
        self.home, self.image = bare.home / self.id, bare.home / self.id / "disk.img"
        self.netns = f"bare-{host.tag_of(bare.server.data)}-{number}"
        self.control = bare.root / f"runsc-{self.id}.sock"
        self.home.mkdir()
        self._mount()
        self._connect(number)
        config = dict(bare.config, root={"path": str(self.home / "root"), "readonly": False})
        spaces = [space for space in config["linux"]["namespaces"] if space["type"] != "network"]
        spaces.append({"type": "network", "path": f"/run/netns/{self.netns}"})
        config["linux"] = {"namespaces": spaces}
        (self.home / "config.json").write_text(json.dumps(config))
        shutil.copy(bare.shape, bare.root / "shape" / self.id)

    def _mount(self) -> None:
        clone(self.bare.capture / "layer.img", self.image)
        layer, root = self.home / "layer", self.home / "root"
        layer.mkdir()
        root.mkdir()
        attach = ["losetup", "--find", "--show", "--direct-io=on", self.image]
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        command("mount", "-t", "ext4", "-o", LAYER_OPTIONS, device, layer)
        # From here on the mount alone keeps it.
        command("losetup", "--detach", device)
        trees = f"lowerdir={self.bare.template},upperdir={layer}/upper,workdir={layer}/work"
        command("mount", "-t", "overlay", "-o", f"noatime,nodev,{ROOT_OPTIONS},{trees}", "overlay", root)

    def _connect(self, number: int) -> None:
        """The other ends of all are in one more namespace: nothing of it shows on the host."""
        command("ip", "netns", "add", self.netns)
        ends = ["netns", self.netns, "type", "veth", "peer", "name", f"p{number}", "netns", self.bare.outside]
        command("ip", "link", "add", "eth0", *ends)
        command("ip", "-n", self.bare.outside, "link", "set", f"p{number}", "up")
        for link in ("lo", "eth0"):
            command("ip", "-n", self.netns, "link", "set", link, "up")
        self._address()

    def _address(self) -> None:
        """gVisor takes the addresses when it starts, so each sandbox needs them anew."""
        command("ip", "-n", self.netns, "addr", "replace", INSIDE, "dev", "eth0")
        command("ip", "-n", self.netns, "route", "replace", "default", "via", GATEWAY)

    def runsc(self, *words) -> None:
        # What is inherited stays with the sandbox for life.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {}, "cwd": "/"}
        log = self.home / "runsc.log"
        try:
            command(self.bare.program, f"--root={self.bare.root}", f"--log={log}", *self.bare.flags, *words, **quiet)
        except subprocess.CalledProcessError as bad:
            raise RuntimeError(f"{bad}: {log.read_text(errors='replace')[-2000:]}") from None

    def boot(self) -> None:
        self.runsc("create", f"--bundle={self.home}", self.id)
        self.runsc("start", self.id)

    def restore(self, image: pathlib.Path) -> None:
        self.runsc("restore", "--detach", f"--bundle={self.home}", f"--image-path={image}", self.id)

    def write_down(self, image: pathlib.Path, *flags: str) -> None:
        """Writes its memory into new files of a directory."""
        image.mkdir()
        self.runsc("checkpoint", f"--image-path={image}", "--compression=none", *flags, self.id)

    def pause(self) -> None:
        ask(self.control, "Pause")

    def resume(self) -> None:
        ask(self.control, "Resume")

    def sync_layer(self) -> None:
        sync(self.home / "layer", whole=True)

    def end(self) -> None:
        """Ends the sandbox, if there is one; the place can be used again."""
        self.runsc("delete", "--force", self.id)
        self._address()

    def remove(self) -> None:
        with_errors = {"timeout": LIMIT, "stderr": subprocess.DEVNULL}
        for mounted in ("root", "layer"):
            subprocess.run(["umount", self.home / mounted], **with_errors)
        subprocess.run(["ip", "netns", "delete", self.netns], **with_errors)


class Bare:
    """Sandboxes like one of a server, from a memory snapshot of it. The first place has one that runs."""

    def __init__(self, server: Server, sandbox: str, snapshot: str) -> None:
        self.server = server
        programs = pathlib.Path(env.ASSETS, "runsc")
        self.program = programs / (programs / "current").read_text().strip() / "runsc"
        self.capture = server.data / "pool/captures" / snapshot
        # The server wrote down which flags it makes images with.
        manifest = json.loads((self.capture / "manifest.json").read_text())
        self.flags = _find(manifest, "flags")
        self.config = json.loads((server.data / "runsc/bundle" / sandbox / "config.json").read_text())
        self.shape = server.data / "runsc/root/shape" / sandbox
        self.template = _lower(server.data / "pool/layers" / sandbox / "root")
        # Images and layers on the disk that the server's are on.
        self.home = server.data / "pool" / "bare"
        self.root = server.data / "bare-root"
        self.outside = f"bare-{host.tag_of(server.data)}-out"
        self.places: list[Place] = []
        self.images = 0

    def __enter__(self) -> "Bare":
        self.home.mkdir()
        (self.root / "shape").mkdir(parents=True)
        try:
            command("ip", "netns", "add", self.outside)
            self.reserve(1)
            self.first.restore(self.capture / "memory")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for place in self.places:
            subprocess.run(
                [self.program, f"--root={self.root}", *self.flags, "delete", "--force", place.id],
                timeout=LIMIT,
                stderr=subprocess.DEVNULL,
            )
            place.remove()
        quiet = {"stderr": subprocess.DEVNULL, "timeout": LIMIT}
        subprocess.run(["ip", "netns", "delete", self.outside], **quiet)
        subprocess.run(["umount", self.root / "null-netns"], **quiet)
        for directory in (self.home, self.root):
            shutil.rmtree(directory)

    @property
    def first(self) -> Place:
        return self.places[0]

    def reserve(self, count: int) -> None:
        """Makes places, so that there are so many."""
        while len(self.places) < count:
            self.places.append(Place(self, len(self.places)))

    def new_image(self) -> pathlib.Path:
        """An empty directory on the disk of images."""
        self.images += 1
        image = self.home / f"image{self.images}"
        image.mkdir()
        return image

    def durable(self, image: pathlib.Path) -> None:
        """Has the disk hold all that was written into a directory."""
        for top, _, names in os.walk(image):
            for path in (*(pathlib.Path(top, name) for name in names), top):
                sync(path)

    def drop(self, image: pathlib.Path) -> None:
        shutil.rmtree(image)

    def restore_all(self, places: list[Place], image: pathlib.Path) -> None:
        """Restores many, as fast as it goes."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda place: place.restore(image), places))


def _find(tree, key: str):
    """The first value of a key, however deep."""
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        tree = list(tree.values())
    for branch in tree if isinstance(tree, list) else ():
        if (found := _find(branch, key)) is not None:
            return found
    return None


def _lower(root: pathlib.Path) -> str:
    """The template below a sandbox's root."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4] == str(root.resolve()):
            options = line.rpartition(" - ")[2].split(" ", 2)[2]
            return next(option[9:] for option in options.split(",") if option.startswith("lowerdir="))
    raise RuntimeError(f"{root} is not mounted")
