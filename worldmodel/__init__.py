"""Learned dynamics, planners, and the learner that plans with them."""
