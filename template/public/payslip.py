"""The payslip of a hotkey in a window: facts in, statements out. Pure."""

from template.public.miner_slip import miner_slip
from template.public.statements import Commands, Payslip
from template.public.validator_slip import validator_slip
from template.public.view import RunView


def payslip(view: RunView, hotkey: str, window: int, commands: Commands) -> Payslip:
    """The payslip; KeyError for a window that the facts do not have.

    A hotkey with a permit or a vote, and without a payload in the window, is a validator.
    """
    of_window = view.window(window)
    if of_window.committed_uid(hotkey) is None and _is_validator(view, hotkey, window):
        return validator_slip(of_window, hotkey, commands)
    return miner_slip(of_window, hotkey, commands)


def _is_validator(view: RunView, hotkey: str, window: int) -> bool:
    neuron = view.facts.subnet.neurons.get(hotkey)
    has_permit = neuron is not None and neuron.is_validator
    return has_permit or view.facts.windows[window].vote_of(hotkey) is not None
