"""Terminals, by both SDKs."""

import asyncio
import threading

import pytest
from harness.wait import until
from tensorlake.sandbox import AsyncSandbox
from tensorlake.sandbox.exceptions import SandboxError


class Screen:
    """Collects what a terminal shows."""

    def __init__(self):
        self.data, self.exits, self.lock = b"", [], threading.Lock()

    def on_data(self, data):
        with self.lock:
            self.data += data

    def shows(self, text):
        until(lambda: text.encode() in self.data, what=f"{text!r} on the screen")


def open_pty(box, command, args=None, **fields):
    screen = Screen()
    pty = box.create_pty(command, args, on_data=screen.on_data, on_exit=screen.exits.append, **fields)
    return pty, screen


def test_a_session(box):
    pty, screen = open_pty(box, "bash", ["--norc"], env={"PS1": "> "}, rows=30, cols=90, working_dir="/tmp")
    screen.shows("> ")
    pty.send_input("stty size; pwd; echo a$((40+2))\n")
    screen.shows("a42\r\n")
    assert b"30 90\r\n/tmp\r\n" in screen.data
    pty.resize(120, 40)
    pty.send_input("stty size\n")
    screen.shows("40 120\r\n")
    pty.send_input("exit 7\n")
    assert pty.wait(timeout=30) == 7
    assert screen.exits == [7]


def test_a_signal_is_128_and_more(box):
    pty, _ = open_pty(box, "bash", ["-c", "kill -9 $$"])
    assert pty.wait(timeout=30) == 137


def test_detach_and_attach_again(box):
    pty, screen = open_pty(box, "bash", ["-c", "echo one; read line; echo got $line"])
    screen.shows("one\r\n")
    pty.disconnect()
    again = Screen()
    second = box.connect_pty(pty.session_id, pty.token, on_data=again.on_data)
    again.shows("one\r\n")
    second.send_input("x\n")
    assert second.wait(timeout=30) == 0
    assert b"got x\r\n" in again.data


def test_the_last_words_before_a_detach_arrive(box):
    pty, screen = open_pty(box, "bash", ["-c", "echo on; read line; echo got $line; read line"])
    screen.shows("on\r\n")
    pty.send_input("x\n")
    pty.disconnect()
    again = Screen()
    second = box.connect_pty(pty.session_id, pty.token, on_data=again.on_data)
    again.shows("got x\r\n")
    second.send_input("\n")
    assert second.wait(timeout=30) == 0


def test_a_long_silence(box):
    # The blocking client ends when nothing has come for 10 s, be it only a ping.
    pty, screen = open_pty(box, "bash", ["-c", "echo on; sleep 12; exit 4"])
    screen.shows("on\r\n")
    assert pty.wait(timeout=60) == 4
    assert screen.exits == [4]


def test_kill(box):
    pty, screen = open_pty(box, "bash", ["-c", "echo on; sleep 600"])
    screen.shows("on\r\n")
    pty.kill()
    # The blocking client does not see the reason of a close.
    with pytest.raises(SandboxError):
        pty.wait(timeout=30)


def test_a_program_that_is_not_there(box):
    with pytest.raises(SandboxError, match="no-such"):
        box.create_pty("no-such-program")


def test_asynchronous(server, box):
    async def session():
        sandbox = await AsyncSandbox.connect(box.sandbox_id, api_url=server.api, api_key=server.key)
        seen = []
        pty = await sandbox.create_pty("bash", ["-c", "read line; echo got $line; exit 3"], on_data=seen.append)
        await pty.send_input("hello\n")
        assert await pty.wait(timeout=30) == 3
        assert b"got hello\r\n" in b"".join(seen)
        pty = await sandbox.create_pty("sleep", ["600"])
        await pty.kill()
        # Its WebSocket library tells the reason of a close only in newer versions.
        with pytest.raises(SandboxError):
            await pty.wait(timeout=30)

    asyncio.run(session())
