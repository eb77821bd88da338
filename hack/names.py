#!/usr/bin/env python3
"""Prints the names of a page of metrics, or of the fields of a JSON document: names.py PAGE <CONTENT

Of metrics, each line is a name, its type, and the names of its labels. Of JSON, each line is the path of a field
that has a value; `[]` stands for the items of a list, and `[TYPE]` for those that have a type.
"""

import json
import re
import sys


def metrics(text):
    """One line for each name and set of labels. A histogram is one name, without `le`."""
    kinds = {}
    lines = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
            continue
        if not line or line.startswith("#"):
            continue
        name, labels = re.match(r"([^ {]+)(?:\{(.*)\})? ", line).groups()
        labels = re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', labels or "")
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if kinds.get(family) in ("histogram", "summary"):
            name = family
            labels = [label for label in labels if label not in ("le", "quantile")]
        lines.add(" ".join([name, kinds.get(name, "untyped"), ",".join(sorted(labels))]).strip())
    return lines


def fields(value, path=""):
    if isinstance(value, dict):
        return {line for key, item in value.items() for line in fields(item, f"{path}.{key}" if path else key)}
    if isinstance(value, list):
        kind = lambda item: item.get("type", "") if isinstance(item, dict) else ""
        return {line for item in value for line in fields(item, f"{path}[{kind(item)}]")}
    return {path}


content = sys.stdin.read()
page = metrics(content) if sys.argv[1].startswith("metrics") else fields(json.loads(content))
print("\n".join(sorted(page)))
