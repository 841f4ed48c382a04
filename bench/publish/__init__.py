"""From committed records to a release that a sceptic can check.

`checking.check` looks for what is wrong, `rerun` trains one record again, `release.release` writes
the folder.  What cannot be checked is said, never passed over.
"""
