"""A random process tree, run inside a sandbox: python3 tree.py SEED. Says `ready` and stays.

Each process may leave its session, be orphaned by a double fork, shed its environment and its files,
ignore signals, or fork on and on; so some of them have lost every trace of where they came from but
the one that the kernel keeps.
"""

import os
import random
import signal
import sys
import time

SECONDS = 600


def node(random_: random.Random, depth: int) -> None:
    """Becomes one process of the tree, with its children."""
    if random_.random() < 0.4:
        try:
            os.setsid()
        except PermissionError:
            pass  # A leader already.
    if random_.random() < 0.4:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
    if random_.random() < 0.4:
        null = os.open("/dev/null", os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(null, target)
    if depth < 3:
        for _ in range(random_.randint(0, 3 if depth else 4)):
            spawn(random_, depth + 1)
    if depth and random_.random() < 0.3:
        os.execve("/bin/sleep", ["sleep", str(SECONDS)], {} if random_.random() < 0.7 else dict(os.environ))
    if random_.random() < 0.15:
        grow(random_)
    if os.getpgrp() == os.getpid() and depth and random_.random() < 0.3:
        # In a group of its own: one that holds the top would be hung up by the kernel.
        os.kill(os.getpid(), signal.SIGSTOP)
    if depth:
        wait()


def spawn(random_: random.Random, depth: int) -> None:
    """Forks a child, or a grandchild whose parent goes at once."""
    seed, orphan = random_.random(), random_.random() < 0.4
    child = os.fork()
    if child:
        if orphan:
            os.waitpid(child, 0)
        return
    try:
        if orphan and os.fork():
            os._exit(0)
        node(random.Random(seed), depth)
    finally:
        os._exit(0)


def grow(random_: random.Random) -> None:
    """Goes on forking for a while, with or without a look at who is there."""
    if os.fork():
        return
    try:
        if random_.random() < 0.5:
            os.setsid()
        for _ in range(40):
            if not os.fork():
                os.setsid()
                os.execve("/bin/sleep", ["sleep", str(SECONDS)], {})
            time.sleep(0.005)
        wait()
    finally:
        os._exit(0)


def wait() -> None:
    while True:
        time.sleep(SECONDS)


if __name__ == "__main__":
    node(random.Random(int(sys.argv[1])), 0)
    try:
        os.write(1, b"ready\n")
    except OSError:
        pass
    wait()
