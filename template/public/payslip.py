"""The payslip of a hotkey in a window: facts in, statements out. Pure."""

from template.public.miner_slip import miner_slip
from template.public.statements import Commands, Payslip
from template.public.validator_slip import validator_slip
from template.public.view import RunView


def payslip(view: RunView, hotkey: str, window: int, commands: Commands) -> Payslip:
    """The payslip; KeyError for a window that the facts do not have.

    A hotkey that acts as a validator, and has no payload in the window, gets a validator's.
    """
    of_window = view.window(window)
    if of_window.committed_uid(hotkey) is None and hotkey in view.validators:
        return validator_slip(of_window, hotkey, commands)
    return miner_slip(of_window, hotkey, commands)
