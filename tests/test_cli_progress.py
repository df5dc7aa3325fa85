"""Off a terminal training tells where it stands once a minute."""

from arbench.machine.progress import progress_lines


def test_a_line_a_minute_with_the_loss_or_the_speed(capsys):
    now = [0.0]
    tell = progress_lines("mar-digits", 100, clock=lambda: now[0])
    for step in range(1, 7):
        now[0] = 20.0 * step
        tell(10 * step, {"loss": 1 / step})
    assert capsys.readouterr().err.splitlines() == [
        "mar-digits: 30 of 100, loss 0.3333, 4 min left",
        "mar-digits: 60 of 100, loss 0.1667, 2 min left",
    ]
    encode = progress_lines("encode", 900, clock=lambda: now[0])
    encode(0, {})
    now[0] += 60
    encode(300, {})
    assert capsys.readouterr().err == "encode: 300 of 900, 5.0 images/s, 2 min left\n"
