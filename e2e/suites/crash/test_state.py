"""kill -9 of the server in the middle of suspends, resumes, snapshots, restores and copies: what was
answered is so, what was not is whole or gone, and nothing of it stays on the host."""

import collections
import threading

import pytest
from conftest import maker
from harness import env
from suites.crash.scene import SERVER, SETTLE, Scene, at_rest, fill_slots, more, none, settle
from suites.crash.verbs import COLD_VERBS, VERBS, Suspend
from suites.state import box

SECONDS = 50
# In small: in the middle, and at the answer.
KILLS = env.scale(2, 25)


def kill_in_the_middle(scene: Scene, verb: type[Suspend], delay: float) -> tuple[str, bool]:
    """One kill, a time after the verb was asked for or at its answer; what became of it, and whether it was told."""
    one = verb(scene)
    scene.witness.work()
    one.prepare()
    answered = threading.Event()

    def ask():
        one.ask()
        answered.set()

    asking = threading.Thread(target=ask)
    asking.start()
    answered.wait(delay)
    scene.server.kill()
    asking.join()
    assert not one.refused(), one.told
    scene.server.start()
    settle(scene.server)
    outcome = one.check()
    scene.check_kept()
    scene.clear()
    return outcome, bool(one.told)


def killed_all_along(scene: Scene, baseline, what: str, verb: type[Suspend]) -> None:
    """Kills over the whole of a verb's usual time, and at its answer; then the host has what it had."""
    took = scene.usual(verb)
    outcomes: collections.Counter = collections.Counter()
    for n in range(KILLS):
        delay = took * (n + 0.3) / (KILLS - 1) if n < KILLS - 1 else SETTLE
        outcome, told = kill_in_the_middle(scene, verb, delay)
        outcomes[f"{outcome}{', answered' if told else ''}"] += 1
    none(lambda: more(scene.server, baseline), "more on the host than before")
    print(f"{what}: {KILLS} kills within {took * 1000:.0f} ms: {dict(outcomes)}")


@pytest.fixture(scope="module")
def stage(request, names):
    """A scene, with what its server has on the host at rest."""
    with maker(request, names) as make:
        scene = Scene(make(**SERVER))
        # One that was restored has a file more than one that was not.
        box.suspend(scene.server, scene.witness.id)
        scene.server.restart(kill=True)
        scene.witness.check(("suspended",))
        fill_slots(scene.server)
        none(scene.unread, "snapshots that nobody has read yet")
        yield scene, at_rest(scene.server, scene.own())
        scene.end()


@pytest.mark.parametrize("what", VERBS)
def test_killed_in_the_middle(stage, what):
    stage[0].suspend_is("warm")
    killed_all_along(*stage, what, VERBS[what])


@pytest.mark.parametrize("what", COLD_VERBS)
def test_killed_in_the_middle_without_warmth(stage, what):
    stage[0].suspend_is("cold")
    killed_all_along(*stage, f"cold {what}", COLD_VERBS[what])
