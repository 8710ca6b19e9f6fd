"""How machines of unequal pace are used: one run of them in virtual time, and a miner in its lanes.

`python -m benchmarks.pace` trains 8 simulated miners on real text with the learning benchmark's own
workers, codec and outer step. A machine of speed v makes H inner steps of usual batches in 1/v
windows; the lag, the starts, and the way in which a round under way moves to newer parameters are
the protocol's (`race.py`; with equal speeds it is the learning benchmark's contender, bit for bit).
Sections:

    slow 4, slow 10  half of the miners 4 and 10 times slower: a part of the steps every window, or
                     a whole payload every so many windows, moved to newer parameters or not, and
                     what its age should count
    wide, claims     half of the miners 4 times faster, with as much wider batches, by the weight of
                     their payloads; and what a miner changes that claims four times its pages
    parts            some miners train a quarter of the model
    pace             the protocol (`ours`) beside a barrier, which waits for the slowest, and a run
                     that drops whoever is slower than the window: loss, wall time, utilisation, pay

Not in it: what a line takes, what a machine's memory holds, and attackers other than that claimant.
Wall time is counted in windows, and the barrier's exchange of payloads takes none.

`python -m benchmarks.pace.lanes` measures how much of a window a miner trains.
"""
