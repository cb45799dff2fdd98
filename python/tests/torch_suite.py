"""Runs PyTorch's own tests of a backend with c10d_rs in place of Gloo.

    python python/tests/torch_suite.py --world 3              every test
    python python/tests/torch_suite.py --world 2 -k all_reduce
    python python/tests/torch_suite.py --backend gloo ..      the same with Gloo, to compare

The name of the backend is replaced in the source of PyTorch's tests when the source is imported. The installed PyTorch
is not changed.
"""

import importlib.abc
import importlib.util
import os
import sys
import tempfile
import unittest

NAME = "torch.testing._internal.distributed.distributed_test"
# Tests that fail for a reason that is no defect of the backend, with the reason.
EXCEPTED = {
    "test_ddp_logging_data_cpu": "PyTorch calls every plugin `custom` in DDP's logging data",
}


class _Source(importlib.abc.SourceLoader):
    def __init__(self, path):
        self.path = path

    def get_filename(self, name):
        return self.path

    def get_data(self, path):
        with open(path, "rb") as file:
            text = file.read()
        # PyTorch runs its tests of all_to_all on CPU tensors only with MPI. Here they run with every backend.
        pairs = [(b'BACKEND != "mpi", "Only MPI', b'False, "Only MPI')]
        if os.environ["BACKEND"] != "gloo":
            pairs += [(b'"gloo"', b'"c10d_rs"'), (b"Backend.GLOO", b"Backend.C10D_RS")]
        for old, new in pairs:
            assert old in text, f"{NAME} has no {old!r}"
            text = text.replace(old, new)
        return text


def _names_replaced():
    if NAME in sys.modules:
        return
    from torch.testing._internal.common_distributed import DistTestCases

    # c10d_rs is added to PyTorch's lists of backends that have a feature, such as DDP.
    for able in DistTestCases.backend_feature.values():
        if "gloo" in able:
            able.add("c10d_rs")
    spec = importlib.util.find_spec(NAME)
    loader = _Source(spec.origin)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(NAME, loader, origin=spec.origin))
    sys.modules[NAME] = module
    loader.exec_module(module)


def _arguments():
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--backend", default="c10d_rs")
    parser.add_argument("-k", action="append", default=[], help="only tests whose names contain this")
    parser.add_argument("--only", default=None, help="a file with names of tests, one a line")
    return parser.parse_args()


if __name__ == "__main__":
    args = _arguments()
    holder = tempfile.TemporaryDirectory(prefix="c10d_rs-suite-")
    folder = holder.name
    os.environ.update(BACKEND=args.backend, WORLD_SIZE=str(args.world), TEMP_DIR=folder)
    os.environ["INIT_METHOD"] = "file://" + os.path.join(folder, "shared_init_file")
    for sub in ("barrier", "test_dir"):
        os.makedirs(os.path.join(folder, sub))

import torch

import c10d_rs

_names_replaced()

from torch.testing._internal.distributed.distributed_test import DistributedTest, TestDistBackend


class TestBackend(TestDistBackend, DistributedTest._DistTestBase):
    def setUp(self):
        super().setUp()
        # The ranks are forked, so that they do not import PyTorch again.
        self._start_processes(torch.multiprocessing.get_context("fork").Process)


# A test runner that loads all test classes of this module must not find the base class.
del TestDistBackend


def main():
    names = unittest.TestLoader().getTestCaseNames(TestBackend)
    if args.only:
        with open(args.only) as file:
            wanted = {line.split("#")[0].strip() for line in file}
        names = [n for n in names if n in wanted]
    names = [n for n in names if all(k in n for k in args.k)]
    suite = unittest.TestSuite(TestBackend(n) for n in names if not (n in EXCEPTED and args.backend != "gloo"))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    for name, why in EXCEPTED.items():
        print(f"excepted: {name}: {why}")
    bad = [case.id().rsplit(".", 1)[-1] for case, _ in result.failures + result.errors]
    print(f"{result.testsRun} run, {len(result.skipped)} skipped, failed: {bad}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
