"""What the chain pays: weights by validator, incentive and emission. Pure."""

from template.public.facts import SubnetFacts
from template.public.statements import RAO, Commands, Figure, Statement, percent
from template.public.view import WindowView

BLOCKS_PER_DAY = 7200
"""At twelve seconds a block, as on finney."""


def weights_statement(
    view: WindowView, hotkey: str, uid: int | None, commands: Commands
) -> Statement | None:
    """A hotkey's weight by each validator, as on chain now; None if its uid is another's now."""
    if uid is None or not view.run.holds(hotkey, uid):
        return None
    subnet = view.run.facts.subnet
    sources = (f"weights of subnet {view.run.facts.netuid} on chain after block {subnet.block}",)
    command = commands.btcli("weights")
    if subnet.weights_fault:
        words = f"Weights on chain could not be read: {subnet.weights_fault}."
        return Statement(topic="weights", words=words, sources=sources, command=command)
    rows = [row for row in view.rows(uid, hotkey) if row.weight is not None]
    if not rows:
        words = f"No validator has weights on chain after block {subnet.block}."
        return Statement(topic="weights", words=words, sources=sources, command=command)
    words = f"On chain after block {subnet.block}: " + ", ".join(
        f"uid {row.uid} {percent(row.weight or 0.0)}" for row in rows
    )
    stake = sum(row.stake_share for row in rows)
    mean = sum(row.stake_share * (row.weight or 0.0) for row in rows) / stake if stake else 0.0
    return Statement(
        topic="weights",
        words=f"{words}; weighted by stake {percent(mean)}.{reveal_words(subnet)}",
        figures=(
            *(Figure(f"weight/{row.uid}", row.weight) for row in rows),
            Figure("mean_weight", mean),
            *reveal_figures(subnet),
        ),
        sources=sources,
        rule="Each validator sets the shares of its newest log as weights, once per tempo; with "
        "commit-reveal the chain shows and counts them whole epochs later. Weights are of now, not "
        "of the window.",
        where="template/base/weight_setter.py",
        command=command,
    )


def reveal_figures(subnet: SubnetFacts) -> tuple[Figure, ...]:
    """The reveal period, 0 with weights in the clear; none where the chain does not say."""
    times = subnet.weight_times
    return () if times is None else (Figure("reveal_epochs", times.reveal_epochs, "epochs"),)


def reveal_words(subnet: SubnetFacts) -> str:
    """How much later a row counts on a subnet with commit-reveal; "" on any other."""
    times = subnet.weight_times
    if times is None or times.reveal_epochs == 0:
        return ""
    epochs = f"{times.reveal_epochs} epoch{'s' * (times.reveal_epochs > 1)}"
    return (
        f" The subnet has commit-reveal on: a row is seen and counts {epochs} "
        f"({times.lag_blocks(subnet.tempo_blocks)} blocks) after its validator set it, so these "
        "rows say what validators knew then."
    )


def emission(
    view: WindowView, hotkey: str, uid: int | None, commands: Commands
) -> Statement | None:
    """Incentive, dividends and emission of the last epoch, in alpha and TAO.

    None if the hotkey has another uid than the window's by now, or none.
    """
    subnet = view.run.facts.subnet
    neuron = subnet.neurons.get(hotkey)
    if neuron is None or neuron.uid != uid:
        return None
    alpha = neuron.emission_rao / RAO
    price = subnet.price_tao
    words = (
        f"Last epoch before block {subnet.block}: incentive {percent(neuron.incentive)}, "
        f"dividends {percent(neuron.dividends)}, emission {alpha:.6f} alpha per tempo of "
        f"{subnet.tempo_blocks} blocks"
    )
    figures = [
        Figure("incentive", neuron.incentive),
        Figure("dividends", neuron.dividends),
        Figure("emission_alpha", alpha, "alpha/tempo"),
        Figure("emission_rao", neuron.emission_rao, "rao/tempo"),
        Figure("price_tao", price, "TAO/alpha"),
    ]
    if price is None:
        words += "; the chain names no price of alpha."
    else:
        epochs = BLOCKS_PER_DAY / (subnet.tempo_blocks + 1)
        words += (
            f", {alpha * price:.6f} TAO at {price:.6f} TAO per alpha; "
            f"{alpha * price * epochs:.4f} TAO in a day of {BLOCKS_PER_DAY} blocks at this rate."
        )
        figures += [
            Figure("emission_tao", alpha * price, "TAO/tempo"),
            Figure("emission_tao_per_day", alpha * price * epochs, "TAO/day"),
        ]
    if neuron.uid == subnet.owner_uid:
        words += " This uid is the owner's: the chain burns its incentive."
    return Statement(
        topic="emission",
        words=words,
        figures=tuple(figures),
        sources=(commands.metagraph_at(subnet.block),),
        rule="The chain's Yuma consensus turns all validators' weights into incentive, once per "
        "tempo; emission is the epoch's pay in the subnet's alpha. TAO: alpha times the price in "
        "the subnet's pool, before fees and slippage.",
        where="the chain",
        command=commands.btcli("metagraph"),
    )
