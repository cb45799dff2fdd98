#!/usr/bin/env python3
"""Fails if docs/coverage.md names a test that does not exist.

The last column of each table names tests in backticks: `module::test`, a module, a file, or a case of a generated suite
(`faults/*`). Each must be in the sources, as a function, a module, a file, or a part of a string.
"""
import fnmatch
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
skip = {"target", ".git"}
files = [p for p in root.rglob("*") if p.is_file() and not skip & set(p.relative_to(root).parts)]
known = {p.stem for p in files} | {p.name for p in files} | {d for p in files for d in p.relative_to(root).parts}
for p in files:
    if p.suffix in {".rs", ".py"}:
        text = p.read_text(encoding="utf-8")
        known |= set(re.findall(r"\b(?:fn|mod|def|class)\s+(\w+)", text))
        for literal in re.findall(r'"([\w/{}.:*-]{3,80})"', text):
            known |= set(re.split(r"[/:]+", literal))

missing = []
for number, line in enumerate((root / "docs/coverage.md").read_text(encoding="utf-8").splitlines(), 1):
    if not line.startswith("| ") or line.startswith("| ---"):
        continue
    shown = re.split(r"(?<!\\)\|", line.strip().strip("|"))[-1]
    for quoted in re.findall(r"`([^`]+)`", shown):
        if " " in quoted or "=" in quoted or quoted.startswith(("-", "/", "$")) or quoted.isupper() or "_" in quoted and quoted.upper() == quoted:
            continue  # a command or a variable
        for part in re.split(r"::|/", re.sub(r"\{[^}]*\}", "*", quoted)):
            pattern = part.strip("-!()")
            if pattern.strip("*") and not (pattern in known or "*" in pattern and fnmatch.filter(known, pattern)):
                missing.append(f"docs/coverage.md:{number}: {quoted}")
                break
print("\n".join(missing) or "docs/coverage.md: every test that it names exists")
sys.exit(bool(missing))
