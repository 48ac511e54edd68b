"""Rows of features and targets: from a user's arrays to the form that engines take."""
