"""The curve of pay over work: what machines of a tenth to four times the usual work are paid.

`python -m benchmarks.pay` plays the swarm of the attack suite with the localnet's model, and real
neurons in one process, both on real text; a localnet's report can be added. The unit of both axes
is one honest machine that makes all inner steps of usual batches in every window.

    curve      machines of a share of the inner steps, of wide steps, and of a part of the model
    noise      how much the pay of equal machines varies, from window to window and from day to day
    splitting  one machine as one, two and four hotkeys, beside four other machines

Not in it: what dishonest miners are paid (`benchmarks.attacks`), how machines of unequal pace
learn (`benchmarks.pace`), and emission, which follows the weights with the chain's own delays.
"""
