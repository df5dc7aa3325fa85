"""A training that is told to stop saves its step and leaves, however often it is told."""

import os
import signal

import pytest
from test_training import TinyTask, tiny_config

from arbench.training import stopping
from arbench.training.checkpoint import find_checkpoint, read_checkpoint_facts
from arbench.training.loop import train
from arbench.training.stopping import ONE_PRESS, deferred_signals, interruptible


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.fixture
def clock(monkeypatch):
    """The seconds that `stopping` reads, in a list."""
    now = [100.0]
    monkeypatch.setattr(stopping, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),  # of a scheduler, and of torchrun that has it too
        (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1),
        (signal.SIGINT, signal.SIGINT),  # of a terminal, and of torchrun
        (signal.SIGINT, signal.SIGTERM),
    ],
)
def test_signals_that_come_again_at_once_save_the_step(tmp_path, clock, numbers):
    def watch(step, logged):
        if step == 6:
            send(*numbers)

    with pytest.raises(KeyboardInterrupt, match="step 6 is saved"):
        train(TinyTask, tiny_config(), tmp_path, watch=watch)
    assert read_checkpoint_facts(find_checkpoint(tmp_path))["step"] == 6


@pytest.mark.parametrize("first", stopping.SIGNALS)
@pytest.mark.parametrize("again", stopping.SIGNALS)
def test_only_a_later_ctrl_c_interrupts_at_once(clock, first, again):
    with deferred_signals() as pressed:
        send(first)
        assert pressed.is_set()
        clock[0] += ONE_PRESS
        if again == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                send(again)
        else:
            send(again)


def test_what_can_be_done_again_is_interrupted_once(clock):
    """Its clearing up is not, but by a user who presses a second time."""
    cleared = []

    def draw():
        try:
            send(signal.SIGTERM)
            pytest.fail("was not interrupted")
        finally:
            send(signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
            cleared.append(True)

    with deferred_signals() as pressed:
        with pytest.raises(KeyboardInterrupt), interruptible(pressed):
            draw()
        assert cleared
        with pytest.raises(KeyboardInterrupt), interruptible(pressed):
            pytest.fail("was begun")
        clock[0] += ONE_PRESS
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_signals_are_others_again_afterwards():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with deferred_signals() as pressed, interruptible(pressed):
        pass
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
