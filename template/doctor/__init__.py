"""The doctor: checks of a machine and its settings, before a neuron starts or while it runs.

Findings, judgements and the support archive are plain values here; `template.commands.doctor`
asks the wallet, the chain, the bucket, the disk and the device.
"""
