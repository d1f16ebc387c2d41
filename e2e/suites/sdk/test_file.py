"""Files through the API: bytes in, the same bytes out."""

import os

import pytest
from harness.sdk import value
from tensorlake.sandbox import RemoteAPIError


def refused(call, *arguments):
    with pytest.raises(RemoteAPIError) as error:
        call(*arguments)
    return error.value.status_code, error.value.message


@pytest.mark.parametrize("size", [0, 1, 1_000_000, 20_000_000])
def test_bytes_come_back(box, size):
    content = os.urandom(size)
    box.write_file("/tmp/a b.txt", content)
    assert value(box.read_file("/tmp/a b.txt")) == content
    assert box.run("stat", args=["-c", "%s %U", "/tmp/a b.txt"]).stdout == f"{size} tl-user"


@pytest.mark.parametrize("name", ["plain", "a b", "ümläut", "50%", "a+b&c=d", "q?x#y", "'\"$(id)"])
def test_any_name(box, name):
    path = f"/tmp/names/{name}"
    box.write_file(path, name.encode())
    assert value(box.read_file(path)) == name.encode()
    assert name in [e.name for e in box.list_directory("/tmp/names").entries]
    box.delete_file(path)
    assert refused(box.read_file, path)[0] == 404


def test_parents_are_made_and_a_relative_path_is_in_the_home(box):
    box.write_file("deep/er/file", b"x")
    assert value(box.read_file("/home/tl-user/deep/er/file")) == b"x"


def test_an_existing_file_keeps_mode_and_owner(box):
    box.run("sh", args=["-c", "echo old > /tmp/tool && chmod 750 /tmp/tool"])
    box.write_file("/tmp/tool", b"new")
    assert box.run("stat", args=["-c", "%a %U", "/tmp/tool"]).stdout == "750 tl-user"


def test_listing(box):
    box.run("sh", args=["-c", "rm -rf /tmp/l; mkdir -p /tmp/l/z /tmp/l/b; printf 123 > /tmp/l/a; : > /tmp/l/c"])
    listing = value(box.list_directory("/tmp/l"))
    assert listing.path == "/tmp/l"
    found = [(e.name, e.is_dir, e.size) for e in listing.entries]
    assert found == [("b", True, None), ("z", True, None), ("a", False, 3), ("c", False, 0)]
    assert all(e.modified_at for e in listing.entries)


def test_what_cannot_be(box):
    assert refused(box.read_file, "/no/such")[0] == 404
    assert refused(box.delete_file, "/no/such")[0] == 404
    assert refused(box.list_directory, "/no/such")[0] == 404
    for call, path, code in [
        (box.read_file, "/tmp", "IS_DIRECTORY"),
        (box.delete_file, "/tmp", "IS_DIRECTORY"),
        (box.list_directory, "/etc/passwd", "NOT_A_DIRECTORY"),
    ]:
        status, text = refused(call, path)
        assert status == 400 and code in text, text


def test_the_file_api_is_not_root(box):
    status, text = refused(box.write_file, "/etc/passwd", b"root::0:0::/:/bin/sh\n")
    assert status == 500 and "INTERNAL_ERROR" in text and "ermission" in text
    assert refused(box.read_file, "/etc/shadow")[0] != 200
    assert box.run("head", args=["-n1", "/etc/passwd"]).stdout.startswith("root:x:")


def test_upload_streams_from_a_local_file(box, tmp_path):
    local = tmp_path / "up"
    local.write_bytes(os.urandom(3_000_000))
    box.upload_file(local, "/tmp/up")
    assert value(box.read_file("/tmp/up")) == local.read_bytes()
