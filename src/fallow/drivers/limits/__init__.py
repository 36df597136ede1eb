"""Holding what a server lends: one control group above everything that is lent, with lowest weights and limits."""
