"""Who a process is, and what cannot start, in a shell's words."""

import json

import pytest

from . import inside

SCRIPT = """
import grp, json, os
names = ("HOME", "USER", "LOGNAME", "SHELL", "PATH")
print(json.dumps([os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.getcwd(), {n: os.environ.get(n) for n in names}]))
"""


def who(server, sandbox, **fields):
    """Ids, directory and environment of a process."""
    body = {"command": "python3", "args": ["-c", SCRIPT], **fields}
    started = inside.start(server, sandbox, **body_args(body))
    inside.wait_end(server, sandbox, started["pid"])
    return json.loads(inside.lines(server, sandbox, started["pid"])[0])


def body_args(body):
    return {"command": body.pop("command"), **body}


@pytest.fixture(scope="module")
def people(server):
    """A sandbox with more accounts."""
    made = server.create()
    script = """
set -e
echo 'ann:x:2001:2002:Ann:/home/ann:/bin/bash' >> /etc/passwd
echo 'bare:x:2003:2003:::' >> /etc/passwd
printf 'ann:x:2002:\\ncrew:x:2010:bob,ann\\nstaff2:x:2011:ann\\n' >> /etc/group
"""
    result = server.run(made, script, user="root")
    assert result.status == 0, result
    yield made
    server.delete(made)


USERS = [
    ("ann", (2001, 2002, [2002, 2010, 2011], "ann", "/home/ann", "/bin/bash")),
    ("2001", (2001, 2002, [2002, 2010, 2011], "ann", "/home/ann", "/bin/bash")),
    ("2001:2010", (2001, 2010, [2010], "ann", "/home/ann", "/bin/bash")),
    ("ann:crew", (2001, 2010, [2010], "ann", "/home/ann", "/bin/bash")),
    ({"name": "ann"}, (2001, 2002, [2002, 2010, 2011], "ann", "/home/ann", "/bin/bash")),
    ({"uid": 2001}, (2001, 2002, [2002, 2010, 2011], "ann", "/home/ann", "/bin/bash")),
    ({"uid": 4242, "gid": 4343}, (4242, 4343, [4343], "4242", "/", "/bin/sh")),
    ("4242", (4242, 0, [0], "4242", "/", "/bin/sh")),
    ("bare", (2003, 2003, [2003], "bare", "/", "/bin/sh")),
    ("root", (0, 0, [0], "root", "/root", "/bin/bash")),
]


@pytest.mark.parametrize(("user", "expected"), USERS, ids=[json.dumps(u) for u, _ in USERS])
def test_identity_is_that_of_a_login(server, people, user, expected):
    uid, gid, groups, name, home, shell = expected
    uids, gids, found, _, environment = who(server, people, user=user, working_dir="/")
    assert (uids, gids, found) == ([uid] * 3, [gid] * 3, groups)
    assert (environment["USER"], environment["LOGNAME"]) == (name, name)
    assert (environment["HOME"], environment["SHELL"]) == (home, shell)
    assert "/usr/bin" in environment["PATH"].split(":")


def test_the_default_is_the_images_user(server, people):
    uids, _, groups, directory, environment = who(server, people)
    assert uids == [1000] * 3 and 1000 in groups and 27 in groups
    assert (environment["USER"], environment["HOME"], directory) == ("tl-user", "/home/tl-user", "/home/tl-user")


FAILURES = [
    ({"command": "no-such"}, "no-such: command not found"),
    ({"command": "./no-such"}, "./no-such: No such file or directory"),
    ({"command": "/etc/passwd"}, "/etc/passwd: Permission denied"),
    ({"command": "/"}, "/: Permission denied"),
    ({"command": "true", "working_dir": "/no/such"}, "cannot enter directory '/no/such': No such file or directory"),
    ({"command": "true", "working_dir": "/root"}, "cannot enter directory '/root': Permission denied"),
    ({"command": "true", "working_dir": "/etc/passwd"}, "cannot enter directory '/etc/passwd': Not a directory"),
    ({"command": "true", "user": "nobody-here"}, "unknown user 'nobody-here': it is not in /etc/passwd"),
    ({"command": "true", "user": "root:no-group"}, "unknown group 'no-group': it is not in /etc/group"),
]


@pytest.mark.parametrize("managed", [{}, {"name": "job"}], ids=["plain", "managed"])
@pytest.mark.parametrize(("fields", "text"), FAILURES, ids=[t for _, t in FAILURES])
def test_what_cannot_start_is_told_in_a_shells_words(server, people, fields, text, managed):
    reply = server.sandbox_call(people, "POST", inside.PROCESSES, {**fields, **managed})
    assert (reply.status, reply.code, reply.json()["error"]) == (400, "PROCESS_START_FAILED", text)
    assert server.sandbox_call(people, "GET", inside.path("job")).status == 404
