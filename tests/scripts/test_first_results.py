"""`make train`: four runs on the bundled data, and their table."""


def test_table(launcher, train_here):
    given = ("steps=1", "logger=none", "device=cpu", f"runs={launcher.runs}")
    done = launcher.call(*given, program="scripts/first_results.py")
    assert done.returncode == 0, done.stderr
    head, *rows = (line.split() for line in done.stdout.splitlines()[-5:])
    assert head == ["data", "set", "main", "network", "hypernetwork", "parameters", "test"]
    assert [row[:3] for row in rows] == [
        ["cifar10_sample", "wrn_16_1", "none"],
        ["cifar10_sample", "wrn_16_1", "static"],
        ["shakespeare", "layer_norm_lstm_128", "none"],
        ["shakespeare", "layer_norm_lstm_128", "hyperlstm"],
    ]
    parameters = [int(row[3].replace(",", "")) for row in rows]
    assert parameters[0] > parameters[1] and parameters[2] < parameters[3]
    assert all(0 < float(row[4]) < 100 for row in rows)
