"""Scoring, pure: gains per sequence, ratings, verdicts, chain weights.

Takes losses and returns numbers; never touches a model, a chain or a bucket. The forward
passes are `template.training.scorer`'s.
"""
