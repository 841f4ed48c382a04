"""Leaderboards from records: statistics, tables, CSV and Markdown.

This package sees records and nothing else of the project: it never trains, never imports torch,
and is pure, so a leaderboard can be rebuilt at any time and comes out byte for byte the same.
Import its modules directly (`from bench.report.leaderboard import write`): pandas is loaded only
then.
"""
