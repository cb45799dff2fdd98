#!/usr/bin/env python3
"""Fails if a module imports from a higher floor than its own.

`FLOORS` has the top-level modules of each crate in a fixed order, lowest first. The script follows every `use`,
`crate::`, `super::` and `self::` path of a file through re-exports to the module that has the item. Tests may import
from every module, so tests are not checked.

`FLOORS` can also name a folder inside a crate. Then each file of the folder has its own floor. `mod` is the folder's
`mod.rs`. `*` is the floor of all modules that the list does not name.

    .ci/floors.py            checks all crates and folders
    .ci/floors.py --print    also shows which module imports from which
"""

import os
import re
import sys

FLOORS = {
    "c10d-core": "sync types reduce catalog options text library resource error panics process shm host cores waiting store buffer device call op dlpack backend calls dispatch staged tiered group",
    "c10d-rendezvous": "log file_store tcp_store init launch provider",
    "c10d-rendezvous/src/launch": "report requests guardian lines output signals options input child supervisor nodes environment "
    "job mod",
    "c10d-rendezvous/src/launch/nodes": "id link watch listener mod",
    "c10d-rendezvous/src/launch/supervisor": "mod ending start",
    "c10d-rendezvous/src/tcp_store": "limits options signals protocol quota keyspace connection event_loop server link resolve "
    "client requests verbs mod",
    "c10d-gloo-like": "exit call_log shm tcp link mesh pause plan exec schedule model layout collectives p2p backend provider",
    "c10d-gloo-like/src/mesh": "wire netlink addr host topology wiring handshake doing revoke control claims answer chains "
    "verdict socket accept hello watch connection health local dial join mod",
    "c10d-gloo-like/src/mesh/health": "peers own call_logs mod failure lost calls doubt query reach remind leave listener",
    "c10d-gloo-like/src/shm": "copy bell cursors slots peer_memory segment core_pair lent doorbell ring mailbox multicast link mod",
    "c10d-gloo-like/src/exec": "reduction announce memory notes executor failure exchange steps wait mod",
    "c10d-gloo-like/src/p2p": "message ticket peer live state waits mod settle at_once",
    "c10d-gloo-like/src/schedule": "tuned member hosts blocks direct algorithm * mod table tuning_file selection",
    "c10d-core/src/shm": "credentials headroom memfd sealed window inbox",
    "c10d-core/src/reduce": "half operation f16c bf16c bf16 element run mod",
    "c10d-gloo-like/src/model": "cluster scenario bounds plans graph event mod",
    "c10d-gloo-like/src/tcp": "queue socket link mod",
    "c10d-mpi": "mpi health pmi room card world header pause task ledger memory exchange messages ops backend provider",
    "c10d-mpi/src/mpi": "types mapped search library environment api requests",
    "c10d-mpi/src/pmi": "mapping wire serve",
    "c10d-mpi/src/messages": "posted endpoint outgoing incoming transfers mod",
    "c10d-nccl": "jobs dialect nccl bootstrap kernels cuda types task check communicator scratch ops channel "
    "engine deadline_watch start backend sparse provider slices",
    "c10d-nccl/src/cuda": "api default_index failure ledger available functions hold relaxed work_stream driver reduce mod",
    "c10d-nccl/src/kernels": "mod reduce sparse",
    "c10d-nccl/src/nccl": "search types api failure library real mod",
    "c10d-nccl/src/sparse": "form bench worker steps entries run mod",
    "c10d-sparse": "bits memory value keys split union fold coalesce known meta run kernel provider",
    "c10d-cli": "say store perf plugins run info",
    "c10d-cli/src/perf": "compute measure ops point sample check layout memory args report plot case sparse rank tune simulate mod",
    "c10d-cli/src/plugins": "mod failures round_trip row child check suite",
    "c10d-privateuse": "abi export refusal table host load provider",
    "c10d-privateuse/src/export": "catch store rows reporter work exported watched group collectives device entry",
    "c10d-privateuse/src/table": "mappings memory offer mod",
    "c10d-privateuse/src/host": "timed_call token stores owners plugin functions answer device loaded lend request clock queues "
    "group groups operation slots overdue done give submit listen make backend provider",
    "c10d-privateuse/src/load": "elf filter trust open report loaded search",
}

ITEM = re.compile(r"(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"\b(?:crate|super|self)(?:::\w+)+")
COMMENT = re.compile(r"//[^\n]*")
# The path in `pub(in path)` does not count as an import.
VISIBLE = re.compile(r"pub\(in [^)]*\)")
TESTS = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:mod \w+ \{.*|(?:pub(?:\([^)]*\))? )?(?:mod|use) [^;]*;)", re.S)


def leaves(tree):
    """Returns the paths of a `use` tree."""
    tree = tree.strip()
    group = re.match(r"^(.*?)\{(.*)\}$", tree, re.S)
    if not group:
        return [re.sub(r"\s+as\s+\w+", "", tree).strip()]
    parts, depth, part = [], 0, ""
    for char in group[2]:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += char
    parts.append(part)
    return [path for part in parts if part.strip() for path in leaves(group[1] + part.strip())]


class Crate:
    def __init__(self, root):
        self.text, self.exports = {}, {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), root)
                if path.endswith(".rs") and not re.search(r"(^|/|_)tests?(/|\.rs|_)", path):
                    with open(os.path.join(root, path)) as file:
                        text = VISIBLE.sub("pub", COMMENT.sub("", file.read()))
                        self.text[self.module(path)] = TESTS.sub("", text)
        for module, text in self.text.items():
            for public, tree in ITEM.findall(text):
                for path in leaves(tree) if public else []:
                    self.exports[module, path.split("::")[-1].strip()] = path

    @staticmethod
    def module(path):
        parts = path[:-3].split("/")
        return tuple(parts[:-1] if parts[-1] in ("mod", "lib", "main") else parts)

    def find(self, module, path, depth=0):
        """Returns the module that has the item at this path, seen from `module`; None if another crate has it."""
        parts = [part.strip() for part in path.split("::")]
        if parts[0] == "crate":
            at, parts = (), parts[1:]
        elif parts[0] == "self":
            at, parts = module, parts[1:]
        elif parts[0] == "super":
            at = module
            while parts and parts[0] == "super":
                at, parts = at[:-1], parts[1:]
        elif module + (parts[0],) in self.text or (module, parts[0]) in self.exports:
            at = module
        else:
            return None
        while parts:
            if at + (parts[0],) in self.text:
                at, parts = at + (parts[0],), parts[1:]
                continue
            export = self.exports.get((at, parts[0]))
            if export and depth < 9 and not (at == module and export == path):
                return self.find(at, export, depth + 1) or at
            break
        return at

    def imports(self, folder):
        """Yields every import between two floors of a folder.

        Each import is (module, floor of this module, imported module, floor of the imported module, path).
        """

        def floor(module):
            return module[len(folder)] if len(module) > len(folder) else "mod"

        for module, text in sorted(self.text.items()):
            if module[: len(folder)] != folder or not module:
                continue
            # A re-export in the folder's `mod.rs` does not count as an import.
            paths = [path for public, tree in ITEM.findall(text) if module != folder or not public for path in leaves(tree)]
            paths += PATH.findall(ITEM.sub("", text))
            for path in sorted(set(paths)):
                found = self.find(module, path)
                if found and found[: len(folder)] == folder and floor(found) != floor(module):
                    yield module, floor(module), found, floor(found), path


def height(order, module):
    return order.index(module if module in order else "*")


def main():
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    wrong = 0
    for place, floors in FLOORS.items():
        order, (crate, *folder) = floors.split(), place.split("/")
        modules = Crate(os.path.join(here, crate, "src"))
        for module, mine, found, theirs, path in modules.imports(tuple(folder[1:])):
            name = "::".join(module)
            if "--print" in sys.argv:
                print(f"{place}: {name} -> {'::'.join(found)}")
            unknown = [floor for floor in (mine, theirs) if floor not in order and "*" not in order]
            if unknown:
                print(f"{place}: {unknown[0]} has no floor: add it to .ci/floors.py")
                wrong += 1
            elif height(order, theirs) > height(order, mine):
                print(f"{place}: {name} imports {path}, and {theirs} is a higher floor than {mine}")
                wrong += 1
    if wrong:
        sys.exit(f"{wrong} imports are wrong")


main()
