"""Does a run keep learning? Hundreds of windows with refusals, noise and the neurons' preview."""
