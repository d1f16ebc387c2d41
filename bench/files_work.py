"""What agents do with files, done once each in a fresh directory: files_work.py MATERIAL DIRECTORY

Runs with what the stock image has, inside a sandbox and outside alike. Prints a line of JSON for each
piece of work: its name and its milliseconds. What has to lie ready is made beforehand, untimed.
"""

import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time

FILES = 20_000
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}


def main() -> None:
    material, place = (pathlib.Path(argument) for argument in sys.argv[1:])
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    os.environ.update(HOME=str(place), PATH=f"{material}/node/bin:/usr/local/bin:/usr/bin:/bin", LANG="C.UTF-8")
    os.environ.update(GIT_CONFIG_GLOBAL="/dev/null", GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", TZ="UTC")
    os.environ.update(GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b")
    archive, repository = prepare(material.parent / "ready")
    for name, work in (
        ("git clone, 3,000 files", lambda: run("git", "clone", "-q", "--no-hardlinks", repository, place / "clone")),
        ("git status in it", lambda: run("git", "-C", place / "clone", "status", "--short")),
        ("pip install from wheels", lambda: pip(material, place)),
        ("npm ci from its cache", lambda: npm(material, place)),
        ("untar of 20,000 files", lambda: run("tar", "-xf", archive, "-C", place)),
        ("reading those 20,000", lambda: read(place / "tree")),
        ("20,000 reads of one open file", lambda: calls(archive)),
        ("removing those 20,000", lambda: shutil.rmtree(place / "tree")),
        ("SQLite, 1,000 rows at once", lambda: rows(place / "one.db", 1000, together=True)),
        ("SQLite, 100 commits", lambda: rows(place / "many.db", 100, together=False)),
        ("Python start with imports × 5", lambda: starts(5)),
        ("writing 256 MiB", lambda: write(place / "large")),
    ):
        began = time.perf_counter()
        work()
        print(json.dumps([name, (time.perf_counter() - began) * 1e3]), flush=True)
    shutil.rmtree(place)


def run(*words) -> None:
    subprocess.run([str(word) for word in words], check=True, **QUIET)


def prepare(ready: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The archive and the repository; made at the first time."""
    archive, repository = ready / "tree.tar", ready / "repository"
    if not archive.exists():
        shutil.rmtree(ready, ignore_errors=True)
        grow(ready / "tree", FILES)
        grow(repository, 3000)
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
            run("git", "-C", repository, *words)
        with tarfile.open(ready / "draft.tar", "w") as file:
            file.add(ready / "tree", "tree")
        shutil.rmtree(ready / "tree")
        (ready / "draft.tar").rename(archive)
    return archive, repository


def grow(top: pathlib.Path, count: int) -> None:
    """A tree like that of a program's sources: 50 files a directory, most of them small."""
    for number in range(count):
        directory = top / f"part{number // 500}" / f"module{number // 50}"
        if number % 50 == 0:
            directory.mkdir(parents=True)
        (directory / f"file{number}.txt").write_text(f"line of file {number}\n" * (1 + number * 7919 % 200))


def pip(material: pathlib.Path, place: pathlib.Path) -> None:
    options = ["--quiet", "--no-index", "--disable-pip-version-check", "--root-user-action=ignore", "--no-cache-dir"]
    wheels = sorted((material / "wheels").iterdir())
    run("python3", "-m", "pip", "install", *options, "--target", place / "site", *wheels)


def npm(material: pathlib.Path, place: pathlib.Path) -> None:
    project = place / "project"
    project.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(material / "project" / name, project)
    program = material / "node/lib/node_modules/npm/bin/npm-cli.js"
    options = ["--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--cache", material / "npm-cache"]
    run("node", program, "ci", "--prefix", project, *options)


def read(top: pathlib.Path) -> None:
    count = 0
    for directory, _, names in os.walk(top):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                file.read()
            count += 1
    assert count == FILES, count


def calls(path: pathlib.Path) -> None:
    """What a system call costs by itself: the file is open, and what is read of it is in memory."""
    with path.open("rb") as file:
        for _ in range(FILES):
            os.pread(file.fileno(), 4096, 0)


def rows(path: pathlib.Path, count: int, together: bool) -> None:
    database = sqlite3.connect(path)
    database.execute("create table t (a integer primary key, b text)")
    for number in range(count):
        database.execute("insert into t values (?, ?)", (number, "x" * 100))
        if not together:
            database.commit()
    database.commit()
    assert database.execute("select count(*) from t").fetchone() == (count,)
    database.close()


def starts(count: int) -> None:
    for _ in range(count):
        run("python3", "-c", "import asyncio, email, http.client, json, logging, ssl, sqlite3, unittest, urllib.request")


def write(path: pathlib.Path) -> None:
    block = b"x" * (1 << 20)
    with path.open("wb") as file:
        for _ in range(256):
            file.write(block)
        os.fsync(file.fileno())


main()
