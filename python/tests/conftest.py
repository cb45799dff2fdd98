import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
# The fork server, too, imports modules of this folder.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes long; not part of CI")
    # The shim is built here, so that the build does not count towards the time limit of the first test.
    from c10d_rs import _build

    if os.environ.get("C10D_RS_SHIM", "1") not in ("0", "off"):
        _build.build(lambda words: print(f"c10d_rs: {words}", file=sys.stderr))
