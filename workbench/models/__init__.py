"""Trained models: their store, imports of published ones, recommending.

May import everything but what is built on it: baselines, studies, bench, anatomy, explore and the command line.
"""
