#!/usr/bin/env python3
"""Removes the checks of src/load and src/table, one at a time, and prints for each whether a test detects the removal.

    c10d-privateuse/tests/mutants.py [FILE ...]     all files of the two folders unless given

To remove a check means: the condition of an `if` before a refusal becomes false, or a function that a table must have
counts as present. This takes minutes for each file, since everything is built again for each check. The sources are
restored at the end, also after ctrl-C.
"""

import pathlib
import re
import subprocess
import sys

HOME = pathlib.Path(__file__).resolve().parents[1]
TESTS = ["cargo", "test", "--offline", "-p", "c10d-privateuse", "--lib", "--test", "main"]
FILTER = ["--", "load::", "table::", "corpus::"]
CONDITION = re.compile(r"(\s*(?:\} else )?if )(.+)( \{)$")
NEEDED = re.compile(r'\s*\("[^"]+", .*is_some\(\)')
TOGETHER = re.compile(r"\s*d\.(\w+)\.is_some\(\),$")


def mutants(lines):
    """Yields the number of each line to change, and the changed line."""
    for i, line in enumerate(lines):
        if "#[cfg(test)]" in line:
            return
        refuses = any(word in " ".join(lines[i + 1 : i + 3]) for word in ("Err(", "foreign("))
        if (found := CONDITION.match(line)) and refuses:
            before, condition, after = found.groups()
            held = condition if "let " in condition else f"({condition})"
            yield i, f"{before}false && {held}{after}"
        elif NEEDED.match(line):
            yield i, re.sub(r"\b[cd]\.\w+\.is_some\(\)", "true", line)
        elif found := TOGETHER.match(line):
            # The function counts as present if the function beside it in the list is present.
            other = TOGETHER.match(lines[i + 1]) or TOGETHER.match(lines[i - 1])
            yield i, line.replace(found[1], other[1])


def detected():
    """Returns whether the tests fail with the changed source, or None if it does not build."""
    if subprocess.run([*TESTS, "--no-run"], capture_output=True, cwd=HOME).returncode:
        return None
    try:
        return subprocess.run([*TESTS, *FILTER], capture_output=True, cwd=HOME, timeout=300).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def main():
    files = [pathlib.Path(f).resolve() for f in sys.argv[1:]] or [
        file for folder in ("load", "table") for file in sorted((HOME / "src" / folder).rglob("*.rs"))
    ]
    if detected() is not False:
        sys.exit("the tests fail although no check is removed")
    survivors = 0
    for file in files:
        text = file.read_text()
        lines = text.split("\n")
        try:
            for i, changed in mutants(lines):
                file.write_text("\n".join([*lines[:i], changed, *lines[i + 1 :]]))
                verdict = {None: "does not build", True: "detected", False: "NOT DETECTED"}[detected()]
                survivors += verdict == "NOT DETECTED"
                print(f"{file.relative_to(HOME)}:{i + 1}: {verdict}: {lines[i].strip()}", flush=True)
        finally:
            file.write_text(text)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
