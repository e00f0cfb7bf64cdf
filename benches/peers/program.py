"""What both comparisons share: the candor program, and how a result is written."""

import json
import statistics
import subprocess


def candor(program, *arguments):
    """Runs the program and gives the JSON document that it prints."""
    command = [program, *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def ratio(ours, theirs):
    """How many times faster candor is, paired by round: median, lowest, highest."""
    ratios = [theirs / ours for ours, theirs in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
