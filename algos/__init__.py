"""Learners, one file each. A file placed here is a learner everywhere: see README, "Adding a learner"."""
